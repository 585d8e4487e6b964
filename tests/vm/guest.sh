#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# PID 1 of the virtual machine that vm_test.py boots. Prints one line per check, "ok - what" or
# "not ok - what", and "1..COUNT" at the end; the serial console carries it out.
#
# The machine itself is the gateway; clients and server are network namespaces:
#   untagged  c0         ── lan0                       802.3, and 802.1p through prio0
#   tagged    c0.100     ── lan0 ── vlan0              802.1Q
#   stacked   c0.200.300 ── lan0 ── outer ── qinq0     802.1Q in 802.1ad
#   server    s0         ── wan0
set -u
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
PORT=8080
REJECTED=8081
TRIES=60 # of a quarter of a second: emulation is slow, and not the subject
# The server has a second address; the untagged client reaches it through prio0.
SERVER4=198.51.100.2 SERVER6=2001:db8:f::2
PRIO4=198.51.100.3 PRIO6=2001:db8:f::3
GATEWAY4=198.51.100.1 GATEWAY6=2001:db8:f::1
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

# --- the machine -------------------------------------------------------------

prepare() {
  mount -t proc proc /proc
  mount -t sysfs sysfs /sys
  mount -t devtmpfs dev /dev
  mount -t bpf bpf /sys/fs/bpf
  mount -t tmpfs tmpfs /run
  mount -t tmpfs tmpfs /tmp
  ip link set lo up
  echo 1 >/proc/sys/net/ipv4/ip_forward
  echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
  for space in untagged tagged stacked server; do
    ip netns add $space
    ip -n $space link set lo up
  done
}

client() { # NAMESPACE ITS-DEVICE GATEWAY-DEVICE NUMBER
  ip link set "$3" up
  ip addr add 192.0.2.$((64 * $4 + 1))/26 dev "$3"
  ip addr add "2001:db8:$4::1/64" dev "$3" nodad
  ip -n "$1" link set "$2" up
  ip -n "$1" addr add 192.0.2.$((64 * $4 + 2))/26 dev "$2"
  ip -n "$1" addr add "2001:db8:$4::2/64" dev "$2" nodad
  ip -n "$1" route add default via 192.0.2.$((64 * $4 + 1))
  ip -n "$1" -6 route add default via "2001:db8:$4::1"
}

# A device for VLAN 0 marks what it sends with a priority only; the answers come back untagged,
# which is why its neighbour is a fixed entry.
priority() {
  mac=$(cat /sys/class/net/lan0/address)
  ip -n untagged link add link c0 name prio0 type vlan id 0 egress-qos-map 0:5
  ip -n untagged link set prio0 up
  ip -n untagged neigh add 192.0.2.65 lladdr "$mac" dev prio0
  ip -n untagged neigh add 2001:db8:1::1 lladdr "$mac" dev prio0
  ip -n untagged route add $PRIO4 via 192.0.2.65 dev prio0 onlink src 192.0.2.66
  ip -n untagged -6 route add $PRIO6 via 2001:db8:1::1 dev prio0 onlink src 2001:db8:1::2
}

network() {
  ip link add lan0 type veth peer name c0 netns untagged &&
    ip link add wan0 type veth peer name s0 netns server &&
    ip link add link lan0 name vlan0 type vlan id 100 &&
    ip link add link lan0 name outer type vlan proto 802.1ad id 200 &&
    ip link add link outer name qinq0 type vlan id 300 &&
    ip -n untagged link add link c0 name c0.100 type vlan id 100 &&
    ip -n untagged link add link c0 name c0.200 type vlan proto 802.1ad id 200 &&
    ip -n untagged link add link c0.200 name c0.200.300 type vlan id 300 &&
    ip -n untagged link set c0.100 netns tagged &&
    ip -n untagged link set c0.200.300 netns stacked || return 1
  client untagged c0 lan0 1
  ip link set outer up
  ip -n untagged link set c0.200 up
  client tagged c0.100 vlan0 2
  client stacked c0.200.300 qinq0 3
  priority
  ip link set wan0 up
  ip addr add $GATEWAY4/24 dev wan0
  ip addr add $GATEWAY6/64 dev wan0 nodad
  ip -n server link set s0 up
  for address in $SERVER4/24 $PRIO4/24 $SERVER6/64 $PRIO6/64; do
    ip -n server addr add $address dev s0 $(case $address in *:*) echo nodad ;; esac)
  done
  ip -n server route add default via $GATEWAY4
  ip -n server -6 route add default via $GATEWAY6
}

# The server says who calls, and has a file to give.
serve() {
  mkdir -p /tmp/www/cgi-bin
  printf '#!/bin/sh\nprintf "\\r\\n%%s\\n" "$REMOTE_ADDR"\n' >/tmp/www/cgi-bin/who
  printf '#!/bin/sh\nprintf "\\r\\n"\nmd5sum\n' >/tmp/www/cgi-bin/sum
  chmod 755 /tmp/www/cgi-bin/*
  head -c 6000000 /dev/urandom >/tmp/www/file
  at server httpd -p "[::]:$PORT" -h /tmp/www
}

# --- clients -----------------------------------------------------------------

request() { # NAMESPACE SERVER PATH [BODY]: the body of the answer
  {
    if [ -n "${4:-}" ]; then
      printf 'POST /%s HTTP/1.0\r\nContent-Length: %d\r\n\r\n' "$3" "$(wc -c <"$4")"
      cat "$4"
    else
      printf 'GET /%s HTTP/1.0\r\n\r\n' "$3"
    fi
  } | at "$1" timeout 20 nc "$2" $PORT | {
    while read -r line && [ "$line" != "$(printf '\r')" ]; do :; done
    cat
  }
}

who() { # NAMESPACE SERVER: the address that the server sees
  request "$1" "$2" cgi-bin/who | sed 's/^\[*\(::ffff:\)*//; s/\].*//'
}

saw() { # ADDRESS NAMESPACE SERVER
  seen=$(who "$2" "$3")
  [ "$seen" = "$1" ] || { echo "the server saw '$seen', not $1"; return 1; }
}

proxied() { # NAMESPACE [SERVER4 SERVER6]
  eventually saw $GATEWAY4 "$1" "${2:-$SERVER4}" && eventually saw $GATEWAY6 "$1" "${3:-$SERVER6}"
}

direct() { # NAMESPACE NUMBER; at the first try: nothing has to settle
  saw 192.0.2.$((64 * $2 + 2)) "$1" $SERVER4 && saw "2001:db8:$2::2" "$1" $SERVER6
}

transfer() { # NAMESPACE: whole in both directions and families
  sum=$(md5sum </tmp/www/file)
  for address in $SERVER4 $SERVER6; do
    [ "$(request "$1" $address file | md5sum)" = "$sum" ] || { echo "down, $address"; return 1; }
    [ "$(request "$1" $address cgi-bin/sum /tmp/www/file)" = "$sum" ] || { echo "up, $address"; return 1; }
  done
}

refused() { # NAMESPACE: by the gateway, at once
  for address in $SERVER4 $SERVER6; do
    at "$1" timeout 20 nc "$address" $REJECTED </dev/null >/tmp/refusal 2>&1
    grep -q 'Connection refused' /tmp/refusal || { echo "$address: $(cat /tmp/refusal)"; return 1; }
  done
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

packets() { # REASON
  tpx-bpf counters | sed -n "s/^ *$1  *\([0-9]*\).*/\1/p"
}

priority_sent() { ip -n untagged -s link show prio0 | sed -n '/TX:/{n;s/^ *[0-9]* *\([0-9]*\).*/\1/p;}'; }

grew() { # REASON FORMER
  now=$(packets "$1")
  [ "${now:-0}" -gt "${2:-0}" ] || { echo "$1: $2, then $now"; return 1; }
}

snapshot() {
  for family in -4 -6; do
    ip $family rule
    ip $family route show table all
  done
  ip addr
  tc qdisc show
  for device in $(ls /sys/class/net); do
    tc filter show dev "$device" ingress
    tc filter show dev "$device" egress
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
  check "802.1Q: detach" tpx-bpf detach
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
  check "trunk: a VLAN of it as well" tpx-bpf reload --config /tmp/config.yaml
  check "trunk: both are attached" attached lan0 vlan0
  check "trunk: both are proxied, untagged" proxied untagged
  check "trunk: both are proxied, tagged" proxied tagged
  check "trunk: SIGTERM ends it in peace" ended 0 TERM
  check "trunk: detach" tpx-bpf detach
  check "trunk: nothing is left" clean
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
gone
dmesg >/tmp/dmesg
check "the kernel has nothing to complain of" \
  sh -c '! grep -E "WARNING: CPU|kernel BUG|Oops|general protection|refcount" /tmp/dmesg'
finish
