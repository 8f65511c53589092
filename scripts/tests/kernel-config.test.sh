#!/usr/bin/env bash
# The generic kernel's configuration, and the two readers of configurations: the build's check that every option took
# effect, and the check of what Docker needs.
# shellcheck source=scripts/tests/harness.sh
. "$(dirname "$0")/harness.sh"
require awk gzip

# shellcheck source=scripts/lib/kernel-config.sh
. "$repo/scripts/lib/kernel-config.sh"
fragment=$repo/configs/generic-x86_64-6.12.config
docker=$repo/scripts/check-docker-config.sh
has_line() { grep -qxF -- "$1" "$fragment"; }

# --- the fragment --------------------------------------------------------------------------------------------------

verdict 'has only options, comments and blank lines' \
  [ -z "$(grep -vE '^(|#( .*)?|CONFIG_[A-Z0-9_]+=(y|-?[0-9]+|"[a-z0-9,]*"))$' "$fragment")" ]
verdict 'names no option twice' [ -z "$(sed -nE 's/^(# )?(CONFIG_[A-Z0-9_]+)[= ].*/\2/p' "$fragment" | sort | uniq -d)" ]
verdict 'asks for no modules' has_line '# CONFIG_MODULES is not set'
verdict 'patches no code while vCPUs run it' has_line '# CONFIG_JUMP_LABEL is not set'
# The contract: what a guest needs, built in.
for option in VIRTIO_BLK VIRTIO_NET VIRTIO_MMIO VIRTIO_MMIO_CMDLINE_DEVICES VIRTIO_PCI VIRTIO_CONSOLE HW_RANDOM_VIRTIO \
  PVH ACPI VIRTIO_VSOCKETS EXT4_FS OVERLAY_FS NF_TABLES BRIDGE VETH CGROUPS NAMESPACES BLK_DEV_INITRD AUTOFS_FS \
  SERIAL_8250_CONSOLE KVM_GUEST FHANDLE TMPFS_XATTR TMPFS_POSIX_ACL INOTIFY_USER CGROUP_BPF USER_NS SECCOMP; do
  verdict "asks for $option" has_line "CONFIG_$option=y"
done

# --- did every option take effect? ---------------------------------------------------------------------------------

missing() { missing_options "$tmp/fragment" "$tmp/result"; }
printf '%s\n' '# why' 'CONFIG_A=y' 'CONFIG_N=32' 'CONFIG_S="a=b c"' '# CONFIG_OFF is not set' '# CONFIG_GONE is not set' >"$tmp/fragment"
sound=('CONFIG_A=y' 'CONFIG_N=32' 'CONFIG_S="a=b c"' '# CONFIG_OFF is not set' 'CONFIG_AB=y')
printf '%s\n' "${sound[@]}" >"$tmp/result"
passes 'all there' missing
# without NAME PATTERN REPLACEMENT TEXT
without() {
  printf '%s\n' "${sound[@]}" | sed "s/$2/$3/" >"$tmp/result"
  run missing
  verdict "$1 (fails)" [ "$status" -ne 0 ]
  verdict "$1 (names it and nothing else)" [ "$(cat "$tmp/stdout")" = "$4" ]
}
without 'a dropped option' '^CONFIG_A=y$' 'CONFIG_AA=y' 'CONFIG_A: asked for y, got off'
without 'an option that is off' '^CONFIG_A=y$' '# CONFIG_A is not set' 'CONFIG_A: asked for y, got off'
without 'a module instead' '^CONFIG_A=y$' 'CONFIG_A=m' 'CONFIG_A: asked for y, got m'
without 'another number' '=32' '=8' 'CONFIG_N: asked for 32, got 8'
without 'another text' 'a=b c' 'a=b d' 'CONFIG_S: asked for "a=b c", got "a=b d"'
without 'one that should be off' '# CONFIG_OFF is not set' 'CONFIG_OFF=y' 'CONFIG_OFF: asked for off, got y'

# --- what Docker needs ---------------------------------------------------------------------------------------------

passes 'our fragment has what Docker needs, built in' "$docker" --built-in "$fragment"
verdict 'nothing is missing' [ "$(grep -c '^MISSING' "$tmp/stdout")" -eq 0 ]
verdict 'optional groups are shown' grep -q '^without .*INET_ESP.*(optional)' "$tmp/stdout"
gzip --stdout "$fragment" >"$tmp/config.gz"
passes 'read as /proc/config.gz is' "$docker" "$tmp/config.gz"
for option in OVERLAY_FS BRIDGE VETH NF_TABLES NFT_NAT NFT_MASQ NF_NAT MEMCG CGROUP_BPF USER_NS PID_NS SECCOMP_FILTER KEYS; do
  grep -v "^CONFIG_$option=" "$fragment" >"$tmp/less.config"
  run "$docker" "$tmp/less.config"
  verdict "without $option (fails)" [ "$status" -eq 1 ]
  verdict "without $option (names it)" grep -qE "^MISSING .*: CONFIG_$option\$" "$tmp/stdout"
done
sed 's/^CONFIG_BRIDGE=y/CONFIG_BRIDGE=m/' "$fragment" >"$tmp/modular.config"
passes 'a module counts' "$docker" "$tmp/modular.config"
run "$docker" --built-in "$tmp/modular.config"
verdict 'unless only what is built in counts' grep -q '^MISSING .*: CONFIG_BRIDGE$' "$tmp/stdout"
grep -v '^CONFIG_IP_VS=' "$fragment" >"$tmp/less.config"
passes 'an optional group does not fail' "$docker" "$tmp/less.config"
# Either name will do: the target moved between kernel lines.
sed '/^CONFIG_IP_NF_TARGET_MASQUERADE=/d; $a CONFIG_NETFILTER_XT_TARGET_MASQUERADE=y' "$fragment" >"$tmp/newer.config"
passes 'a new name of an option' "$docker" "$tmp/newer.config"
refuses 'a file that is not there' 'cannot read' "$docker" "$tmp/none"
printf 'hello\n' >"$tmp/hello"
refuses 'a file that is no configuration' 'holds no kernel configuration' "$docker" "$tmp/hello"
refuses 'an unknown option' 'unknown option' "$docker" --frobnicate
for shell in dash 'busybox sh'; do
  command -v "${shell%% *}" >/dev/null || continue
  # shellcheck disable=SC2086 # busybox and its applet are two words
  passes "runs in $shell" $shell "$docker" "$fragment"
done
