# SPDX-License-Identifier: Apache-2.0
"""Rules that ask for the link: interface, mac, dscp, and their negations, with real connections."""
import socket

import harness
import product

PROXIED, DIRECT, DROPPED = "proxied", "direct", "dropped"
VERDICTS = {PROXIED: "proxy", DIRECT: "direct", DROPPED: "drop"}


class LinkMatch(product.TestCase):
    def setUp(self):
        super().setUp()
        self.lab.serve()

    def fate(self, family, tos=0):
        def prepare(sock):
            level, name = (socket.IPPROTO_IP, socket.IP_TOS) if family.name == "v4" else \
                (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
            sock.setsockopt(level, name, tos)
        try:
            with self.lab.client.connect(family, family.server, 8080, timeout=0.7, prepare=prepare) as sock:
                sock.sendall(b"W\n")
                return PROXIED if f'"{family.wan}"'.encode() in sock.recv(100) else DIRECT
        except TimeoutError:
            return DROPPED

    def check(self, expected, rule, device="lan0", **how):
        for family in harness.FAMILIES:
            with self.subTest(family=family.name, **how):
                self.assertEqual(self.fate(family, **how), expected)
                self.assert_explained(VERDICTS[expected], (family.client, 50000), (family.server, 8080), rule=rule,
                                      more=("--in", device, "--mac", self.mac(), "--dscp", str(how.get("tos", 0) >> 2)))

    def run_rules(self, *rules):
        self.tpx.start(product.config([*rules], interfaces={"lan": ["lan*"], "wan": ["wan0"]}))

    def mac(self):
        text = self.lab.client.run("ip", "-br", "link", "show", "c0").stdout
        return text.split()[2]

    def test_interface_is_followed_by_its_name(self):
        self.run_rules(product.rule("proxy", "first", {"interface": "lan0"}),
                       product.rule("drop", "second", {"interface": "lan7"}))
        self.check(PROXIED, "first")
        self.lab.gateway.ip("link set lan0 down", "link set lan0 name lan7", "link set lan7 up")
        v6 = harness.FAMILIES[1]  # whose addresses go while a device is down
        self.lab.address(self.lab.gateway, "lan7", v6, v6.lan)
        for family in harness.FAMILIES:
            harness.wait_until(lambda f=family: self.fate(f) == DROPPED, "the rule of the new name")
        self.check(DROPPED, "second", "lan7")
        self.assertGreater(self.tpx.rules()["second"], 0)

    def test_mac_dscp_and_not(self):
        self.run_rules(product.rule("drop", "urgent", {"dscp": "ef"}),
                       product.rule("drop", "strangers", {"mac": {"not": self.mac()}}),
                       product.rule("proxy", "known", {"mac": self.mac(), "interface": {"not": "lan9"}}))
        self.check(PROXIED, "known")
        self.check(DROPPED, "urgent", tos=46 << 2)
        self.assertEqual(self.tpx.rules()["strangers"], 0)


if __name__ == "__main__":
    harness.main()
