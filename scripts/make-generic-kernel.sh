#!/usr/bin/env bash
# Builds generic-6.12, the quickest kernel for banger's guests: everything they need built in, no modules, no initrd.
#
#   scripts/make-generic-kernel.sh                      the pinned upstream release, its PGP signature checked
#   scripts/make-generic-kernel.sh --release 6.12.N     another release of the same line
#   scripts/make-generic-kernel.sh --apt                the distribution's linux-source-6.12, which apt has verified
#   scripts/make-generic-kernel.sh --auto               the pinned release where kernel.org is within reach, else --apt
#   scripts/make-generic-kernel.sh --source TARBALL     a local source tarball, NOT verified
#     --signature FILE   with --source: TARBALL is an upstream release and FILE its signature; checked like a download
#     --keyring-dir DIR  take the signers' public keys from DIR (*.asc, *.gpg) instead of asking kernel.org
#     --out DIR          where vmlinux and its config go (default build/manual/generic-kernel)
#     --jobs N           compilers at once (default: one per processor)
#     --keep             leave the build tree beside the result
#
# What is in the kernel is decided by configs/generic-x86_64-6.12.config alone; what comes out is a directory that
# `banger kernel import generic-6.12 --from build/manual/generic-kernel --distro generic` takes. The same source,
# configuration and compiler give the same bytes.
set -euo pipefail

cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib/release-signature.sh
. scripts/lib/release-signature.sh
# shellcheck source=scripts/lib/kernel-config.sh
. scripts/lib/kernel-config.sh

readonly family=6.12
readonly config=configs/generic-x86_64-6.12.config
readonly upstream=https://cdn.kernel.org/pub/linux/kernel/v6.x
# The keys that sign kernel releases, by the fingerprints kernel.org publishes. There is deliberately no way to name
# others from outside: a key ring says where keys are, only these lines say which count.
readonly signers=(
  647F28654894E3BD457199BE38DBBDC86092693E # Greg Kroah-Hartman
  ABAF11C65A2970B130ABE3C479BE3E4300411886 # Linus Torvalds
  E27E5D8A3403A2EF66873BBCDEA66FF797772CDC # Sasha Levin
)
# Where their keys are looked up (Web Key Directory) when no --keyring-dir is given.
readonly signer_addresses=(gregkh@kernel.org torvalds@kernel.org sashal@kernel.org)
# A release tarball has some 150 MB.
readonly max_download=$((400 << 20))

# An interrupted step's output goes to a log; what the clean-up says should not.
exec {talk}>&2
say() { printf 'generic kernel: %s\n' "$*" >&"$talk"; }
die() {
  say "error: $1"
  shift
  for hint in "$@"; do say "  $hint"; done
  exit 1
}
usage() {
  sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//;p}' "$0"
}

release=6.12.117
from=upstream
source=
signature=
keyring_dir=
out=build/manual/generic-kernel
jobs=$(nproc)
keep=false
release_given=false
while [ $# -gt 0 ]; do
  case $1 in
    --release | --source | --signature | --keyring-dir | --out | --jobs)
      { [ $# -ge 2 ] && [ -n "$2" ]; } || die "$1 needs a value" "see: $0 --help"
      ;;
  esac
  case $1 in
    --release) release=$2 release_given=true && shift ;;
    --apt) from=apt ;;
    --auto) from=auto ;;
    --source) from=file source=$2 && shift ;;
    --signature) signature=$2 && shift ;;
    --keyring-dir) keyring_dir=$2 && shift ;;
    --out) out=$2 && shift ;;
    --jobs) jobs=$2 && shift ;;
    --keep) keep=true ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) die "unknown argument $1" "see: $0 --help" ;;
  esac
  shift
done
[[ $release =~ ^6\.12(\.[0-9]+)?$ ]] || die "release $release is not of the $family line" "give one: --release $family.N"
[[ $jobs =~ ^[1-9][0-9]*$ ]] || die "--jobs $jobs is not a number of compilers"
[ -z "$signature" ] || [ "$from" = file ] || die "--signature goes with --source"
! $release_given || [ "$from" = upstream ] || [ -n "$signature" ] || die "--release says which upstream release is meant; this source has its own"
[ "$(uname -m)" = x86_64 ] || die "this builds an x86_64 kernel and $(uname -m) is something else" "run it on an x86_64 machine"

# Only a server out of reach decides for apt: a release that is not there, or a bad signature, never does.
if [ "$from" = auto ]; then
  command -v curl >/dev/null || die "curl is missing, which looks whether kernel.org can be reached" \
    "run: sudo apt-get install curl; or take the distribution's source: --apt"
  answer=$(curl --silent --head --location --proto '=https' --max-time 30 --output /dev/null --write-out '%{http_code}' \
    -- "$upstream/linux-$release.tar.sign" 2>/dev/null) || true
  case $answer in
    2??) from=upstream ;;
    404 | 410)
      die "kernel.org has no release $release ($upstream/linux-$release.tar.sign: HTTP $answer)" \
        "another one: --release $family.N; the distribution's source: --apt"
      ;;
    '' | 000)
      say "kernel.org does not answer here: taking the distribution's source"
      from=apt
      ;;
    *)
      say "kernel.org answers HTTP $answer here: taking the distribution's source"
      from=apt
      ;;
  esac
fi

# Program (or header) and the Debian package that brings it, for this way of building only.
needs=(gcc:gcc make:make flex:flex bison:bison bc:bc ld:binutils perl:perl tar:tar gzip:gzip xz:xz-utils)
[ "$from" = upstream ] && needs+=(curl:curl)
[ "$from" = upstream ] || [ -n "$signature" ] && needs+=(gpg:gpg)
[ "$from" = upstream ] && [ -z "$keyring_dir" ] && needs+=(dirmngr:dirmngr)
[ "$from" = apt ] && needs+=(apt-get:apt dpkg-deb:dpkg)
missing=()
for need in "${needs[@]}"; do
  command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
for need in gelf.h:libelf-dev openssl/ssl.h:libssl-dev; do
  printf '#include <%s>\n' "${need%%:*}" | gcc -E -x c - >/dev/null 2>&1 || missing+=("${need##*:}")
done
[ ${#missing[@]} -eq 0 ] ||
  die "these packages are missing: ${missing[*]}" "run: sudo apt-get install --no-install-recommends ${missing[*]}"

out=$(realpath --canonicalize-missing "$out")
[[ $out != *[[:space:]:]* ]] || die "the kernel cannot be built below a path with blanks or colons: $out" "give another: --out DIR"
mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$(dirname "$out")/.generic-kernel-XXXXXX")
clean_up() {
  if [ -d "$work/gnupg" ]; then
    # dirmngr, if gpg started one for this key ring.
    gpgconf --homedir "$work/gnupg" --kill all >/dev/null 2>&1 || true
  fi
  if $keep; then say "the build tree stays in $work"; else rm -rf -- "$work"; fi
}
trap clean_up EXIT
mkdir "$work/source" "$work/build"
mkdir -m 700 "$work/gnupg"

fetch_keys() {
  if [ -n "$keyring_dir" ]; then
    [ -d "$keyring_dir" ] || die "there is no directory $keyring_dir" "put the signers' public keys there as *.asc"
    import_keys "$work/gnupg" "$keyring_dir" || exit 1
  else
    say "asking kernel.org for the signers' keys"
    isolated_gpg "$work/gnupg" --auto-key-locate clear,nodefault,wkd --locate-external-keys "${signer_addresses[@]}" \
      >/dev/null 2>"$work/keys.log" ||
      say "not every key could be fetched: $(tail -n 1 "$work/keys.log")"
  fi
}

# Downloads one file whole, or nothing.
download() {
  say "downloading $1"
  curl --fail --silent --show-error --location --proto '=https' --proto-redir '=https' --retry 3 \
    --connect-timeout 30 --speed-limit 1000 --speed-time 60 --max-filesize "$max_download" --output "$2" -- "$1" ||
    die "cannot download $1" "without a way to kernel.org: --apt, or --source TARBALL" \
      "with the two files at hand: --source TARBALL --signature FILE --keyring-dir DIR"
}

# A verified upstream release, unpacked.
unpack_signed() {
  fetch_keys
  say "checking the PGP signature of linux-$release"
  unpack_release "$work/gnupg" "$1" "$2" "linux-$release" "$work/source" "${signers[@]}" ||
    die "the signature of linux-$release is not good; nothing was unpacked and nothing will be built"
}

# A source nobody's key of ours has signed, unpacked; the last arguments say what is known about it.
unpack_unsigned() {
  local known
  say "############################################################################"
  say "## NO PGP CHECK WAS MADE: this is not the signed tarball from kernel.org."
  for known in "${@:2}"; do say "## $known"; done
  say "############################################################################"
  decompress "$1" >"$work/source.tar" || die "cannot decompress $1" "is it a whole .tar.xz?"
  unpack_tar "$work/source.tar" "$work/source" || die "cannot unpack $1" "is it a kernel source tarball?"
  rm -f "$work/source.tar"
}

case $from in
  upstream)
    download "$upstream/linux-$release.tar.xz" "$work/linux.tar.xz"
    download "$upstream/linux-$release.tar.sign" "$work/linux.tar.sign"
    unpack_signed "$work/linux.tar.xz" "$work/linux.tar.sign"
    ;;
  file)
    [ -f "$source" ] || die "there is no file $source" "with apt: --apt"
    if [ -n "$signature" ]; then
      if ! $release_given; then
        # The file's name says which release is meant; the signed content has to agree.
        release=$(basename "$source" | sed -n 's/^linux-\(6\.12\(\.[0-9]*\)\{0,1\}\)\.tar.*/\1/p')
        [ -n "$release" ] || die "cannot tell which release $source is" "say it: --release $family.N"
      fi
      unpack_signed "$source" "$signature"
    else
      unpack_unsigned "$source" "Whether $source is what it should be is up to you." "sha256: $(sha256sum <"$source" | cut -d' ' -f1)"
    fi
    ;;
  apt)
    say "fetching linux-source-$family with apt"
    mkdir "$work/deb"
    (cd "$work/deb" && apt-get -q download "linux-source-$family") >"$work/apt.log" 2>&1 ||
      die "apt cannot fetch linux-source-$family: $(grep -m1 '^E:' "$work/apt.log" || tail -n 1 "$work/apt.log")" \
        "run: sudo apt-get update (Debian 12 has it in bookworm-security)"
    packages=("$work"/deb/linux-source-*.deb)
    dpkg-deb --extract "${packages[0]}" "$work/deb/tree" || die "cannot unpack ${packages[0]##*/}"
    tarballs=("$work"/deb/tree/usr/src/linux-source-*.tar.xz)
    unpack_unsigned "${tarballs[0]}" "It is the distribution's ${packages[0]##*/}," \
      "authenticated by apt (the archive's Release signature) and patched by the distribution."
    rm -rf -- "$work/deb"
    ;;
esac

makefile_value() { sed -n "s/^$1 = *//p" "$work/source/Makefile" 2>/dev/null | head -n 1; }
version=$(makefile_value VERSION).$(makefile_value PATCHLEVEL)
[ "$version" = "$family" ] ||
  die "this is the source of Linux $version, and $config is for $family" "use a source of the $family line"

# Nothing of this machine or this minute goes into the kernel.
export KBUILD_BUILD_USER=banger KBUILD_BUILD_HOST=banger KBUILD_BUILD_VERSION=1 LC_ALL=C TZ=UTC
KBUILD_BUILD_TIMESTAMP=$(date --utc --date="@$(stat --format=%Y "$work/source/Makefile")")
export KBUILD_BUILD_TIMESTAMP
unset MAKEFLAGS KCONFIG_CONFIG KCFLAGS ARCH CROSS_COMPILE
kbuild() { make --silent --directory "$work/source" O="$work/build" "$@"; }

say "configuring"
if ! (cd "$work/source" && scripts/kconfig/merge_config.sh -n -O "$work/build" "$OLDPWD/$config") >"$work/config.log" 2>&1 ||
  ! kbuild olddefconfig >>"$work/config.log" 2>&1; then
  tail -n 20 "$work/config.log" >&2
  die "the kernel's own configuration step failed"
fi
if ! dropped=$(missing_options "$config" "$work/build/.config"); then
  die "the kernel did not take these options of $config:" "$dropped" \
    "an option was renamed, or needs another one that is off: look it up in the source's Kconfig files and mend the file"
fi

say "building $(kbuild -s kernelrelease) with $jobs at once (some 1,500 files)"
if ! kbuild --jobs="$jobs" vmlinux >"$work/build.log" 2>&1; then
  tail -n 30 "$work/build.log" >&2
  keep=true
  die "the build failed" "the whole log: $work/build.log"
fi

# Symbols are for debuggers; no VMM reads them.
strip --strip-all -o "$work/vmlinux" "$work/build/vmlinux"
readelf --notes "$work/vmlinux" 2>/dev/null | grep -q 'Xen .*0x00000012' ||
  die "the kernel has no PVH entry note, so QEMU could not start it" "is CONFIG_PVH=y still in $config?"

mkdir -p "$out"
install -m 644 "$work/build/.config" "$out/.config.new"
mv -f "$out/.config.new" "$out/config"
install -m 644 "$work/vmlinux" "$out/.vmlinux.new"
mv -f "$out/.vmlinux.new" "$out/vmlinux"
say "done: $out/vmlinux, $(stat --format=%s "$out/vmlinux") bytes, $(kbuild -s kernelrelease)"
say "next: banger kernel import generic-$family --from ${out#"$PWD/"} --distro generic"
