# SPDX-License-Identifier: Apache-2.0
"""reload --existing: what becomes of the flows that the new policy judges otherwise, and of the others."""
import json
import signal
import subprocess

import harness
import product
import udp_case

KEPT, CHANGED = 8080, 8081
COUNT = 25  # of each kind and family: 100 flows


def configure(*rules, drain="30s"):
    return product.config(list(rules), proxy={"drain_timeout": drain})


class Reloading(product.TestCase):
    def reload_with(self, what, content):
        return self.tpx.reload(content, extra=("--existing", what)).stdout

    def draining(self, content):
        """The command while it waits, and what it has said by then."""
        self.tpx.write(content)
        return self.drain("--config", self.tpx.config)

    def drain(self, *args):
        """Likewise, of any reload."""
        process = self.tpx.space.popen(*self.tpx.argv("reload", *args, "--existing", "drain"),
                                       stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(harness.end, process)
        said = ""
        while "waiting" not in said:
            line = process.stdout.readline()
            self.assertTrue(line, said)
            said += line
        return process, said


class Existing(Reloading, udp_case.UdpCase):
    def assert_new_ones(self, proto, kept, changed, verdict="drop"):
        """What the new policy says of new flows, whatever became of the old ones."""
        asked, self.asks_explain = self.asks_explain, True
        for family in harness.FAMILIES:
            for port, expected, rule in ((kept, "proxy", "another"), (changed, verdict, "second")):
                self.assert_explained(expected, (family.client, 50000), (family.server, port), proto, rule)
        self.asks_explain = asked


class ExistingTcp(Existing):
    def setUp(self):
        super().setUp()
        self.lab.serve(KEPT)
        self.lab.serve(CHANGED)
        self.tpx.start(configure(product.rule("proxy", "first", {"dport": KEPT}), product.rule("proxy", "second")))
        self.kept, self.changed = (
            [self.lab.peer(self.lab.client, "hold", f.server, port, "--count", COUNT) for f in harness.FAMILIES]
            for port in (KEPT, CHANGED))
        for peer in self.kept + self.changed:
            self.assertEqual(peer.read()["failures"], {})

    @staticmethod
    def changing(action="drop", drain="30s", **more):
        # The other rule changes its name alone.
        return configure(product.rule("proxy", "another", {"dport": KEPT}),
                         product.rule(action, "second", **more), drain=drain)

    def assert_alive(self, peers):
        for peer in peers:
            self.assertEqual(peer.ask("check"), {"ok": COUNT})

    def assert_reset(self, peers):
        for peer in peers:
            self.assertEqual(peer.ask("watch"), {"ECONNRESET": COUNT})

    def test_I3_keep_cuts_nothing(self):
        for args in ((), ("--existing", "keep")):
            self.tpx.reload(self.changing(), extra=args)
            self.assert_alive(self.kept + self.changed)
            self.assert_new_ones("tcp", KEPT, CHANGED)
        self.assertEqual(self.tpx.totals()["closed_aborted"], 0)

    def test_I3_abort_resets_what_changed_at_both_ends(self):
        client, server = self.pair(harness.V4, 9000)
        transfer = self.lab.peer(self.lab.client, "transfer", harness.V6.server, KEPT, "--count", 4, "--bytes",
                                 harness.scaled(16 << 20))
        said = self.reload_with("abort", self.changing())
        self.assertIn("judged otherwise now: 51 TCP sessions and 0 UDP flows\n", said)
        self.assertIn("ended 51 TCP sessions and 0 UDP flows\n", said)
        for sock in (client, server):
            with self.assertRaises(ConnectionResetError):
                sock.recv(1)
        self.assert_reset(self.changed)
        self.assert_alive(self.kept)
        self.assert_new_ones("tcp", KEPT, CHANGED)
        harness.wait_until(lambda: self.tpx.totals()["closed_aborted"] == 51, "they are counted")
        for result in transfer.read():
            self.assertEqual((result["error"], result.get("down_ok"), result.get("up_ok")), (None, True, True), result)

    def test_I3_abort_is_about_the_effect_of_the_rules(self):
        said = self.reload_with("abort", self.changing("proxy"))
        self.assertIn("judged otherwise now: 0 TCP sessions", said)
        self.assert_alive(self.kept + self.changed)
        self.assertIn("now: 50 TCP", self.reload_with("abort", self.changing("proxy", source="preserve")))
        self.assert_reset(self.changed)
        self.assert_alive(self.kept)

    def test_I3_abort_ends_what_an_earlier_reload_kept(self):
        self.tpx.reload(self.changing("bypass"))
        self.assert_alive(self.changed)
        self.assert_new_ones("tcp", KEPT, CHANGED, "direct")
        self.assertIn("ended 50 TCP", self.reload_with("abort", self.changing("bypass")))
        self.assert_reset(self.changed)
        self.assert_alive(self.kept)

    def test_what_a_rule_about_the_link_may_decide_is_kept(self):
        said = self.reload_with("abort", configure(product.rule("proxy", "all", {"interface": "lan0"})))
        self.assertIn("kept, because rules ask for the link, which is not known any more: 100 TCP sessions", said)
        self.assert_alive(self.kept + self.changed)

    def test_I3_drain_waits_then_resets(self):
        process, said = self.draining(self.changing(drain="8s"))
        self.assertIn("judged otherwise now: 50 TCP sessions and 0 UDP flows\n", said)
        self.assert_alive(self.kept + self.changed)
        self.changed[0].ask("close")
        self.assertIsNone(process.poll())
        self.assertEqual(process.stdout.read(), "ended 25 TCP sessions and 0 UDP flows\n")
        self.assertEqual(process.wait(20), 0)
        self.assert_reset(self.changed[1:])
        self.assert_alive(self.kept)

    def test_I3_drain_ends_with_the_last_flow(self):
        process, _ = self.draining(self.changing(drain="10m"))
        for peer in self.changed:
            peer.ask("close")
        self.assertEqual(process.stdout.read(), "ended 0 TCP sessions and 0 UDP flows\n")
        self.assertEqual(process.wait(20), 0)
        self.assert_alive(self.kept)

    def test_I3_an_interrupted_drain_leaves_them_alone(self):
        process, _ = self.draining(self.changing(drain="10m"))
        process.send_signal(signal.SIGINT)
        process.wait(20)
        self.assert_alive(self.kept + self.changed)
        self.assertEqual(set(self.tpx.rules()), {"another", "second", "default"})


class ExistingUdp(Existing):
    def start_flows(self):
        """A socket for each flow, with the endpoint that its server sees."""
        self.start_udp(product.udp_rule("proxy", "first", {"dport": udp_case.PORT}),
                       product.udp_rule("proxy", "second"))
        flows = {}
        for family in harness.FAMILIES:
            for port in (udp_case.PORT, udp_case.OTHER_PORT):
                socks = [self.socket(family, address=family.client) for _ in range(COUNT)]
                flows[family, port] = [(sock, self.who(sock, family, port)) for sock in socks]
        return flows

    @staticmethod
    def changing(drain="30s"):
        return configure(product.udp_rule("proxy", "another", {"dport": udp_case.PORT}),
                         product.udp_rule("drop", "second"), drain=drain)

    def assert_same(self, flows, ports):
        for (family, port), pairs in flows.items():
            for sock, seen in pairs if port in ports else ():
                self.assertEqual(self.who_quietly(sock, family, port), seen)

    def who_quietly(self, sock, family, port):
        """Of an old flow: explain would be asked about a new one."""
        self.asks_explain = False
        return self.who(sock, family, port)

    def reaches(self, family, sock, seen, seconds=5.0):
        """Whether what somebody sends to the endpoint that the server sees comes to the client."""
        self.far_socket(family).sendto(b"late", seen)
        sock.settimeout(seconds)
        try:
            return sock.recv(100) == b"late"
        except TimeoutError:
            return False
        finally:
            sock.settimeout(5)

    def assert_ended(self, flows):
        for family in harness.FAMILIES:
            for sock, seen in flows[family, udp_case.OTHER_PORT]:
                sock.sendto(b"W", (family.server, udp_case.OTHER_PORT))
                self.far_socket(family).sendto(b"late", seen)
        for family in harness.FAMILIES:
            self.assert_silence(flows[family, udp_case.OTHER_PORT][0][0])
            for sock, _ in flows[family, udp_case.OTHER_PORT][1:]:
                self.assert_silence(sock, 0.001)

    def test_I3_keep_cuts_nothing(self):
        flows = self.start_flows()
        self.tpx.reload(self.changing())
        self.assert_same(flows, (udp_case.PORT, udp_case.OTHER_PORT))
        self.assert_new_ones("udp", udp_case.PORT, udp_case.OTHER_PORT)

    def test_I3_abort_forgets_what_changed(self):
        flows = self.start_flows()
        for family in harness.FAMILIES:  # full cone
            self.assertTrue(self.reaches(family, *flows[family, udp_case.OTHER_PORT][0]))
        said = self.reload_with("abort", self.changing())
        self.assertIn("ended 0 TCP sessions and 50 UDP flows\n", said)
        self.assert_ended(flows)
        self.assert_new_ones("udp", udp_case.PORT, udp_case.OTHER_PORT)
        self.assertGreaterEqual(self.total("udp_ended"), 2 * COUNT)
        self.assert_same(flows, (udp_case.PORT,))
        for family in harness.FAMILIES:
            self.assertTrue(self.reaches(family, *flows[family, udp_case.PORT][0]))

    def test_I3_a_server_that_speaks_first_reaches_a_kept_flow(self):
        flows = self.start_flows()
        self.reload_with("abort", self.changing())
        for family in harness.FAMILIES:
            (speaker, _), (listener, (address, port)) = flows[family, udp_case.PORT][:2]
            speaker.sendto(f"F {address} {port} news".encode(), (family.server, udp_case.PORT))
            self.assertEqual(listener.recv(100), b"news")

    def test_I3_abort_changes_the_target_of_a_redirect(self):
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                first, second = (self.far_socket(family, port) for port in (6001, 6002))

                def redirect(port):
                    return configure(product.udp_rule({"redirect": product.end(family.server, port)}))
                self.assertEqual(self.tpx.stop(), 0)
                self.tpx.start(redirect(6001))
                sock = self.socket(family, address=family.client)

                def arrives(where):
                    sock.sendto(b"hello", (family.server, 5999))
                    data, sender = where.recvfrom(100)
                    where.sendto(b"answer", sender)
                    self.assertEqual((data, sock.recv(100)), (b"hello", b"answer"))
                arrives(first)
                self.tpx.reload(redirect(6002))
                arrives(first)
                self.assertRegex(self.reload_with("abort", redirect(6002)), r"ended 0 TCP sessions and [12] UDP flow")
                arrives(second)

    def test_I3_drain_waits_then_forgets(self):
        flows = self.start_flows()
        process, said = self.draining(self.changing("8s"))
        self.assertIn("judged otherwise now: 0 TCP sessions and 50 UDP flows\n", said)
        self.assert_same(flows, (udp_case.PORT, udp_case.OTHER_PORT))
        self.assertEqual(process.stdout.read(), "ended 0 TCP sessions and 50 UDP flows\n")
        self.assertEqual(process.wait(20), 0)
        self.assert_ended(flows)
        self.assert_same(flows, (udp_case.PORT,))


class ExistingSets(Existing):
    """With --sets: what the changed files say decides, not the file of the configuration."""

    def setUp(self):
        super().setUp()
        self.blocked = self.tpx.folder / "blocked.txt"
        self.blocked.write_text("")
        self.lab.serve(KEPT)
        self.tpx.start(product.config([product.rule("reject", "blocked", {"proto": ["tcp", "udp"], "dst": "blocked"}),
                                       product.rule("proxy", "rest", {"proto": ["tcp", "udp"]})],
                                      sets={"blocked": {"file": "blocked.txt"}}, proxy={"drain_timeout": "8s"}))
        self.tcp = {family: self.lab.client.connect(family, family.server, KEPT) for family in harness.FAMILIES}
        self.udp = {family: self.socket(family) for family in harness.FAMILIES}
        for sock in self.tcp.values():
            self.addCleanup(sock.close)
        self.assert_alive(*harness.FAMILIES)
        self.asks_explain = False  # from here on it is about old flows
        self.tpx.write(product.config([product.rule("drop", "all", {"proto": ["tcp", "udp"]})]))  # not to be applied
        self.blocked.write_text(f"{harness.V4.server}\n")

    def assert_alive(self, *families):
        for family in families:
            self.tcp[family].sendall(b"W\n")
            self.assertEqual(json.loads(self.tcp[family].recv(100))[0], family.wan)
            self.assertEqual(self.who(self.udp[family], family)[0], family.wan)

    def assert_ended(self, family):
        with self.assertRaises(ConnectionResetError):
            self.tcp[family].recv(1)
        self.udp[family].sendto(b"W", (family.server, udp_case.PORT))
        self.assert_silence(self.udp[family])

    def test_I3_abort_ends_what_a_set_has_got(self):
        said = self.tpx.command("reload", "--sets", "--existing", "abort").stdout
        self.assertIn("set blocked: 1 prefixes (was 0)\n", said)
        self.assertIn("judged otherwise now: 1 TCP session and 1 UDP flow\n", said)
        self.assertIn("ended 1 TCP session and 1 UDP flow\n", said)
        self.assert_ended(harness.V4)
        self.assert_alive(harness.V6)
        self.asks_explain = True
        for proto, port in (("tcp", KEPT), ("udp", udp_case.PORT)):
            for family, verdict in ((harness.V4, "reject"), (harness.V6, "proxy")):
                self.assert_explained(verdict, (family.client, 50000), (family.server, port), proto)

    def test_I3_drain_waits_then_ends_what_a_set_has_got(self):
        process, said = self.drain("--sets")
        self.assertIn("set blocked: 1 prefixes (was 0)\n", said)
        self.assertIn("judged otherwise now: 1 TCP session and 1 UDP flow\n", said)
        self.assert_alive(*harness.FAMILIES)
        self.assertEqual(process.stdout.read(), "ended 1 TCP session and 1 UDP flow\n")
        self.assertEqual(process.wait(20), 0)
        self.assert_ended(harness.V4)
        self.assert_alive(harness.V6)

    def test_I3_keep_cuts_nothing(self):
        self.tpx.command("reload", "--sets", "--existing", "keep")
        self.assert_alive(*harness.FAMILIES)
        self.asks_explain = True
        self.assert_refused(harness.V4, KEPT)


if __name__ == "__main__":
    harness.main()
