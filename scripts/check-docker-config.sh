#!/bin/sh
# Says whether a kernel has what Docker (and Podman, containerd, Kubernetes' node) needs of it.
#
#   scripts/check-docker-config.sh            the running kernel: /proc/config.gz or /boot/config-*, and the live
#                                             cgroup v2 controllers; runs in a guest, busybox is enough
#   scripts/check-docker-config.sh FILE       the configuration in FILE (.config, or gzip of one), nothing else
#   scripts/check-docker-config.sh --built-in [FILE]   a module does not count, only what is built in
#
# One line per group on stdout; each missing option is named. Status 0 only when nothing that is needed is missing;
# groups marked "optional" are shown and never change the status.
set -eu

built_in=false
file=
for argument in "$@"; do
  case $argument in
    --built-in) built_in=true ;;
    -h | --help)
      sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//;p;}' "$0"
      exit 0
      ;;
    -*)
      echo "check docker config: error: unknown option $argument; see: $0 --help" >&2
      exit 2
      ;;
    *) file=$argument ;;
  esac
done

live=false
if [ -z "$file" ]; then
  live=true
  for candidate in /proc/config.gz "/boot/config-$(uname -r)" "/lib/modules/$(uname -r)/config"; do
    [ ! -r "$candidate" ] || { file=$candidate && break; }
  done
fi
if [ -z "$file" ] || [ ! -r "$file" ]; then
  echo "check docker config: error: cannot read a kernel configuration${file:+ from $file}" >&2
  echo "  name one: $0 FILE (the .config of the build, or its copy in /boot)" >&2
  exit 2
fi
case $file in
  *.gz) config=$(gzip -dc <"$file") ;;
  *) config=$(cat <"$file") ;;
esac
case $config in
  *CONFIG_*) ;;
  *)
    echo "check docker config: error: $file holds no kernel configuration" >&2
    exit 2
    ;;
esac
# One "NAME=value" after the other between line feeds, so that a `case` can look one up without starting a program.
config="
$config
"

status=0

# has OPTION: whether it is on. "A|B": whether one of them is.
has() {
  alternatives=$1
  while :; do
    option=${alternatives%%|*}
    case $config in
      *"
CONFIG_$option=y
"*) return 0 ;;
      *"
CONFIG_$option=m
"*) $built_in || return 0 ;;
    esac
    [ "$alternatives" != "$option" ] || return 1
    alternatives=${alternatives#*|}
  done
}

# group WEIGHT TITLE OPTION…: WEIGHT is needed or optional.
group() {
  weight=$1 title=$2 absent=
  shift 2
  for wanted in "$@"; do
    has "$wanted" || absent="$absent CONFIG_$wanted"
  done
  if [ -z "$absent" ]; then
    printf 'ok       %s\n' "$title"
  elif [ "$weight" = needed ]; then
    printf 'MISSING  %s:%s\n' "$title" "$absent"
    status=1
  else
    printf 'without  %s:%s (optional)\n' "$title" "$absent"
  fi
}

group needed 'namespaces' NAMESPACES UTS_NS IPC_NS PID_NS NET_NS USER_NS
group needed 'cgroup v2 controllers: cpu' CGROUPS CGROUP_SCHED FAIR_GROUP_SCHED CFS_BANDWIDTH
group needed 'cgroup v2 controllers: memory, io, pids, cpuset' MEMCG BLK_CGROUP BLK_DEV_THROTTLING CGROUP_PIDS CPUSETS
group needed 'cgroup v2 device rules (BPF)' BPF_SYSCALL CGROUP_BPF
group needed 'freezing and pausing' CGROUP_FREEZER
group needed 'seccomp filters' SECCOMP SECCOMP_FILTER
group needed 'keys, message queues' KEYS POSIX_MQUEUE
group needed 'storage: overlayfs over ext4' OVERLAY_FS EXT4_FS EXT4_FS_POSIX_ACL EXT4_FS_SECURITY
group needed 'storage: tmpfs with attributes' TMPFS TMPFS_XATTR TMPFS_POSIX_ACL
group needed 'network: bridge, veth' BRIDGE VETH BRIDGE_NETFILTER
group needed 'network: connection tracking, NAT' NF_CONNTRACK NF_NAT
group needed 'packet filter: nf_tables with NAT' NF_TABLES NF_TABLES_INET NFT_NAT NFT_MASQ NFT_REDIR NFT_CT
group needed 'packet filter: iptables over nf_tables' NFT_COMPAT NETFILTER_XTABLES
group needed 'packet filter: matches and targets Docker uses' NETFILTER_XT_MATCH_ADDRTYPE \
  NETFILTER_XT_MATCH_CONNTRACK 'NETFILTER_XT_TARGET_MASQUERADE|IP_NF_TARGET_MASQUERADE' \
  'NETFILTER_XT_TARGET_REDIRECT|IP_NF_TARGET_REDIRECT' NETFILTER_XT_MARK
group needed 'IPv6 with NAT' IPV6 NF_TABLES_IPV6
group optional 'packet filter: legacy iptables' IP_NF_IPTABLES IP_NF_FILTER IP_NF_NAT IP_NF_MANGLE IP_NF_RAW \
  IP6_NF_IPTABLES IP6_NF_FILTER IP6_NF_NAT IP6_NF_MANGLE IP6_NF_RAW
group optional 'swarm and Kubernetes services (IPVS)' IP_VS IP_VS_PROTO_TCP IP_VS_PROTO_UDP IP_VS_RR IP_VS_NFCT \
  NETFILTER_XT_MATCH_IPVS
group optional 'networks: overlay' VXLAN BRIDGE_VLAN_FILTERING
group optional 'networks: overlay, encrypted' XFRM XFRM_USER INET_ESP NETFILTER_XT_MATCH_BPF
group optional 'networks: macvlan, ipvlan' MACVLAN IPVLAN DUMMY
group optional 'user-space file systems (rootless)' FUSE_FS
group optional 'huge pages, per-container perf' CGROUP_HUGETLB CGROUP_PERF
group optional 'swap in memory limits' SWAP
group optional 'programs of other processors' BINFMT_MISC

if $live; then
  controllers=/sys/fs/cgroup/cgroup.controllers
  if [ -r "$controllers" ]; then
    absent=
    have=" $(cat "$controllers") "
    for controller in cpu cpuset io memory pids; do
      case $have in *" $controller "*) ;; *) absent="$absent $controller" ;; esac
    done
    if [ -z "$absent" ]; then
      printf 'ok       cgroup v2 as mounted here:%s\n' "${have% }"
    else
      printf 'MISSING  cgroup v2 as mounted here:%s\n' "$absent"
      status=1
    fi
  else
    printf 'MISSING  cgroup v2 is not mounted on /sys/fs/cgroup\n'
    status=1
  fi
fi
exit "$status"
