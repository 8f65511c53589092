#!/usr/bin/env bash
# The build script around the compiler: a source tree of four small files stands in for the kernel's, and goes through
# the real script with real make, gcc and binutils. (The real kernel is built by `make kernel`.)
# shellcheck source=scripts/tests/harness.sh
. "$(dirname "$0")/harness.sh"
require gcc make flex bison bc perl xz tar readelf gpg dpkg-deb
[ "$(uname -m)" = x86_64 ] || skip 'builds for x86_64 only'
for header in gelf.h openssl/ssl.h; do
  printf '#include <%s>\n' "$header" | gcc -E -x c - >/dev/null 2>&1 || skip "needs $header"
done

script=$repo/scripts/make-generic-kernel.sh
fragment=$repo/configs/generic-x86_64-6.12.config
out=$tmp/build/generic-kernel

# --- a kernel source in miniature ----------------------------------------------------------------------------------

# tarball NAME [SED-SCRIPT [FILE]]: packs the tree, after an edit of one file.
tarball() {
  local tree=$tmp/source/linux-source-6.12
  rm -rf -- "$tmp/source"
  mkdir -p "$tree/scripts/kconfig"
  cat >"$tree/Makefile" <<'MAKEFILE'
VERSION = 6
PATCHLEVEL = 12
SUBLEVEL = 117
vmlinux: ; @gcc -nostdlib -static -Wl,-e,0 -o $(O)/vmlinux -DWHEN='"$(KBUILD_BUILD_USER) $(KBUILD_BUILD_TIMESTAMP)"' -x c kernel.c
olddefconfig: ; @true
kernelrelease: ; @echo 6.12.117
.PHONY: vmlinux olddefconfig kernelrelease
MAKEFILE
  cat >"$tree/kernel.c" <<'C'
__asm__(".section .note.Xen,\"a\"\n.long 4,8,18\n.asciz \"Xen\"\n.quad 0x1000000\n");
const char banner[] = "Linux version 6.12.117 " WHEN;
const char *start(void) { return banner; }
C
  cat >"$tree/scripts/kconfig/merge_config.sh" <<'MERGE'
#!/bin/sh
# merge_config.sh -n -O BUILD FRAGMENT
cp "$4" "$3/.config"
MERGE
  chmod +x "$tree/scripts/kconfig/merge_config.sh"
  [ $# -lt 2 ] || sed -i "$2" "$tree/${3:-Makefile}"
  find "$tree" -exec touch -d @1750000000 {} +
  tar -C "$tmp/source" -cJf "$tmp/$1.tar.xz" linux-source-6.12
}
build() { "$script" --out "$out" --jobs 1 "$@"; }
nothing_left() { [ -z "$(find "$tmp/build" -mindepth 1 2>/dev/null)" ]; }

tarball plain
passes 'a build from a local source' build --source "$tmp/plain.tar.xz"
verdict 'says loudly that nobody checked it' grep -q '## NO PGP CHECK WAS MADE' "$tmp/stderr"
verdict 'and which bytes those were' grep -qF "sha256: $(sha256sum <"$tmp/plain.tar.xz" | cut -d' ' -f1)" "$tmp/stderr"
verdict 'leaves exactly vmlinux and its configuration' [ "$(find "$tmp/build" -mindepth 1 -printf '%P ' | tr ' ' '\n' | sort | xargs)" = 'generic-kernel generic-kernel/config generic-kernel/vmlinux' ]
verdict 'the configuration is ours' cmp "$out/config" "$fragment"
verdict 'vmlinux has no symbols left' [ -z "$(nm "$out/vmlinux" 2>/dev/null)" ]
verdict 'vmlinux knows the source'\''s time, not ours' grep -qaF 'banger Sun Jun 15 15:06:40 UTC 2025' "$out/vmlinux"
verdict 'the next command is said' grep -qF 'banger kernel import generic-6.12 --from' "$tmp/stderr"
cp "$out/vmlinux" "$tmp/first"
passes 'a second build' env KBUILD_BUILD_USER=me KBUILD_BUILD_TIMESTAMP=now LC_ALL=C.UTF-8 TZ=Asia/Tokyo MAKEFLAGS=-k "$script" --out "$out" --source "$tmp/plain.tar.xz"
verdict 'makes the same bytes' cmp "$out/vmlinux" "$tmp/first"

rm -rf -- "$tmp/build"
# stops NAME TEXT ARGUMENT…: and leaves nothing behind.
stops() {
  refuses "$1" "$2" build "${@:3}"
  verdict "$1 (leaves nothing)" nothing_left
}
# shellcheck disable=SC2016 # the words are sed's, and the script's that it changes
tarball dropped 's/^cp .*/grep -v -e ^CONFIG_PVH= -e ^CONFIG_VETH= "$4" >"$3\/.config"/' scripts/kconfig/merge_config.sh
stops 'options Kconfig dropped' 'CONFIG_VETH: asked for y, got off' --source "$tmp/dropped.tar.xz"
verdict 'all of them are named' grep -qF 'CONFIG_PVH: asked for y, got off' "$tmp/stderr"
tarball other 's/^PATCHLEVEL = 12/PATCHLEVEL = 13/'
stops 'another line' 'the source of Linux 6.13' --source "$tmp/other.tar.xz"
tarball entryless 's/\.long 4,8,18/.long 4,8,19/' kernel.c
stops 'a kernel without a PVH entry' 'no PVH entry note' --source "$tmp/entryless.tar.xz"
tarball unconfigurable 's/^cp .*/echo "no such symbol"; exit 1/' scripts/kconfig/merge_config.sh
stops 'a failing configuration' 'configuration step failed' --source "$tmp/unconfigurable.tar.xz"
verdict 'its last words are shown' grep -q 'no such symbol' "$tmp/stderr"
stops 'a source that is not there' 'there is no file' --source "$tmp/none.tar.xz"
printf 'not a tarball' >"$tmp/garbage.tar.xz"
stops 'garbage' 'cannot decompress' --source "$tmp/garbage.tar.xz"
mkdir "$tmp/keys" && : >"$tmp/keys/none.asc"
stops 'a named signature that is not there' 'there is no signature' --source "$tmp/plain.tar.xz" --release 6.12.117 --signature "$tmp/none.sign" --keyring-dir "$tmp/keys"
tarball broken 's/return banner/return baner/' kernel.c
refuses 'a failing compiler' 'the build failed' build --source "$tmp/broken.tar.xz"
verdict 'shows the error' grep -q 'baner' "$tmp/stderr"
verdict 'and keeps the tree it happened in' [ -f "$(sed -n 's/.*the whole log: //p' "$tmp/stderr")" ]
rm -rf -- "$tmp/build"

# Interrupted in the middle of the compiler, as by Ctrl-C: the whole group gets the signal.
tarball endless "s|^vmlinux: ;.*|vmlinux: ; @echo compiling >$tmp/compiling; exec sleep 1000|"
mkfifo "$tmp/compiling"
setsid "$script" --out "$out" --source "$tmp/endless.tar.xz" >"$tmp/stdout" 2>"$tmp/stderr" &
group=$!
read -r -t 60 _ <>"$tmp/compiling"
kill -TERM -- "-$group"
status=0
wait "$group" || status=$?
verdict 'an interrupted build ends' [ "$status" -eq 143 ]
verdict 'an interrupted build leaves nothing' nothing_left

# --- where the source comes from: a curl and an apt-get that give what the test put there --------------------------

mkdir -p "$tmp/fakes" "$tmp/package/DEBIAN" "$tmp/package/usr/src"
printf 'Package: linux-source-6.12\nVersion: 6.12.117-1\nArchitecture: all\nMaintainer: nobody\nDescription: x\n' >"$tmp/package/DEBIAN/control"
cp "$tmp/plain.tar.xz" "$tmp/package/usr/src/linux-source-6.12.tar.xz"
dpkg-deb --build "$tmp/package" "$tmp/linux-source-6.12_6.12.117-1_all.deb" >/dev/null
cat >"$tmp/fakes/apt-get" <<'APT'
#!/bin/sh
[ "$*" = '-q download linux-source-6.12' ] && [ -n "$FAKE_DEB" ] && cp "$FAKE_DEB" . && exit
echo 'E: Unable to locate package linux-source-6.12' >&2
exit 100
APT
cat >"$tmp/fakes/curl" <<'CURL'
#!/bin/sh
# Answers from $FAKE_SITE, a directory, or with a status if it is a number; refuses to connect without either.
code=000 fail=
for url; do case $1 in --output) out=$2 ;; --write-out) said=$2 ;; --fail) fail=yes ;; esac; shift; done
case $FAKE_SITE in
  '') status=7 ;;
  [0-9][0-9][0-9]) code=$FAKE_SITE status=0 ;;
  *) case $url in https://cdn.kernel.org/*) cp "$FAKE_SITE/${url##*/}" "$out" 2>/dev/null && code=200 || code=404 ;; *) exit 3 ;; esac ;;
esac
[ "${said:-}" != '%{http_code}' ] || printf %s "$code"
[ -z "$fail" ] || case $code in 000 | 2??) ;; *) exit 22 ;; esac
exit "${status:-0}"
CURL
chmod +x "$tmp/fakes/apt-get" "$tmp/fakes/curl"
# with FAKE_DEB FAKE_SITE ARGUMENT…
with() { env "PATH=$tmp/fakes:$PATH" "FAKE_DEB=$1" "FAKE_SITE=$2" "$script" --out "$out" --jobs 1 "${@:3}"; }
deb=$tmp/linux-source-6.12_6.12.117-1_all.deb

passes 'the distribution'\''s source' with "$deb" '' --apt
verdict 'is the same kernel' cmp "$out/vmlinux" "$tmp/first"
verdict 'says who vouches for it' grep -q '## authenticated by apt' "$tmp/stderr"
verdict 'and that we do not' grep -q '## NO PGP CHECK WAS MADE' "$tmp/stderr"
rm -rf -- "$tmp/build"
passes 'upstream out of reach' with "$deb" '' --auto
verdict 'falls back to the distribution, and says so' grep -q "kernel.org does not answer" "$tmp/stderr"
rm -rf -- "$tmp/build"
refuses 'neither within reach' 'Unable to locate package' with '' '' --auto
passes 'a proxy that lets nobody through' with "$deb" 403 --auto
verdict 'falls back too, and says with which answer' grep -q "kernel.org answers HTTP 403 here" "$tmp/stderr"
rm -rf -- "$tmp/build"
refuses 'a release that kernel.org does not have' 'kernel.org has no release 6.12.117' with "$deb" 404 --auto
verdict 'is no reason for another source' [ "$(grep -c 'with apt' "$tmp/stderr")" -eq 0 ]
verdict 'and leaves nothing' nothing_left
mkdir "$tmp/few"
ln -s /usr/bin/* "$tmp/few/"
rm "$tmp/few/curl"
refuses 'a host that cannot ask' 'curl is missing' env "PATH=$tmp/few" "$script" --out "$out" --jobs 1 --auto
verdict 'is told what helps' grep -q 'apt-get install curl' "$tmp/stderr"
refuses 'upstream asked for and out of reach' 'cannot download' with "$deb" '' --release 6.12.9

# The server answers, with something that none of the three signed: no way around that.
mkdir "$tmp/site"
cp "$tmp/plain.tar.xz" "$tmp/site/linux-6.12.117.tar.xz"
printf 'no signature' >"$tmp/site/linux-6.12.117.tar.sign"
refuses 'a bad upstream signature' 'nothing will be built' with "$deb" "$tmp/site" --auto --keyring-dir "$tmp/keys"
verdict 'does not fall back' [ "$(grep -c 'with apt' "$tmp/stderr")" -eq 0 ]
verdict 'leaves nothing' nothing_left
rm "$tmp/site/linux-6.12.117.tar.sign"
refuses 'an upstream release without signature' 'cannot download' with "$deb" "$tmp/site" --keyring-dir "$tmp/keys"
verdict 'leaves nothing either' nothing_left

# --- wrong usage stops before anything is made ---------------------------------------------------------------------

stops 'another line by name' 'not of the 6.12 line' --release 6.13.1
stops 'a path for a release' 'not of the 6.12 line' --release 6.12.1/../../x
stops 'an option without its value' '--source needs a value' --source
stops 'an unknown argument' 'unknown argument --frobnicate' --frobnicate
stops 'a signature without a source' 'goes with --source' --signature "$tmp/first"
stops 'no number of jobs' 'not a number' --jobs many --source "$tmp/plain.tar.xz"
refuses 'a path the kernel cannot be built in' 'blanks or colons' "$script" --out "$tmp/a b/out" --source "$tmp/plain.tar.xz"

# --- missing programs are named by their package -------------------------------------------------------------------

mkdir "$tmp/bin"
for program in bash dirname env sed uname nproc gcc make perl tar gzip xz ld bc; do
  ln -s "$(command -v "$program")" "$tmp/bin/$program"
done
refuses 'without flex and bison' 'sudo apt-get install --no-install-recommends flex bison' env "PATH=$tmp/bin" "$(command -v bash)" "$script" --source "$tmp/plain.tar.xz"
