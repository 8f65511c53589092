#!/usr/bin/env bash
# Builds every program of banger into one directory, where they find each other.
#
#   scripts/build.sh release   → target/dist/release: banger bangerd bangerd-root banger-shim banger-vsock-agent
#   scripts/build.sh dev       → target/dist/dev: the same with debug checks, and the fake programs of the tests
#
# The agent is always a release build, and static: it is what the guest boots with, whatever the image holds.
# Prints the directory on stdout.
set -euo pipefail

cd "$(dirname "$0")/.."

profile=${1:-release}
target=${CARGO_TARGET_DIR:-target}
agent_target=x86_64-unknown-linux-gnu
programs=(banger bangerd bangerd-root banger-shim)

case $profile in
  release)
    built=$target/release
    cargo build --release -p banger-cli -p banger-daemon -p banger-machine -p banger-root-helper >&2
    ;;
  dev)
    built=$target/debug
    programs+=(fake-qemu fake-firecracker hostile-agent probe-confinement)
    cargo build -p banger-cli -p banger-daemon -p banger-machine -p banger-root-helper -p banger-testkit --bins >&2
    ;;
  *)
    printf 'usage: %s [release|dev]\n' "$0" >&2
    exit 2
    ;;
esac

# An explicit --target keeps build scripts and procedural macros dynamic.
RUSTFLAGS="-C target-feature=+crt-static" \
  cargo build --release -p banger-vsock-agent --target "$agent_target" >&2

out=$target/dist/$profile
mkdir -p "$out"
for program in "${programs[@]/#/$built/}" "$target/$agent_target/release/banger-vsock-agent"; do
  # Renamed into place: a program that runs keeps the file it started from.
  install -m 755 "$program" "$out/.new"
  mv -f "$out/.new" "$out/${program##*/}"
done
printf '%s\n' "$out"
