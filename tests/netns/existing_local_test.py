# SPDX-License-Identifier: Apache-2.0
"""reload --existing beside flows of the gateway's own processes: they go on, and new ones are judged anew."""
import json
import socket

import existing_test
import harness
import local_case
import product


class ExistingLocal(existing_test.Reloading, local_case.LocalCase):
    def setUp(self):
        super().setUp()
        self.cgroup.join()
        self.addCleanup(self.cgroup.leave)

    def of_policy(self, lan, local):
        return self.settings(product.rule(lan, "lan", {**local_case.ANY, "src": [f.client_net for f in harness.FAMILIES]}),
                             product.rule(local, "local", local_case.ANY), proxy={"drain_timeout": "8s"})

    def begin(self, space, family, kind):
        """A flow: asked, it says as whom the server sees it."""
        sock = space.socket(family.af, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        self.addCleanup(sock.close)
        sock.settimeout(5)
        server = (family.server, 8080 if kind == "tcp" else 5300)
        if kind != "datagram":
            sock.connect(server)

        def who(seconds=5):
            sock.settimeout(seconds)
            if kind == "datagram":
                sock.sendto(b"W", server)
            else:
                sock.send(b"W\n")
            return json.loads(sock.recv(100))
        return who

    def begin_all(self, lan, local):
        """Of the LAN and of the gateway, with what the server saw."""
        self.tpx.start(self.of_policy(lan, local))
        spaces = ((self.lab.client, ("tcp", "connected")), (self.lab.gateway, ("tcp", "connected", "datagram")))
        flows = [[self.begin(space, family, kind) for family in harness.FAMILIES for kind in kinds]
                 for space, kinds in spaces]
        return [[(who, who()) for who in some] for some in flows]

    def assert_same(self, flows):
        for who, seen in flows:
            self.assertEqual(who(), seen)

    def test_I3_abort_of_others_leaves_them_alone(self):
        for local in ("proxy", "bypass"):
            with self.subTest(local):
                of_lan, own = self.begin_all("proxy", local)
                said = self.reload_with("abort", self.of_policy("drop", local))
                self.assertIn("ended 2 TCP sessions and 2 UDP flows\n", said)
                for _ in range(2):
                    self.assert_same(own)
                for who, _ in of_lan:
                    self.assertRaises((TimeoutError, ConnectionResetError), who, 0.3)
                self.assertEqual(self.tpx.stop(), 0)
                self.tpx.detach()

    def test_I3_abort_keeps_them_where_they_would_be_judged_otherwise(self):
        for before, after in (("proxy", "reject"), ("bypass", "reject"), ("proxy", "bypass"), ("bypass", "proxy")):
            with self.subTest(f"{before}, {after}"):
                of_lan, own = self.begin_all("proxy", before)
                said = self.reload_with("abort", self.of_policy("proxy", after))
                self.assertIn("judged otherwise now: 0 TCP sessions and 0 UDP flows\n", said)
                self.assert_same(of_lan + own)
                for kind, family in self.each():
                    if after == "reject":
                        self.assertEqual(self.ask(kind, family).get("error"), "ConnectionRefusedError")
                    else:
                        (self.assert_proxied if after == "proxy" else self.assert_direct)(kind, family)
                self.assertEqual(self.tpx.stop(), 0)
                self.tpx.detach()

    def test_I3_drain_of_others_leaves_them_alone(self):
        of_lan, own = self.begin_all("proxy", "proxy")
        process, said = self.draining(self.of_policy("drop", "reject"))
        self.assertIn("judged otherwise now: 2 TCP sessions and 2 UDP flows\n", said)
        self.assert_same(of_lan + own)
        self.assertEqual(process.stdout.read(), "ended 2 TCP sessions and 2 UDP flows\n")
        self.assertEqual(process.wait(20), 0)
        for who, _ in of_lan:
            self.assertRaises((TimeoutError, ConnectionResetError), who, 0.3)
        self.assert_same(own)


if __name__ == "__main__":
    harness.main()
