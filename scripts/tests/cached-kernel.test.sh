#!/usr/bin/env bash
# The cache of the generic kernel: what makes it build, and what it keeps. The build itself is a stand-in.
# shellcheck source=scripts/tests/harness.sh
. "$(dirname "$0")/harness.sh"
require flock sha256sum

export XDG_CACHE_HOME=$tmp/cache
copy=$tmp/copy
mkdir -p "$copy/scripts" "$copy/configs"
cp "$repo/scripts/cached-kernel.sh" "$copy/scripts"
cp -r "$repo/scripts/lib" "$copy/scripts/lib"
cp "$repo/configs/generic-x86_64-6.12.config" "$copy/configs"
# Sources what the real one does, writes down that it ran, and makes something.
{
  grep '^\. ' "$repo/scripts/make-generic-kernel.sh"
  # shellcheck disable=SC2016 # the words are for the script that is made
  printf 'echo built >>%q\nmkdir "$3"\necho kernel >"$3/vmlinux"\n' "$tmp/builds"
} | sed '1i #!/usr/bin/env bash' >"$copy/scripts/make-generic-kernel.sh"
chmod 755 "$copy/scripts/make-generic-kernel.sh"

cached() { "$copy/scripts/cached-kernel.sh"; }
builds() { wc -l <"$tmp/builds"; }

mkdir -p "$XDG_CACHE_HOME/banger-tests/generic-kernel/.new-killed/kernel"
passes 'the first' cached
verdict 'what a killed build left is gone' [ ! -e "$XDG_CACHE_HOME/banger-tests/generic-kernel/.new-killed" ]
first=$(<"$tmp/stdout")
verdict 'it is there' [ -f "$first/vmlinux" ]
passes 'the second' cached
verdict 'comes from the cache' [ "$(<"$tmp/stdout") $(builds)" = "$first 1" ]

expected=1
for input in configs/generic-x86_64-6.12.config scripts/make-generic-kernel.sh scripts/lib/kernel-config.sh \
  scripts/lib/release-signature.sh; do
  echo '# another state' >>"$copy/$input"
  expected=$((expected + 1))
  passes "after a change of $input" cached
  verdict "a change of $input builds another" [ "$(builds)" = "$expected" ]
  verdict 'under another name' [ "$(<"$tmp/stdout")" != "$first" ]
  first=$(<"$tmp/stdout")
done
verdict 'the current one and the one before are kept' \
  [ "$(find "$XDG_CACHE_HOME/banger-tests/generic-kernel" -mindepth 1 -maxdepth 1 -type d | wc -l)" = 2 ]
