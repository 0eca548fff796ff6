#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A home network on one machine: hosts are network namespaces on a switch, which is a bridge in a namespace of its own, so that the
# machine's own network is not touched. Programs see one file system.
#   lan.sh up N [RATE]        N hosts 10.77.0.1 to 10.77.0.N; each sends at most RATE (tc's words, such as 1gbit)
#   lan.sh mpirun N CMD...    one rank on each of the first N hosts, over TCP; the keepalive settings let mpirun itself
#                             notice a cut cable (by default that takes it many minutes)
#   lan.sh cut K | heal K     pulls host K's cable, puts it back
#   lan.sh down               removes everything
#   lan.sh run N CMD...       check, up, mpirun, down; exit code of CMD
#   lan.sh check              exit code 77 and the reason when this machine cannot do it
# KUMIKO_LAN names the network (default "lan"), so that several can stand side by side. Needs root, iproute2, Open MPI 4.1.
set -Eeuo pipefail

self=$(readlink -f "$0")
lan=${KUMIKO_LAN:-lan}
subnet=10.77.0

host() { echo "kumiko-$lan-$1"; }
switch() { host switch; }
on() { local namespace=$1; shift; ip netns exec "$namespace" "$@"; }
usage() { sed -n '3,14s/^# \{0,1\}//p' "$self" >&2; exit 2; }

unavailable() {
  if [ "$(id -u)" != 0 ]; then echo "network namespaces need root"; return; fi
  local tool
  for tool in ip mpirun; do
    command -v $tool >/dev/null || { echo "'$tool' is not installed"; return; }
  done
  local trial=kumiko-trial-$$
  ip netns add $trial 2>/dev/null || { echo "this machine does not allow network namespaces"; return; }
  ip -n $trial link add probe type bridge 2>/dev/null || echo "this machine has no bridge device"
  ip netns del $trial
}

check() {
  local reason
  reason=$(unavailable)
  [ -z "$reason" ] || { echo "skipped: $reason"; exit 77; }
}

add_host() {
  local k=$1 rate=$2
  ip netns add "$(host "$k")"
  ip -n "$(switch)" link add "port$k" type veth peer name eth0 netns "$(host "$k")"
  ip -n "$(switch)" link set "port$k" master bridge up
  ip -n "$(host "$k")" addr add "$subnet.$k/24" dev eth0
  ip -n "$(host "$k")" link set lo up
  ip -n "$(host "$k")" link set eth0 up
  [ -z "$rate" ] || on "$(host "$k")" tc qdisc add dev eth0 root tbf rate "$rate" burst 256kb latency 50ms
}

up() {
  local n=$1 rate=${2:-} k
  down
  trap down ERR
  ip netns add "$(switch)"
  ip -n "$(switch)" link add bridge type bridge
  ip -n "$(switch)" link set bridge up
  for k in $(seq "$n"); do add_host "$k" "$rate"; done
  trap - ERR
}

down() {
  local namespace
  for namespace in $(ip netns list | awk -v prefix="kumiko-$lan-" 'index($1, prefix) == 1 { print $1 }'); do
    ip netns del "$namespace"
  done
}

start_ranks() {
  local n=$1; shift
  local net=$subnet.0/24
  KUMIKO_LAN=$lan OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 on "$(host 1)" mpirun --bind-to none \
    --mca plm_rsh_agent "$self agent" --mca orte_keep_fqdn_hostnames 1 --mca btl tcp,self \
    --mca btl_tcp_if_include $net --mca oob_tcp_if_include $net \
    --mca oob_tcp_keepalive_time 10 --mca oob_tcp_keepalive_intvl 2 --mca oob_tcp_keepalive_probes 3 \
    -H "$(seq -s, -f "$subnet.%g:1" "$n")" -n "$n" "$@"
}

run() {
  check
  lan=$$
  trap down EXIT
  up "$1"
  start_ranks "$@"
}

verb=${1:-}
shift || usage
case $verb in
  up) [ $# -ge 1 ] || usage; up "$@" ;;
  down) down ;;
  mpirun) [ $# -ge 2 ] || usage; start_ranks "$@" ;;
  run) [ $# -ge 2 ] || usage; run "$@" ;;
  check) check ;;
  cut) ip -n "$(switch)" link set "port${1:?host}" down ;;
  heal) ip -n "$(switch)" link set "port${1:?host}" up ;;
  agent)   # stands in for ssh: HOST CMD...
    address=$1; shift
    exec ip netns exec "$(host "${address##*.}")" bash -c "$*" ;;
  *) usage ;;
esac
