#!/usr/bin/env bash
# Tests of the maintainer scripts: every scripts/tests/*.test.sh, or those named.
#
#   scripts/tests/run.sh [NAME…]        NAME: publish-kernel for scripts/tests/publish-kernel.test.sh
#
# A test file that needs a program this machine lacks says SKIP and leaves a line in $BANGER_TEST_SKIPS; when
# BANGER_TEST_REQUIRE lists `scripts`, that is a failure.
set -uo pipefail

cd "$(dirname "$0")" || exit
if [ $# -gt 0 ]; then files=("${@/%/.test.sh}"); else files=(*.test.sh); fi
failed=()
for file in "${files[@]}"; do
  bash "$file" || failed+=("$file")
done
[ ${#failed[@]} -eq 0 ] || {
  printf 'FAILED: %s\n' "${failed[*]}" >&2
  exit 1
}
