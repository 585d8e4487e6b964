# shellcheck shell=dash
# SPDX-License-Identifier: Apache-2.0
# The network of guest.sh, and what its clients can do.
#
# The machine itself is the gateway; clients and server are network namespaces:
#   untagged  c0         ── lan0                       802.3, and 802.1p through prio0
#   tagged    c0.100     ── lan0 ── vlan0              802.1Q
#   stacked   c0.200.300 ── lan0 ── outer ── qinq0     802.1Q in 802.1ad
#   server    s0         ── wan0
PORT=8080
REJECTED=8081
# The server has a second address; the untagged client reaches it through prio0.
SERVER4=198.51.100.2 SERVER6=2001:db8:f::2
PRIO4=198.51.100.3 PRIO6=2001:db8:f::3
GATEWAY4=198.51.100.1 GATEWAY6=2001:db8:f::1

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
  echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
  for space in untagged tagged stacked server; do
    ip netns add $space
    at $space sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad'
    ip -n $space link set lo up
  done
}

near_client() { # GATEWAY-DEVICE NUMBER
  ip link set "$1" up
  ip addr add 192.0.2.$((64 * $2 + 1))/26 dev "$1"
  ip addr add "2001:db8:$2::1/64" dev "$1"
}

client() { # NAMESPACE ITS-DEVICE GATEWAY-DEVICE NUMBER
  near_client "$3" "$4"
  ip -n "$1" link set "$2" up
  ip -n "$1" addr add 192.0.2.$((64 * $4 + 2))/26 dev "$2"
  ip -n "$1" addr add "2001:db8:$4::2/64" dev "$2"
  ip -n "$1" route add default via 192.0.2.$((64 * $4 + 1))
  ip -n "$1" -6 route add default via "2001:db8:$4::1"
}

# Another device, with another number, by the same name.
replace_vlan0() {
  ip link del vlan0 && ip link add link lan0 name vlan0 type vlan id 100 && near_client vlan0 2
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
  ip addr add $GATEWAY6/64 dev wan0
  ip -n server link set s0 up
  for address in $SERVER4/24 $PRIO4/24 $SERVER6/64 $PRIO6/64; do
    ip -n server addr add $address dev s0
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

ended_by_server() { # NAMESPACE: nc ends a connection itself as soon as there is nothing to send
  for address in $SERVER4 $SERVER6; do
    { printf 'GET /cgi-bin/who HTTP/1.0\r\n\r\n'; sleep 2; } | at "$1" timeout 20 nc "$address" $PORT || return 1
  done
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
