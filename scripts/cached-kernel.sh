#!/usr/bin/env bash
# Prints a directory with generic-6.12 (vmlinux and config) for tests and benchmarks; builds it when the cache has none.
#
#   scripts/cached-kernel.sh            from the cache, else built from the distribution's source, which takes minutes
#   scripts/cached-kernel.sh --check    only says, by its status, whether that can work on this machine
#
# The cache is ~/.cache/banger-tests/generic-kernel (or $XDG_CACHE_HOME/banger-tests/…), one directory for each state of
# configuration, build script with all it sources, and compiler. A patch release of the distribution's source alone is no reason to build.
set -euo pipefail

cd "$(dirname "$0")/.."

cache=${XDG_CACHE_HOME:-$HOME/.cache}/banger-tests/generic-kernel
# Kernels of other states that are kept beside the current one.
readonly kept=1

mapfile -t sourced < <(sed -n 's/^\. \(.*\)$/\1/p' scripts/make-generic-kernel.sh)
key=$({
  cat configs/generic-x86_64-6.12.config scripts/make-generic-kernel.sh "${sourced[@]}"
  gcc -dumpfullversion 2>/dev/null || true
} | sha256sum | cut -c1-16)
kernel=$cache/$key

if [ "${1:-}" = --check ]; then
  [ ! -f "$kernel/vmlinux" ] || exit 0
  for program in gcc make flex bison bc apt-get dpkg-deb; do
    command -v "$program" >/dev/null || {
      printf 'no kernel in the cache, and none can be built: %s is not installed\n' "$program" >&2
      exit 1
    }
  done
  exit 0
fi

if [ ! -f "$kernel/vmlinux" ]; then
  mkdir -p "$cache"
  # Who comes second waits and finds it.
  exec {lock}>"$cache/lock"
  flock "$lock"
  # Of one that was killed: whoever has the lock is the only one at work.
  rm -rf -- "$cache"/.new-*
  if [ ! -f "$kernel/vmlinux" ]; then
    new=$(mktemp -d "$cache/.new-XXXXXX")
    trap 'rm -rf -- "$new"' EXIT
    # What the build starts has no use for the lock, and must not keep it.
    scripts/make-generic-kernel.sh --apt --out "$new/kernel" >&2 {lock}>&-
    rm -rf -- "$kernel"
    mv -- "$new/kernel" "$kernel"
    mapfile -t old < <(find "$cache" -mindepth 1 -maxdepth 1 -type d -regex '.*/[0-9a-f]*' ! -name "$key" -printf '%T@ %p\n' |
      sort -rn | tail -n "+$((kept + 1))" | cut -d' ' -f2-)
    [ ${#old[@]} -eq 0 ] || rm -rf -- "${old[@]}"
  fi
fi
printf '%s\n' "$kernel"
