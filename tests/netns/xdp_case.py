# SPDX-License-Identifier: Apache-2.0
"""What the XDP tests share: a rule that drops a port, and clients that try it."""
import socket

import harness
import packets
import product

DROPPED = 7001
BOTH = {"proto": ["tcp", "udp"]}
NOBODY = product.rule("drop", "no", {**BOTH, "dport": DROPPED})


def dropping(xdp="native", *rules, **more):
    return product.config([*(rules or [NOBODY]), product.rule()], xdp=xdp, **more)


class XdpCase(product.TestCase):
    fate = TimeoutError  # of who connects in a flood

    def setUp(self):
        super().setUp()
        self.lab.serve()

    def flood(self, port=DROPPED, count=20):
        for family in harness.FAMILIES:
            with self.lab.client.socket(family.af, socket.SOCK_DGRAM) as sock:
                for _ in range(count):
                    sock.sendto(b"x", (family.server, port))
            with self.lab.client.socket(family.af) as sock:
                sock.settimeout(0.3)
                with self.assertRaises(self.fate):
                    sock.connect((family.server, port))
            for proto in ("tcp", "udp"):
                self.assert_explained("drop", (family.client, 50000), (family.server, port), proto)

    def syns_seen(self, **flood):
        """Of a flood, by whoever listens on the device."""
        with packets.Tap(self.lab.gateway, "lan0") as tap:
            self.flood(**flood)
            return len(tap.collect(lambda tcp: tcp.dport == DROPPED))
