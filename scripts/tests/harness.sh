# shellcheck shell=bash
# What the test files share. Sourced first; gives each of them a temporary directory of its own, an empty environment of
# user settings, and a verdict at the end.
set -uo pipefail

# shellcheck disable=SC2034 # for the test files
repo=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
suite=$(basename "$0" .test.sh)
tmp=$(mktemp -d)
export HOME=$tmp/home
mkdir "$HOME"
: >"$tmp/stdout"
: >"$tmp/stderr"
unset BANGER_HOME XDG_STATE_HOME XDG_CONFIG_HOME BANGER_KERNELS_DIR BASE_URL RCLONE_REMOTE RCLONE_BUCKET GNUPGHOME
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY all_proxy
passed=0
failures=0

finish() {
  local status=$? job
  for job in $(jobs -p); do kill "$job" 2>/dev/null; done
  rm -rf -- "$tmp"
  [ "$status" -eq 0 ] || [ "$failures" -gt 0 ] || failures=1
  printf '%-20s %d passed, %d failed\n' "$suite" "$passed" "$failures"
  [ "$failures" -eq 0 ] || exit 1
}
trap finish EXIT

# Ends the file as skipped, loudly; a failure when this host is said to have what the scripts need.
skip() {
  local line="SKIP scripts/$suite: $1"
  printf '%s\n' "$line" >&2
  case ",${BANGER_TEST_REQUIRE:-}," in
    *,scripts,*)
      printf '%s: BANGER_TEST_REQUIRE says this host has what the scripts need\n' "$suite" >&2
      failures=1
      ;;
    *) [ -z "${BANGER_TEST_SKIPS:-}" ] || printf '%s\n' "$line" >>"$BANGER_TEST_SKIPS" ;;
  esac
  exit
}

# Skips the file unless all these programs are there.
require() {
  local program absent=()
  for program in "$@"; do command -v "$program" >/dev/null || absent+=("$program"); done
  [ ${#absent[@]} -eq 0 ] || skip "needs ${absent[*]}"
}

# Runs a command; its status, stdout and stderr are in $status, $tmp/stdout and $tmp/stderr.
run() {
  status=0
  "$@" >"$tmp/stdout" 2>"$tmp/stderr" </dev/null || status=$?
}

# verdict NAME CONDITION…: counts, and shows what the last run said when the condition is false.
verdict() {
  local name=$1
  shift
  if "$@"; then
    passed=$((passed + 1))
  else
    failures=$((failures + 1))
    printf 'FAIL %s: %s\n  not true: %s\n' "$suite" "$name" "$*" >&2
    sed 's/^/  stdout: /' "$tmp/stdout" >&2
    sed 's/^/  stderr: /' "$tmp/stderr" >&2
  fi
}

# passes NAME COMMAND…
passes() {
  run "${@:2}"
  verdict "$1" [ "$status" -eq 0 ]
}

# refuses NAME TEXT COMMAND…: the command fails and its stderr has the text.
refuses() {
  run "${@:3}"
  verdict "$1 (fails)" [ "$status" -ne 0 ]
  verdict "$1 (says why)" grep -qF -- "$2" "$tmp/stderr"
}

absent() { [ ! -e "$1" ]; }
