#!/usr/bin/env bash
# Every test of banger, in order of cost; all of them run even when one fails.
#
#   scripts/test.sh [STEP…]      all steps, or these: fmt shell scripts clippy repo deny unit doc kernel product boot
#
# A test that cannot run on this machine says SKIP and is counted at the end. BANGER_TEST_REQUIRE, a comma-separated
# list of the names in crates/testkit/src/requirements.rs, makes such a skip a failure.
set -uo pipefail

# A background job of a script starts with INT and QUIT ignored, and what is ignored stays so in every child. Tests send
# these signals on purpose, so they begin with the default ones wherever this was started from.
if [ -z "${BANGER_TEST_SIGNALS:-}" ]; then
  exec env --default-signal=HUP,INT,QUIT,TERM BANGER_TEST_SIGNALS=default bash "$0" "$@"
fi

cd "$(dirname "$0")/.." || exit

all_steps=(fmt shell scripts clippy release repo deny unit doc kernel product boot)
if [ $# -gt 0 ]; then steps=("$@"); else steps=("${all_steps[@]}"); fi

BANGER_TEST_SKIPS=$(mktemp)
export BANGER_TEST_SKIPS
trap 'rm -f "$BANGER_TEST_SKIPS"' EXIT

export CARGO_TERM_PROGRESS_WHEN=never

step_fmt() { cargo fmt --all --check; }
step_shell() {
  local scripts
  mapfile -t scripts < <(git ls-files --cached --others --exclude-standard '*.sh' .ci/run)
  shellcheck --severity=warning "${scripts[@]}"
}
step_scripts() { bash scripts/tests/run.sh; }
step_clippy() { cargo clippy --workspace --all-targets --quiet -- -D warnings; }
# What users run is built without debug assertions, and some of its code is other code. Only this workspace's crates are
# checked once more, not what they depend on.
step_release() {
  local crate without=()
  for crate in $(sed -n 's/^name = "\(banger-[a-z-]*\)"$/\1/p' crates/*/Cargo.toml); do
    without+=(--config "profile.dev.package.$crate.debug-assertions=false")
  done
  cargo clippy "${without[@]}" --workspace --lib --bins --quiet -- -D warnings
}
step_repo() { cargo run --quiet -p xtask -- check-repo; }
step_deny() {
  local tool
  tool=$(scripts/cargo-deny.sh) && "$tool" --log-level warn check --hide-inclusion-graph licenses bans sources
}
step_unit() { cargo test --workspace --exclude banger-testkit --lib --bins --tests --no-fail-fast --quiet; }
step_doc() { cargo test --workspace --doc --quiet; }
# Minutes when the cache is empty; done before tests that wait for machines share the processors with it.
step_kernel() { ! scripts/cached-kernel.sh --check || scripts/cached-kernel.sh; }
step_product() { built && cargo test -p banger-testkit --no-fail-fast --quiet --lib --bins --test product; }
step_boot() { built && cargo test -p banger-testkit --quiet --test boot; }

built() {
  if [ -z "${BANGER_BIN_DIR:-}" ]; then
    BANGER_BIN_DIR=$(realpath "$(scripts/build.sh dev)") || return
    export BANGER_BIN_DIR
  fi
}

failed=()
report=()
for step in "${steps[@]}"; do
  if ! declare -F "step_$step" >/dev/null; then
    printf 'unknown step %s; steps: %s\n' "$step" "${all_steps[*]}" >&2
    exit 2
  fi
  printf '\n== %s\n' "$step"
  started=$SECONDS
  if "step_$step"; then verdict=ok; else
    verdict=FAILED
    failed+=("$step")
  fi
  report+=("$(printf '%-8s %-6s %5d s' "$step" "$verdict" $((SECONDS - started)))")
done

printf '\n== summary\n'
printf '%s\n' "${report[@]}"
printf 'skipped  %d\n' "$(wc -l <"$BANGER_TEST_SKIPS")"
sed 's/^/  /' "$BANGER_TEST_SKIPS"
if [ ${#failed[@]} -gt 0 ]; then
  printf 'FAILED: %s\n' "${failed[*]}"
  exit 1
fi
printf 'all passed in %d s\n' "$SECONDS"
