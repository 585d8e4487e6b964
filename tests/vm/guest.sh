#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# PID 1 of the virtual machine that vm_test.py boots. Prints one line per check, "ok - what" or
# "not ok - what", and "1..COUNT" at the end; the serial console carries it out.
set -u
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
TRIES=60 # of a quarter of a second: emulation is slow, and not the subject
. /network.sh
count=0

check() { # WHAT COMMAND...: the command succeeds
  what=$1
  shift
  "$@" >/tmp/output 2>&1
  status=$?
  count=$((count + 1))
  [ $status = 0 ] && echo "ok - $what" && return
  echo "not ok - $what"
  sed 's/^/# /' /tmp/output
}

needed() { # as check; nothing else makes sense where it fails
  check "$@"
  [ $status = 0 ] || finish
}

finish() {
  echo "1..$count"
  poweroff -f
}

eventually() { # COMMAND...: succeeds within TRIES; tells what the last one said
  left=$TRIES
  until "$@" >/tmp/attempt 2>&1; do
    left=$((left - 1))
    [ $left -gt 0 ] || { cat /tmp/attempt; return 1; }
    sleep 0.25
  done
}

at() { # NAMESPACE COMMAND...; `ip netns exec` would hide the BPF file system
  space=$1
  shift
  nsenter --net=/run/netns/"$space" "$@"
}

# --- the product -------------------------------------------------------------

configure() { # LAN-DEVICES
  cat >/tmp/config.yaml <<END
version: 1
interfaces: {lan: [$1], wan: [wan0]}
rules:
  - {name: refused, match: {proto: tcp, dport: $REJECTED}, action: reject}
  - {name: all, match: {proto: tcp}, action: proxy}
default: bypass
proxy: {workers: 2, lease: 20s}
END
}

configure_vlans() { # WHAT: rules for `vlan` in place of devices
  cat >/tmp/config.yaml <<END
version: 1
interfaces: {lan: [lan0, "vlan*", qinq0], wan: [wan0]}
rules:
  - {name: by-vlan, match: {proto: tcp, vlan: $1}, action: proxy}
default: bypass
proxy: {workers: 2, lease: 20s}
END
}

serving() { [ "$(tpx-bpf status --json | tr -d ' \n' | grep -o '"state":"serving"' | wc -l)" = 2 ]; }

start() {
  tpx-bpf run >>/tmp/log 2>&1 &
  daemon=$!
  eventually serving || { cat /tmp/log; return 1; }
}

ended() { # STATUS SIGNAL: what `run` ends with when it gets the signal
  kill "-$2" $daemon
  wait $daemon
  status=$?
  [ $status = "$1" ] || { echo "run ended with $status"; return 1; }
}

mode() { # of attachment, as this kernel has it: tcx came with Linux 6.6
  uname -r | { IFS=. read -r major minor _; [ $((major * 100 + minor)) -ge 606 ] && echo tcx || echo clsact; }
}

attached() { # DEVICE...
  status=$(tpx-bpf status --json | tr -d ' \n')
  for device in "$@" wan0; do
    echo "$status" | grep -o '{[^{}]*}' | grep "\"name\":\"$device\"" | grep '"attached":true' |
      grep -q "\"mode\":\"$(mode)\"" || { echo "$device: $status"; return 1; }
  done
  tpx-bpf status | grep -q "$(mode)"
}

watched() { # by WHOM, without blanks, as status tells
  found=$(tpx-bpf status --json | tr -d ' \n' | grep -o '"watchers":\[[^]]*\]')
  [ "$found" = "\"watchers\":[$1]" ] || { echo "$found"; tail -n 5 /tmp/log; return 1; }
}

packets() { # REASON
  tpx-bpf counters --json | tr -d ' \n' | grep -o '{[^{}]*}' | sed -n "/\"name\":\"$1\"/s/.*\"packets\":\([0-9]*\).*/\1/p"
}

priority_sent() { ip -n untagged -s link show prio0 | sed -n '/TX:/{n;s/^ *[0-9]* *\([0-9]*\).*/\1/p;}'; }

grew() { # REASON FORMER
  now=$(packets "$1")
  [ "${now:-0}" -gt "${2:-0}" ] || { echo "$1: $2, then $now"; return 1; }
}

# Sockets in TIME_WAIT under the server's addresses, which the gateway does not have.
leftovers() { netstat -tan | grep -E "^tcp +[0-9]+ +[0-9]+ (::ffff:$SERVER4|$SERVER6):[0-9]+ .*TIME_WAIT"; }
left_behind() { leftovers && [ "$(leftovers | wc -l)" -ge 2 ]; }

none_left() { ! leftovers; }

detached() { # WHAT-IT-SAYS
  tpx-bpf detach >/tmp/detached || return 1
  grep -q "$1" /tmp/detached || { cat /tmp/detached; return 1; }
}

snapshot() {
  for family in -4 -6; do
    ip $family rule
    ip $family route show table all
  done
  ip addr
  tc qdisc show
  for device in lan0 wan0 vlan0 outer qinq0; do
    tc filter show dev "$device" ingress 2>/dev/null
    tc filter show dev "$device" egress 2>/dev/null
  done
  ls -A /sys/fs/bpf /run
  for kind in prog map link; do bpftool $kind show; done
}

same() { snapshot | cmp -s - /tmp/before; }

clean() { eventually same || { snapshot | diff /tmp/before -; return 1; }; }

# --- what is checked ---------------------------------------------------------

vlan() {
  configure vlan0
  snapshot >/tmp/before
  needed "802.1Q: load" tpx-bpf load --config /tmp/config.yaml
  check "802.1Q: status tells $(mode)" attached vlan0
  check "802.1Q: fails open before the proxy runs" direct tagged 2
  needed "802.1Q: run" start
  check "802.1Q: nobody would miss what goes past the stack" watched ""
  tc qdisc add dev wan0 clsact 2>/dev/null
  check "802.1Q: a filter of somebody else's" \
    tc filter add dev wan0 ingress pref 900 bpf da pinned /sys/fs/bpf/tpx-bpf/tpx_lan
  check "802.1Q: it would" eventually watched '"anotherprogramorfilterintc"'
  check "802.1Q: it goes" tc filter del dev wan0 ingress pref 900
  check "802.1Q: nobody would once more" eventually watched ""
  check "802.1Q: proxied" proxied tagged
  check "802.1Q: data is whole" transfer tagged
  check "802.1Q: a rejected connection is refused" refused tagged
  check "802.1Q: untagged packets of its trunk are not touched" direct untagged 1
  check "802.1Q: packets of other VLANs are not touched" direct stacked 3
  check "802.1Q: kill -9" ended 137 KILL
  check "802.1Q: the next connection goes direct" direct tagged 2
  check "802.1Q: run again" start
  check "802.1Q: proxied again" proxied tagged
  check "802.1Q: SIGTERM ends it in peace" ended 0 TERM
  check "802.1Q: direct without a proxy" direct tagged 2
  echo /bin/false >/proc/sys/kernel/modprobe
  check "802.1Q: detach, without tcp_diag" detached "left closed sockets"
  echo /sbin/modprobe >/proc/sys/kernel/modprobe
  check "802.1Q: nothing is left" clean
  check "802.1Q: detach once more" tpx-bpf detach
  check "802.1Q: direct after it" direct tagged 2
}

qinq() {
  configure qinq0
  needed "802.1ad: load" tpx-bpf load --config /tmp/config.yaml
  needed "802.1ad: run" start
  check "802.1ad: status tells $(mode)" attached qinq0
  check "802.1ad: proxied" proxied stacked
  check "802.1ad: data is whole" transfer stacked
  check "802.1ad: a rejected connection is refused" refused stacked
  check "802.1ad: living flows can be judged" tpx-bpf explain --diff /tmp/config.yaml
  check "802.1ad: kill -9" ended 137 KILL
  check "802.1ad: the next connection goes direct" direct stacked 3
  check "802.1ad: detach" tpx-bpf detach
  check "802.1ad: nothing is left" clean
}

trunk() {
  configure lan0
  needed "trunk: load" tpx-bpf load --config /tmp/config.yaml
  needed "trunk: run" start
  check "trunk: untagged packets are proxied" proxied untagged
  check "trunk: their data is whole" transfer untagged
  check "trunk: a rejected connection is refused" refused untagged
  tagged_before=$(packets vlan_tagged)
  sent_before=$(priority_sent)
  check "trunk: priority-tagged packets are proxied" proxied untagged $PRIO4 $PRIO6
  check "trunk: they were tagged" [ "$(priority_sent)" -gt "$sent_before" ]
  check "trunk: 802.1Q packets go direct" direct tagged 2
  check "trunk: they are counted" grew vlan_tagged "$tagged_before"
  tagged_before=$(packets vlan_tagged)
  check "trunk: 802.1ad packets go direct" direct stacked 3
  check "trunk: they are counted too" grew vlan_tagged "$tagged_before"
  configure "lan0, vlan0"
  check "trunk: a VLAN of it as well" tpx-bpf reload --config /tmp/config.yaml --existing abort
  check "trunk: both are attached" attached lan0 vlan0
  check "trunk: both are proxied, untagged" proxied untagged
  check "trunk: both are proxied, tagged" proxied tagged
  check "trunk: the server ends connections" ended_by_server untagged
  check "trunk: they leave sockets" eventually left_behind
  check "trunk: SIGTERM ends it in peace" ended 0 TERM
  check "trunk: detach" detached "destroyed [0-9]* closed sockets"
  check "trunk: nothing is left" clean
  check "trunk: nor a socket" none_left
}

rules() {
  configure_vlans 100
  needed "rules of VLANs: load" tpx-bpf load --config /tmp/config.yaml
  needed "rules of VLANs: run" start
  check "rules of VLANs: the one that is named is proxied" proxied tagged
  check "rules of VLANs: untagged packets go direct" direct untagged 1
  check "rules of VLANs: those of others go direct" direct stacked 3
  configure_vlans "{not: [100, 200]}"
  check "rules of VLANs: reload with those of all others" tpx-bpf reload --config /tmp/config.yaml
  check "rules of VLANs: the one that is named goes direct" direct tagged 2
  check "rules of VLANs: untagged packets are proxied" proxied untagged
  check "rules of VLANs: the inner one counts" proxied stacked
  configure_vlans "[100, 300]"
  check "rules of VLANs: reload with two" tpx-bpf reload --config /tmp/config.yaml
  check "rules of VLANs: the device is replaced" replace_vlan0
  check "rules of VLANs: the new device is attached" eventually attached vlan0 qinq0
  check "rules of VLANs: its packets are proxied" proxied tagged
  check "rules of VLANs: so are those of the other" proxied stacked
  check "rules of VLANs: SIGTERM ends it in peace" ended 0 TERM
  check "rules of VLANs: detach" tpx-bpf detach
}

early() { # DEVICE XDP: where the status says that it drops early
  tpx-bpf status | tee /tmp/status | grep -Eq "^  $1 +$2 " || { cat /tmp/status; return 1; }
}

dropped() { # NAMESPACE NUMBER
  ! direct "$@"
}

early_drop() {
  cat >/tmp/config.yaml <<END
version: 1
interfaces: {lan: [lan0, vlan0, qinq0], wan: [wan0]}
rules:
  - {name: nobody, match: {proto: tcp, src: [192.0.2.128/26, "2001:db8:2::/64"]}, action: drop}
default: bypass
xdp: native
END
  needed "early drop: load" tpx-bpf load --config /tmp/config.yaml
  check "early drop: a device that carries VLANs is left to tc" early lan0 "none +it carries the VLAN"
  check "early drop: generic where the driver has no XDP" early vlan0 "generic +native XDP failed"
  check "early drop: whom the rule is about" dropped tagged 2
  check "early drop: nobody else on the trunk" direct untagged 1
  check "early drop: nor in another VLAN" direct stacked 3
  check "early drop: detach" tpx-bpf detach
}

# Into VLANs as well: what the server sends comes in by a device of the LAN, too.
forwarded() {
  cat >/tmp/config.yaml <<END
version: 1
interfaces: {lan: [lan0, vlan0, qinq0, wan0]}
rules:
  - {name: around, match: {proto: tcp}, action: bypass, forward: fib}
END
  needed "forward by the FIB: load" tpx-bpf load --config /tmp/config.yaml
  for client in untagged tagged stacked; do
    forwarded_before=$(packets forwarded)
    check "forward by the FIB: data is whole, $client" transfer $client
    check "forward by the FIB: it was forwarded, $client" [ "$(packets forwarded)" -gt "$((forwarded_before + 100))" ]
  done
  check "forward by the FIB: the address stays" direct tagged 2
  check "forward by the FIB: detach" tpx-bpf detach
}

# A VLAN device may go at any time, and takes its hook with it.
gone() {
  configure vlan0
  check "deleted VLAN: load" tpx-bpf load --config /tmp/config.yaml
  ip link del vlan0
  check "deleted VLAN: detach" tpx-bpf detach
  snapshot >/tmp/after
  check "deleted VLAN: nothing is left" sh -c '! grep -E "tpx|clsact|2184" /tmp/after'
}

prepare
needed "a network with VLANs" network
needed "a server" serve
needed "direct: untagged" eventually direct untagged 1
needed "direct: 802.1Q" eventually direct tagged 2
needed "direct: 802.1Q in 802.1ad" eventually direct stacked 3
vlan
qinq
trunk
rules
early_drop
forwarded
gone
dmesg >/tmp/dmesg
check "the kernel has nothing to complain of" \
  sh -c '! grep -E "WARNING: CPU|kernel BUG|Oops|general protection|refcount" /tmp/dmesg'
finish
