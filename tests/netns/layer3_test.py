# SPDX-License-Identifier: Apache-2.0
"""LAN devices without Ethernet headers, beside one that has them."""
import fcntl
import os
import socket
import struct

import harness
import packets
import product

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
DENIED = 23
# Where a frame has the type of what it carries, such a packet has the same, and behind it what looks like a header.
DISGUISED = {"v4": "8.0.69.0", "v6": "2001:db8:86dd:6000::1"}


def syn(family, source, port):
    tcp = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 2, 65535, 0, 0)
    src, dst = (socket.inet_pton(family.af, a) for a in (source, family.server))
    if family is harness.V4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + src + dst
        return head[:10] + struct.pack("!H", packets.checksum(head)) + head[12:] + tcp
    return struct.pack("!IHBB", 6 << 28, 20, 6, 64) + src + dst + tcp


class Layer3(product.TestCase):
    def setUp(self):
        super().setUp()
        with self.lab.gateway.entered():
            self.tun = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(self.tun, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN | IFF_NO_PI))
        self.addCleanup(os.close, self.tun)
        self.lab.gateway.ip("link set tun0 up")

    def dropped(self):
        return self.tpx.reasons().get("rule_drop", 0)

    def test_a_packet_cannot_pretend_to_have_an_ethernet_header(self):
        interfaces = {"lan": ["lan0", "tun0"], "wan": ["wan0"]}
        rules = [product.rule("drop", "denied", {"dport": DENIED}), product.rule()]
        self.lab.serve()
        self.tpx.start(product.config(rules))  # on Ethernet alone
        for added in (False, True):
            if added:
                self.tpx.reload(product.config(rules, interfaces=interfaces))
            for family in harness.FAMILIES:
                self.assert_proxied(family)
                self.assert_dropped(family, DENIED)
                before = self.dropped()
                for source in (family.client, DISGUISED[family.name]):
                    os.write(self.tun, syn(family, source, DENIED))
                harness.wait_until(lambda: self.dropped() - before == (2 if added else 0), "both are dropped")


if __name__ == "__main__":
    harness.main()
