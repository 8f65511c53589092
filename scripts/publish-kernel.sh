#!/usr/bin/env bash
# Publishes an imported kernel: packs it, uploads it, checks what the public sees, and writes it into the catalog.
#
#   scripts/publish-kernel.sh NAME [--description TEXT] [--catalog FILE] [--pack-only FILE]
#     --description TEXT   for a person choosing; kept from the catalog when absent, needed for a new entry
#     --catalog FILE       default crates/artifacts/catalogs/kernels.json, which is compiled into banger
#     --pack-only FILE     write the bundle to FILE and stop: no upload, no catalog
#
# Environment:
#   RCLONE_REMOTE        rclone remote that takes uploads (default banger-kernels; a name from `rclone listremotes`)
#   RCLONE_BUCKET        bucket or directory there (default banger-kernels)
#   BASE_URL             where the public finds the bucket's content: https://…, or http:// to a loopback address
#                        (default: where the catalog's other bundles are)
#   BANGER_KERNELS_DIR   banger's kernels on this host (default: where banger keeps them)
#
# A step that fails leaves the catalog as it was; running it again is safe, and uploads nothing the public has already.
set -euo pipefail

repo=$(realpath "$(dirname "$0")/..")
# shellcheck source=scripts/lib/kernel-entry.sh
. "$repo/scripts/lib/kernel-entry.sh"

# What `banger kernel pull` takes at most.
readonly max_bundle=$((1 << 30))

say() { printf 'publish kernel: %s\n' "$*" >&2; }
die() {
  say "error: $1"
  shift
  for hint in "$@"; do say "  $hint"; done
  exit 1
}
usage() {
  sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//;p}' "$0"
}

name=
description=
catalog=$repo/crates/artifacts/catalogs/kernels.json
pack_only=
while [ $# -gt 0 ]; do
  case $1 in
    --description | --catalog | --pack-only) { [ $# -ge 2 ] && [ -n "$2" ]; } || die "$1 needs a value" "see: $0 --help" ;;
  esac
  case $1 in
    --description) description=$2 && shift ;;
    --catalog) catalog=$2 && shift ;;
    --pack-only) pack_only=$2 && shift ;;
    -h | --help)
      usage
      exit 0
      ;;
    -*) die "unknown option $1" "see: $0 --help" ;;
    *)
      [ -z "$name" ] || die "one kernel at a time: $name or $1?" "see: $0 --help"
      name=$1
      ;;
  esac
  shift
done
[ -n "$name" ] || die "which kernel?" "see: banger kernel list, and $0 --help"
[[ $name =~ ^[A-Za-z0-9][A-Za-z0-9._-]*-[0-9]{1,4}\.[0-9]{1,4}$ && $name != *..* && ${#name} -le 64 ]] ||
  die "$name cannot stand in a catalog: names there are <family>-<major.minor>" \
    "import it again under such a name: banger kernel import generic-6.12 --from …"
[[ ${#description} -le 500 && $description != *[[:cntrl:]]* ]] ||
  die "the description is longer than 500 bytes or holds control characters" "one line of plain text, please"

# Program and the Debian package that brings it.
needs=(jq:jq zstd:zstd tar:tar sha256sum:coreutils)
[ -n "$pack_only" ] || needs+=(rclone:rclone curl:curl flock:util-linux)
missing=()
for need in "${needs[@]}"; do
  command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
[ ${#missing[@]} -eq 0 ] ||
  die "these packages are missing: ${missing[*]}" "run: sudo apt-get install --no-install-recommends ${missing[*]}"

# --- the kernel ----------------------------------------------------------------------------------------------------

if [ -n "${BANGER_KERNELS_DIR:-}" ]; then
  kernels=$BANGER_KERNELS_DIR
elif [[ ${BANGER_HOME:-} == /* ]]; then
  kernels=$BANGER_HOME/state/kernels
elif [[ ${XDG_STATE_HOME:-} == /* ]]; then
  kernels=$XDG_STATE_HOME/banger/kernels
else
  kernels=${HOME:?}/.local/state/banger/kernels
fi
entry=$kernels/$name
manifest=$entry/manifest.json
[ -f "$manifest" ] || die "there is no kernel $name in $kernels" \
  "import it: banger kernel import $name --from DIR" "or say where banger's kernels are: BANGER_KERNELS_DIR=…"

fact() { jq --exit-status --raw-output "$1 | strings" "$manifest" 2>/dev/null || die "$manifest has no usable $1" \
  "import the kernel again: banger kernel rm $name; banger kernel import $name --from …"; }
[ "$(fact .name)" = "$name" ] || die "$manifest is about another kernel, $(fact .name)" "import it again under its name"
arch=$(fact .arch)
distro=$(fact .distro)
kernel_version=$(fact .kernel_version)
wanted_vmlinux=$(fact .sha256)
wanted_tree=$(fact .tree_sha256)
for value in "$arch" "$distro" "$kernel_version"; do
  [[ $value =~ ^[A-Za-z0-9._+~-]{1,64}$ ]] || die "$manifest holds a value no catalog takes: ${value@Q}" "import it again"
done
case $kernel_version in
  "${name##*-}" | "${name##*-}"[.-]*) ;;
  *) die "$name says ${name##*-} and the kernel says $kernel_version" "import it under the name of its own line" ;;
esac

say "checking $name ($kernel_version, $arch)"
modified() {
  die "$name was modified after its import: $1 does not match its manifest" \
    "a published kernel must be the one that was imported and tried: import it again, try it, then publish"
}
[ "$(sha256sum <"$entry/vmlinux" | cut -d' ' -f1)" = "$wanted_vmlinux" ] || modified vmlinux
[ "$(tree_sha256 "$entry")" = "$wanted_tree" ] || modified "the tree (vmlinux, initrd.img, modules/)"
# Neither goes into the bundle; but what was tried is then not what was imported. Earlier bangers wrote neither hash.
hash_of() { jq --raw-output ".$1 | strings" "$manifest"; }
wanted_image=$(hash_of modules_image_sha256)
[ -z "$wanted_image" ] || [ "$(sha256sum <"$entry/modules.ext4" | cut -d' ' -f1)" = "$wanted_image" ] || modified modules.ext4
[ -n "$wanted_image" ] || [ -e "$entry/modules" ] || [ ! -e "$entry/modules.ext4" ] || modified modules.ext4
wanted_manifest=$(hash_of manifest_sha256)
[ -z "$wanted_image" ] || [ -n "$wanted_manifest" ] || modified manifest.json
[ -z "$wanted_manifest" ] || [ "$(manifest_sha256 "$manifest")" = "$wanted_manifest" ] || modified manifest.json
refused=$(refused_entry "$entry")
[ -z "$refused" ] || die "a pull would refuse this kernel: $refused" "remove it from what you import"

# --- the bundle ----------------------------------------------------------------------------------------------------

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
file=$name-$arch.tar.zst
bundle=$work/$file
say "packing $file"
pack_bundle "$entry" "$bundle"
# What was packed is what was checked, all of it, even when somebody replaced the kernel in between.
mkdir "$work/packed"
tar --extract --directory "$work/packed" --file "$bundle" --zstd --no-same-owner
[ "$(tree_sha256 "$work/packed")" = "$wanted_tree" ] || die "the kernel changed while it was packed" "run this again"
rm -rf -- "$work/packed"
size=$(stat --format=%s "$bundle")
sha256=$(sha256sum <"$bundle" | cut -d' ' -f1)
[ "$size" -le "$max_bundle" ] || die "the bundle has $size bytes, and a pull takes at most $max_bundle" \
  "leave out modules nobody needs"
say "$size bytes, sha256 $sha256"
if [ -n "$pack_only" ]; then
  cp -- "$bundle" "$pack_only.new"
  mv -f -- "$pack_only.new" "$pack_only"
  say "done: $pack_only"
  exit 0
fi

# --- the catalog as it is ------------------------------------------------------------------------------------------

jq --exit-status '.version == 1 and (.entries | type == "array")' "$catalog" >/dev/null 2>&1 ||
  die "$catalog is no kernel catalog of version 1" "see docs/kernel-catalog.md, or say which: --catalog FILE"
of_entry() { jq --raw-output --arg name "$name" --arg arch "$arch" \
  "[.entries[] | select(.name == \$name and .arch == \$arch)][0] | $1 // empty" "$catalog"; }
description=${description:-$(of_entry .description)}
[ -n "$description" ] || die "$name is new in the catalog and needs a description" "add: --description 'what it is for'"
remote=${RCLONE_REMOTE:-banger-kernels}
bucket=${RCLONE_BUCKET:-banger-kernels}
base=${BASE_URL:-$(jq --raw-output 'first(.entries[].sources[] | select(.type == "bundle") | .url) // empty | sub("/[^/]*$"; "")' "$catalog")}
base=${base%/}
[ -n "$base" ] || die "the catalog has no bundle yet, so it is not known where the public finds them" \
  "say it: BASE_URL=https://… $0 $name"
case $base in
  https://?*) protocols='=https' ;;
  http://127.0.0.1:* | http://localhost:* | http://'[::1]':* | http://127.0.0.1/* | http://localhost/* | http://'[::1]'/*)
    protocols='=http'
    ;;
  *) die "BASE_URL $base is neither https:// nor http:// to a loopback address" "banger would refuse to pull from it" ;;
esac
url=$base/$file

# --- upload, and look at it as the public does ---------------------------------------------------------------------

# From here on another publisher of this catalog waits: what it names must be what lies there. The directory is locked, not
# a file of its own that would be left lying about.
exec {lock}<"$(dirname "$catalog")"
flock "$lock"
# Left by one that was killed.
rm -f -- "$(dirname "$catalog")"/.kernels-??????.json

# Asks for fresh bytes: a cache in between must not answer with the previous bundle of this name.
public() {
  curl --fail --silent --show-error --location --proto "$protocols" --proto-redir "$protocols" \
    --retry 3 --connect-timeout 30 --speed-limit 1000 --speed-time 60 --header 'Cache-Control: no-cache' "$@" -- "$url"
}
public_size() {
  public --head 2>"$work/curl.log" | tr -d '\r' |
    awk 'tolower($1) == "content-length:" { size = $2 } /^HTTP/ { size = "" } END { print size }'
}
public_sha256() { public --max-filesize "$max_bundle" 2>"$work/curl.log" | sha256sum | cut -d' ' -f1; }

if [ "$(public_size || true)" = "$size" ] && [ "$(public_sha256 || true)" = "$sha256" ]; then
  say "the public has these bytes already; nothing to upload"
else
  say "uploading to $remote:$bucket"
  rclone copyto --no-traverse --checksum "$bundle" "${remote%:}:$bucket/$file" 2>"$work/rclone.log" || {
    tail -n 5 "$work/rclone.log" >&2
    die "rclone could not upload $file to $remote:$bucket" \
      "see: rclone listremotes; name yours with RCLONE_REMOTE and RCLONE_BUCKET"
  }
  seen=$(public_size) || die "$url does not answer: $(tail -n 1 "$work/curl.log")" \
    "is BASE_URL the public address of $remote:$bucket? the catalog was not changed"
  [ "$seen" = "$size" ] || die "$url has ${seen:-no announced number of} bytes, not $size" \
    "is BASE_URL the public address of $remote:$bucket, and does a cache stand in between? the catalog was not changed"
  seen=$(public_sha256) || die "$url cannot be downloaded: $(tail -n 1 "$work/curl.log")" "the catalog was not changed"
  [ "$seen" = "$sha256" ] || die "$url gives other bytes (sha256 $seen)" \
    "does a cache stand in between? wait or purge it, then run this again; the catalog was not changed"
  say "the public sees the same bytes"
fi

# --- the catalog as it shall be ------------------------------------------------------------------------------------

new=$(mktemp "$(dirname "$catalog")/.kernels-XXXXXX.json")
trap 'rm -rf -- "$work"; rm -f -- "$new"' EXIT
jq --indent 2 --arg name "$name" --arg arch "$arch" --arg distro "$distro" --arg version "$kernel_version" \
  --arg description "$description" --arg url "$url" --arg sha256 "$sha256" --argjson size "$size" '
  {type: "bundle", url: $url, sha256: $sha256, size: $size} as $bundle
  | {name: $name, distro: $distro, arch: $arch, kernel_version: $version, description: $description} as $facts
  | def mine: .name == $name and .arch == $arch;
  # A bundle keeps the place of the one it replaces; a first one comes after the sources that are there.
  def with_bundle:
    if any(.[]; .type == "bundle")
    then ([.[] | .type == "bundle"] | index(true)) as $at | [to_entries[] | select(.key == $at or .value.type != "bundle") | if .key == $at then $bundle else .value end]
    else . + [$bundle] end;
  if any(.entries[]; mine)
  then .entries |= map(if mine then . + $facts | .sources |= with_bundle else . end)
  else .entries += [$facts + {sources: [$bundle]}] end
' "$catalog" >"$new" || die "cannot patch $catalog" "is it sound JSON?"
if cmp --silent "$new" "$catalog"; then
  say "done: $catalog has it already"
else
  chmod --reference="$catalog" "$new"
  sync "$new"
  mv -f -- "$new" "$catalog"
  say "done: $catalog"
  say "next: review the change, build banger so that it carries the catalog, and try: banger kernel pull $name --force"
fi
