#!/usr/bin/env bash
# The main job, once: boots a microVM, runs `uname -a` in it, and says the guest command's exit status.
#
#   scripts/run.sh BIN_DIR
set -euo pipefail

banger=${1:?usage: scripts/run.sh BIN_DIR}/banger

# A daemon of an older build makes way for this one; VMs keep running.
"$banger" daemon stop >/dev/null 2>&1 || true

printf '+ banger vm run --rm -- uname -a\n' >&2
status=0
"$banger" vm run --rm -- uname -a || status=$?
printf 'exit status of the guest command: %s\n' "$status"
exit "$status"
