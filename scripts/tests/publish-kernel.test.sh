#!/usr/bin/env bash
# Publishing, end to end: real rclone into a directory that a real HTTP server on loopback shows to the public.
# shellcheck source=scripts/tests/harness.sh
. "$(dirname "$0")/harness.sh"
require jq zstd tar rclone curl flock python3

# shellcheck source=scripts/lib/kernel-entry.sh
. "$repo/scripts/lib/kernel-entry.sh"

# --- a place to publish to -----------------------------------------------------------------------------------------

mkdir -p "$tmp/public/bucket"
# Says its port once it listens; the log shows what was asked for.
mkfifo "$tmp/port"
python3 -u - "$tmp/public" >"$tmp/port" 2>"$tmp/requests" <<'SERVER' &
import functools, http.server, sys
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
print(server.server_address[1], flush=True)
server.serve_forever()
SERVER
port=
read -r -t 60 port <"$tmp/port"
[ -n "$port" ] || {
  sed 's/^/  server: /' "$tmp/requests" >&2
  exit 1
}

export RCLONE_CONFIG=$tmp/rclone.conf
printf '[shop]\ntype = alias\nremote = %s\n' "$tmp/public" >"$RCLONE_CONFIG"
export RCLONE_REMOTE=shop RCLONE_BUCKET=bucket BASE_URL=http://127.0.0.1:$port/bucket
export BANGER_KERNELS_DIR=$tmp/kernels
file=generic-6.12-x86_64.tar.zst
bundle=$tmp/public/bucket/$file
catalog=$tmp/catalog.json

# --- an imported kernel --------------------------------------------------------------------------------------------

entry=$BANGER_KERNELS_DIR/generic-6.12
# manifest DIRECTORY [JQ-FILTER]: writes it from what is there, as an import does.
manifest() {
  jq --null-input --arg sha256 "$(sha256sum <"$1/vmlinux" | cut -d' ' -f1)" --arg tree "$(tree_sha256 "$1")" \
    '{name: "generic-6.12", distro: "generic", arch: "x86_64", kernel_version: "6.12.117", sha256: $sha256,
      tree_sha256: $tree, source: {type: "directory", path: "/secret/path"}, imported_at: "2026-11-23T14:45:23Z",
      boot_modules: [], boots: {pvh: true, acpi: true, mmio_cmdline: true}} | '"${2:-.}" >"$1/manifest.json"
}
import() {
  rm -rf -- "$entry"
  mkdir -p "$entry"
  printf '\177ELF kernel %s' "${1:-one}" >"$entry/vmlinux"
  chmod 755 "$entry/vmlinux"
  manifest "$entry"
}
fresh() {
  rm -rf -- "$tmp/public/bucket"
  mkdir "$tmp/public/bucket"
  printf '{"version": 1, "entries": [\n{"name": "debian-6.1", "distro": "debian", "arch": "x86_64", "kernel_version": "6.1", "description": "Debian", "sources": [{"type": "apt", "package": "linux-image-cloud-amd64", "kernel": "6.1"}]}]}\n' >"$catalog"
  cp "$catalog" "$tmp/catalog.before"
}
publish() { "$repo/scripts/publish-kernel.sh" generic-6.12 --catalog "$catalog" --description 'Small and quick' "$@"; }
# As `publish`, but without a description of its own.
publish_again() { "$repo/scripts/publish-kernel.sh" generic-6.12 --catalog "$catalog"; }
in_catalog() { jq --exit-status "$1" "$catalog" >/dev/null; }
untouched() { cmp "$catalog" "$tmp/catalog.before" && [ -z "$(find "$tmp" -maxdepth 1 -name '.kernels-*')" ]; }
members() { tar --list --verbose --numeric-owner --utc --full-time --file "$1" --zstd; }
mine='.entries[] | select(.name == "generic-6.12")'

import && fresh
passes 'a first publication' publish
verdict 'the bundle is there' [ -f "$bundle" ]
verdict 'the catalog names it' in_catalog "$mine | . == {name: \"generic-6.12\", distro: \"generic\", arch: \"x86_64\",
  kernel_version: \"6.12.117\", description: \"Small and quick\", sources: [{type: \"bundle\",
  url: \"$BASE_URL/$file\", sha256: \"$(sha256sum <"$bundle" | cut -d' ' -f1)\", size: $(stat --format=%s "$bundle")}]}"
verdict 'other entries are as they were' in_catalog '.version == 1 and (.entries | length) == 2 and .entries[0].sources[0].package == "linux-image-cloud-amd64"'
verdict "the content is at the root, of nobody and of no time" \
  [ "$(members "$bundle" | tr -s " ")" = "-rw-r--r-- 0/0 $(stat --format=%s "$entry/vmlinux") 1970-01-01 00:00:00 vmlinux" ]
verdict 'nothing of this host is in it' [ "$(tar -tf "$bundle" --zstd)" = vmlinux ]
verdict 'the public was asked for size and content' grep -q 'HEAD /bucket' "$tmp/requests"
verdict 'no temporary file is left' [ -z "$(find "$tmp" -maxdepth 1 -name '.kernels-*')" ]

# --- again ---------------------------------------------------------------------------------------------------------

cp "$bundle" "$tmp/first.tar.zst" && cp "$catalog" "$tmp/catalog.first"
touch "$entry/vmlinux" && chmod 600 "$entry/vmlinux"
rm "$bundle"
passes 'a second run' publish_again
verdict 'makes the same bytes' cmp "$bundle" "$tmp/first.tar.zst"
verdict 'and the same catalog' cmp "$catalog" "$tmp/catalog.first"
touch -d @1 "$bundle"
passes 'a third run' publish_again
verdict 'uploads nothing' [ "$(stat --format=%Y "$bundle")" = 1 ]

import two
unset BASE_URL
passes 'a patch release, by the place of the bundle it replaces' publish_again
export BASE_URL=http://127.0.0.1:$port/bucket
verdict 'keeps name and description and replaces the bundle' in_catalog "[$mine] | length == 1 and .[0].description == \"Small and quick\"
  and (.[0].sources | length) == 1 and .[0].sources[0].sha256 == \"$(sha256sum <"$bundle" | cut -d' ' -f1)\""
jq '.entries[1].sources = [{type: "apt", package: "p1", kernel: "6.12"}] + .entries[1].sources + [{type: "later"}]' "$catalog" >"$catalog.new" && mv "$catalog.new" "$catalog"
import three
passes 'an entry with other sources' publish_again
verdict 'keeps them and their order' in_catalog "$mine | [.sources[].type] == [\"apt\", \"bundle\", \"later\"]"

# --- a tree with modules -------------------------------------------------------------------------------------------

import modular
mkdir -p "$entry/modules/kernel/b" "$entry/modules/kernel-b"
printf 'module x' >"$entry/modules/kernel/b/x.ko"
printf 'module y' >"$entry/modules/kernel-b/y.ko"
printf 'with blank' >"$entry/modules/a b.ko"
ln -s b/x.ko "$entry/modules/kernel/link"
printf 'image' >"$entry/modules.ext4"
printf 'initrd' >"$entry/initrd.img"
# Computed here the way crates/artifacts/src/kernel/tree.rs defines it, by other means than the script's.
expected=$(python3 - "$entry" <<'HASH'
import hashlib, os, sys
root, total = sys.argv[1].encode(), hashlib.sha256()
def line(kind, content, path): total.update(kind + b" " + content + b" " + path + b"\0")
def visit(path):
    full = os.path.join(root, path)
    if os.path.islink(full): line(b"l", os.readlink(full), path)
    elif os.path.isdir(full):
        line(b"d", b"", path)
        for name in sorted(os.listdir(full)): visit(os.path.join(path, name))
    else: line(b"f", hashlib.sha256(open(full, "rb").read()).hexdigest().encode(), path)
for part in (b"vmlinux", b"initrd.img", b"modules"): visit(part)
print(total.hexdigest())
HASH
)
verdict 'the tree hash is the one manifests carry' [ "$(tree_sha256 "$entry")" = "$expected" ]
manifest "$entry"
passes 'a kernel with modules and initrd' publish
verdict 'exactly its parts are packed' [ "$(tar -tf "$bundle" --zstd | tr '\n' ' ')" = 'vmlinux initrd.img modules/ modules/a b.ko modules/kernel/ modules/kernel/b/ modules/kernel/b/x.ko modules/kernel/link modules/kernel-b/ modules/kernel-b/y.ko ' ]
passes 'packing only' "$repo/scripts/publish-kernel.sh" generic-6.12 --pack-only "$tmp/packed.tar.zst"
verdict 'gives the published bytes' cmp "$tmp/packed.tar.zst" "$bundle"

# --- kernels that are not published --------------------------------------------------------------------------------

# refused NAME TEXT [COMMAND…]: and neither bucket nor catalog has changed.
refused() {
  fresh
  refuses "$1" "$2" "${@:3}"
  verdict "$1 (uploads nothing)" [ -z "$(ls -A "$tmp/public/bucket")" ]
  verdict "$1 (leaves the catalog)" untouched
}
printf x >>"$entry/modules/kernel/b/x.ko"
refused 'a changed module' 'modified after its import: the tree' publish
import && printf x >>"$entry/vmlinux"
refused 'a changed vmlinux' 'modified after its import: vmlinux' publish
import && printf x >"$entry/initrd.img"
refused 'an initrd that was added' 'modified after its import: the tree' publish
import && printf x >"$entry/modules.ext4" && manifest "$entry" '.modules_image_sha256 = ("0" * 64)'
refused 'a changed image of the modules' 'modified after its import: modules.ext4' publish
import && printf x >"$entry/modules.ext4"
refused 'an image of modules beside a kernel without any' 'modified after its import: modules.ext4' publish
import && printf x >"$entry/modules.ext4" &&
  manifest "$entry" ".modules_image_sha256 = \"$(sha256sum <"$entry/modules.ext4" | cut -d' ' -f1)\""
refused 'a manifest whose own hash was taken out' 'modified after its import: manifest.json' publish
# seal: gives the manifest the hash over itself that an import writes.
seal() {
  jq --arg hash "$(manifest_sha256 "$entry/manifest.json")" '. + {manifest_sha256: $hash}' "$entry/manifest.json" >"$tmp/sealed"
  mv "$tmp/sealed" "$entry/manifest.json"
}
import && seal
passes 'a manifest with its hash' publish
import && seal && sed -i 's/"acpi": true/"acpi": false/' "$entry/manifest.json"
refused 'a changed manifest' 'modified after its import: manifest.json' publish
import && mkdir "$entry/modules" && ln -s /etc/passwd "$entry/modules/out" && manifest "$entry"
refused 'an absolute link' 'modules/out is an absolute symbolic link' publish
rm "$entry/modules/out" && ln -s ../vmlinux "$entry/modules/out" && manifest "$entry"
refused 'a link out of modules/' 'modules/out leads out of modules/' publish
rm "$entry/modules/out" && ln -s nowhere "$entry/modules/out" && manifest "$entry"
refused 'a link to nothing' 'modules/out leads to nothing' publish
rm "$entry/modules/out" && mkfifo "$entry/modules/pipe" && manifest "$entry"
refused 'a fifo' 'modules/pipe is neither' publish
import && manifest "$entry" '.name = "generic-6.13"'
refused 'the manifest of another kernel' 'about another kernel' publish
import && manifest "$entry" '.kernel_version = "6.13.1"'
refused 'a kernel of another line than its name says' 'the kernel says 6.13.1' publish
import && manifest "$entry" 'del(.tree_sha256)'
refused 'a manifest without hashes' 'no usable .tree_sha256' publish
import && rm "$entry/manifest.json"
refused 'a kernel that is not there' 'there is no kernel generic-6.12' publish
for name in ../x generic generic-6 -x 'generic-6.12;x'; do
  refused "the name $name" 'error:' "$repo/scripts/publish-kernel.sh" "$name" --catalog "$catalog"
done

# Replaced between the look at it and the packing: a tar that changes a module first.
import && mkdir "$entry/modules" && printf 'module x' >"$entry/modules/x.ko" && manifest "$entry"
mkdir "$tmp/meddling"
cat >"$tmp/meddling/tar" <<TAR
#!/bin/sh
[ "\$1" != --create ] || printf y >"$entry/modules/x.ko"
exec $(command -v tar) "\$@"
TAR
chmod +x "$tmp/meddling/tar"
PATH=$tmp/meddling:$PATH refused 'a module that changes while it is packed' 'changed while it was packed' publish

# --- places that do not work ---------------------------------------------------------------------------------------

import
refused 'a new entry without a description' 'needs a description' publish_again
refused 'a description of two lines' 'control characters' publish --description $'a\nb'
refused 'a plain http address' 'neither https://' env BASE_URL=http://kernels.example.org "$repo/scripts/publish-kernel.sh" generic-6.12 --catalog "$catalog" --description x
refused 'a host that only begins like loopback' 'neither https://' env BASE_URL=http://127.0.0.1.example.org/x "$repo/scripts/publish-kernel.sh" generic-6.12 --catalog "$catalog" --description x
unset BASE_URL
refused 'no address at all' 'BASE_URL=https://' publish
export BASE_URL=http://127.0.0.1:$port/bucket
RCLONE_REMOTE=nowhere refused 'an unknown remote' 'rclone could not upload' publish
printf '{"version": 2, "entries": []}' >"$tmp/newer.json"
refuses 'a catalog of another version' 'no kernel catalog of version 1' publish --catalog "$tmp/newer.json"
fresh
BASE_URL=http://127.0.0.1:$port/elsewhere refuses 'an address that shows another place' 'does not answer' publish
verdict 'leaves the catalog (another place)' untouched
# A stale copy in front of the bucket: same size, other bytes; then another size.
publish --pack-only "$tmp/packed.tar.zst" 2>/dev/null
mkdir -p "$tmp/public/stale"
tr '\000-\377' '\001-\377\000' <"$tmp/packed.tar.zst" >"$tmp/public/stale/$file"
BASE_URL=http://127.0.0.1:$port/stale refuses 'other bytes of the same size' 'gives other bytes' publish
verdict 'leaves the catalog (other bytes)' untouched
printf 'short' >"$tmp/public/stale/$file"
BASE_URL=http://127.0.0.1:$port/stale refuses 'another size' 'has 5 bytes, not' publish
verdict 'leaves the catalog (another size)' untouched

# --- killed while it patches the catalog ---------------------------------------------------------------------------

# killer PROGRAM [BEFORE]: a PROGRAM that kills the script that calls it, when it is the one of the last step.
killer() {
  mkdir -p "$tmp/killing"
  rm -f -- "$tmp/killing"/*
  cat >"$tmp/killing/$1" <<KILLER
#!/bin/sh
case "\$*" in
  *.kernels-*|--indent*) ${2:-:}; kill -KILL \$PPID ;;
  *) exec $(command -v "$1") "\$@" ;;
esac
KILLER
  chmod +x "$tmp/killing/$1"
}
killed() { PATH=$tmp/killing:$PATH publish; }
for step in 'jq echo {"version":' 'chmod' 'sync' 'mv'; do
  import && fresh
  killer "${step%% *}" "$(case $step in *' '*) printf "printf '%%s' '%s'" "${step#* echo }" ;; esac)"
  run killed
  verdict "killed at ${step%% *}" [ "$status" -eq 137 ]
  verdict "killed at ${step%% *} (leaves the catalog)" cmp "$catalog" "$tmp/catalog.before"
  passes "again after ${step%% *}" publish
  verdict "again after ${step%% *} (writes it)" in_catalog "$mine | .description == \"Small and quick\""
  verdict "again after ${step%% *} (clears up)" [ -z "$(find "$tmp" -maxdepth 1 -name '.kernels-*')" ]
done

# Whoever reads meanwhile reads the old one or the new one: it is replaced, and never written to.
import && fresh
exec {old}<"$catalog"
passes 'a publication that somebody reads the catalog during' publish
verdict 'the file that was open is as it was' cmp - "$tmp/catalog.before" <&"$old"
verdict 'the name leads to another' in_catalog "$mine | .name"
exec {old}<&-

# --- two at once ---------------------------------------------------------------------------------------------------

fresh && import
mkdir -p "$BANGER_KERNELS_DIR/other-6.12"
printf '\177ELF other' >"$BANGER_KERNELS_DIR/other-6.12/vmlinux"
manifest "$BANGER_KERNELS_DIR/other-6.12" '.name = "other-6.12"'
publish 2>"$tmp/one" &
one=$!
passes 'a publication beside another' "$repo/scripts/publish-kernel.sh" other-6.12 --catalog "$catalog" --description 'Another'
wait "$one" || cat "$tmp/one" >&2
verdict 'both are in the catalog' in_catalog '[.entries[].name] | sort == ["debian-6.1", "generic-6.12", "other-6.12"]'
