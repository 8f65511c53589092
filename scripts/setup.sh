#!/usr/bin/env bash
# Installs what banger needs on Debian 12 (or a relative) and is not there yet; safe to run again.
#
#   scripts/setup.sh           what building and running banger needs
#   scripts/setup.sh --test    and what its tests need
#
# Decides nothing about banger itself: it asks dpkg what is missing, installs that with one apt-get call, and checks
# the Rust toolchain and the user's subordinate ids, which it never changes.
set -euo pipefail

cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
  say "error: $1"
  shift
  for line in "$@"; do say "  $line"; done
  exit 1
}

# One row per package: who calls it.
packages=(
  ca-certificates  # the build fetches crates over TLS
  gcc libc6-dev    # linker; C parts of SQLite, zstd and xz; libc.a for the static agent
  make git         # this file's caller; rules of the repository
  qemu-system-x86  # the virtual machine monitor
  mmdebstrap       # default image from the host's own apt sources
  uidmap           # lets mmdebstrap work without root
  kmod             # depmod: module dependencies of a distribution kernel
  nftables passt   # rules around guests, and their way out
  e2fsprogs        # mkfs.ext4 for work disks; e2fsck in tests
  openssh-client   # vm ssh; the keys of VMs
)
test_packages=(
  rsync                                       # one of the clients that reach a VM over ssh; the benchmark
  util-linux                                  # setsid, mount, unshare
  iproute2 socat dnsmasq-base                 # networks in namespaces, and what the network is measured against
  systemd                                     # systemd-analyze judges the units of the whole-machine mode
  shellcheck                                  # the scripts
  docker-registry skopeo umoci                # a real registry, and what images are compared with
  isal                                        # igzip, which the benchmark of pulls is told against
  gnupg rclone curl jq zstd xz-utils python3  # what the maintainer scripts call, and a server for them
  flex bison bc perl libelf-dev libssl-dev    # building a kernel
  openssl                                     # authorities for registries that tests bring up
  gzip bzip2 lz4                              # with zstd and xz-utils above: what kernel images are packed with
)

case ${1:-} in
  "") ;;
  --test) packages+=("${test_packages[@]}") ;;
  *)
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "missing packages, and neither root nor sudo to install them" "run as root: $*"
  fi
}

install_packages() {
  { command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; } ||
    die "no apt-get here: this script knows Debian and its relatives" "install by hand: ${packages[*]}"
  local missing=() package
  for package in "${packages[@]}"; do
    installed "$package" || missing+=("$package")
  done
  if [ ${#missing[@]} -eq 0 ]; then
    say "system packages: all there"
    return
  fi
  say "system packages: installing ${missing[*]}"
  local log
  log=$(mktemp)
  # Sources that have nothing to do with these packages may be unreachable: the install decides.
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update </dev/null >"$log" 2>&1 ||
    say "apt-get update was not clean; going on with what it has"
  if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends \
    -o Dpkg::Use-Pty=0 install "${missing[@]}" </dev/null >>"$log" 2>&1; then
    tail -n 30 "$log" >&2
    die "apt-get could not install ${missing[*]}" "the whole log: $log"
  fi
  rm -f "$log"
  say "system packages: installed"
}

check_rust() {
  local wanted have
  wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
  command -v cargo >/dev/null || [ ! -x "$HOME/.cargo/bin/cargo" ] ||
    die "cargo is installed but not on the PATH" "run: . \"\$HOME/.cargo/env\""
  { command -v cargo >/dev/null && command -v rustc >/dev/null; } ||
    die "no Rust toolchain (banger needs $wanted or newer; Debian 12's own is too old)" \
      "get one: https://rustup.rs (the stable toolchain with its default components)"
  have=$(rustc --version | cut -d' ' -f2)
  [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n1)" = "$wanted" ] ||
    die "Rust $have is too old: banger needs $wanted or newer" "run: rustup update stable"
  say "Rust toolchain: $have"
}

# mmdebstrap maps 65,536 ids when it does not run as root.
check_subids() {
  [ "$(id -u)" -ne 0 ] || return 0
  local user file
  user=$(id -un)
  for file in /etc/subuid /etc/subgid; do
    if ! awk -F: -v user="$user" -v uid="$(id -u)" \
      '($1 == user || $1 == uid) && $3 >= 65536 { found = 1 } END { exit !found }' "$file" 2>/dev/null; then
      say "note: $user has no 65,536 subordinate ids in $file; pulling the default image needs them"
      say "  run: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $user"
      return 0
    fi
  done
}

install_packages
check_rust
check_subids
