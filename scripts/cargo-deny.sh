#!/usr/bin/env bash
# Prints the path of cargo-deny in the version the tests use; builds it into the user's cache when it is not there.
set -euo pipefail

version=0.20.2
root=${XDG_CACHE_HOME:-$HOME/.cache}/banger-tests/cargo-deny-$version

if [ ! -x "$root/bin/cargo-deny" ]; then
  printf 'building cargo-deny %s, once (about two minutes)\n' "$version" >&2
  build=$(mktemp -d)
  trap 'rm -rf "$build"' EXIT
  CARGO_TARGET_DIR=$build cargo install cargo-deny --version "$version" --locked --no-default-features \
    --quiet --root "$root" >&2
fi
printf '%s\n' "$root/bin/cargo-deny"
