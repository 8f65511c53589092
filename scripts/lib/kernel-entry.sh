# shellcheck shell=bash
# An imported kernel on disk, seen from a shell: is it still what was imported, and its publishable archive. Sourced,
# never run.

# What a bundle may contain, in the order of the archive and of the hash. `manifest.json` and `modules.ext4` are made
# anew on the host that pulls: they are that host's facts, and would make the bytes depend on this one.
readonly bundle_parts=(vmlinux initrd.img modules)

# The parts that are there, one per line.
#   present_parts DIRECTORY
present_parts() {
  local part
  for part in "${bundle_parts[@]}"; do
    if [ -e "$1/$part" ] || [ -L "$1/$part" ]; then printf '%s\n' "$part"; fi
  done
}

# The manifest's `tree_sha256`, computed anew: SHA-256 over one record `<kind> <content> <path>\0` for each entry, where
# kind and content are `d` and nothing, `l` and the link's text, `f` and the content's SHA-256, or `?` and nothing; a
# directory stands before its content, names are in byte order. (crates/artifacts/src/kernel/tree.rs decides.)
#   tree_sha256 DIRECTORY
tree_sha256() (
  cd -- "$1" || exit
  mapfile -t parts < <(present_parts .)
  declare -A hashes
  while IFS= read -r -d '' row; do
    hashes[${row:66}]=${row:0:64}
  done < <(find "${parts[@]}" -type f -print0 | xargs --null --no-run-if-empty sha256sum --binary --zero --)
  for part in "${parts[@]}"; do
    # With the separator sorted before every other byte, a directory's content follows it directly.
    find "$part" -print0 | tr '/' '\001' | LC_ALL=C sort --zero-terminated | tr '\001' '/'
  done | while IFS= read -r -d '' path; do
    if [ -L "$path" ]; then
      printf 'l %s %s\0' "$(readlink --no-newline -- "$path")" "$path"
    elif [ -d "$path" ]; then
      printf 'd  %s\0' "$path"
    elif [ -f "$path" ]; then
      printf 'f %s %s\0' "${hashes[$path]:?}" "$path"
    else
      printf '?  %s\0' "$path"
    fi
  done | sha256sum | cut --delimiter=' ' --fields=1
)

# The manifest's `manifest_sha256`, computed anew: SHA-256 over its other fields, sorted and without blanks.
# (crates/artifacts/src/kernel/manifest.rs decides.)
#   manifest_sha256 FILE
manifest_sha256() {
  jq --compact-output --sort-keys --join-output 'del(.manifest_sha256)' "$1" | sha256sum | cut --delimiter=' ' --fields=1
}

# Prints the first entry a pull would refuse, with the reason; nothing when all is well.
#   refused_entry DIRECTORY
refused_entry() (
  cd -- "$1" || exit
  mapfile -t parts < <(present_parts .)
  root=$(pwd -P)
  other=$(find "${parts[@]}" ! -type f ! -type d ! -type l -print -quit)
  [ -z "$other" ] || { printf '%s is neither file, directory nor symbolic link\n' "$other" && exit; }
  find "${parts[@]}" -type l -print0 | while IFS= read -r -d '' link; do
    case $(readlink -- "$link") in
      /*) printf '%s is an absolute symbolic link\n' "$link" && break ;;
    esac
    target=$(realpath --canonicalize-missing -- "$link")
    case $target in
      "$root"/modules/*) [ -e "$target" ] || { printf '%s leads to nothing\n' "$link" && break; } ;;
      *) printf '%s leads out of modules/\n' "$link" && break ;;
    esac
  done
)

# Packs the parts of DIRECTORY into ARCHIVE (.tar.zst), content at the archive's root. The same content gives the same
# bytes on every host with the same zstd: names sorted, everything root's, fixed modes and times, hard links as files,
# one compression thread.
#   pack_bundle DIRECTORY ARCHIVE
pack_bundle() {
  local parts
  mapfile -t parts < <(present_parts "$1")
  tar --create --directory "$1" --format=gnu --sort=name --hard-dereference \
    --owner=0 --group=0 --numeric-owner --mtime=@0 --mode='a-x,u=rwX,go=rX' -- "${parts[@]}" |
    zstd -19 --single-thread --quiet --force -o "$2"
}
