# SPDX-License-Identifier: Apache-2.0
"""Flows that begin on the gateway itself: real processes, by user and cgroup, both families."""
import json
import os
import pathlib
import socket
import textwrap

import harness
import product

UID = 4242

# Says what became of one flow, as the process sees it: its own address and the peer's.
CLIENT = textwrap.dedent("""
    import json, socket, sys
    kind, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    af = socket.AF_INET6 if ":" in address else socket.AF_INET
    say = {}
    try:
        if kind == "tcp":
            sock = socket.create_connection((address, port), 3)
            sock.sendall(b"W\\n")
            say["server_saw"] = json.loads(sock.recv(4096))[0]
            say["peer"] = sock.getpeername()[:2]
        else:
            sock = socket.socket(af, socket.SOCK_DGRAM)
            sock.settimeout(3)
            if kind == "connected":
                sock.connect((address, port))
                sock.send(b"hello")
            else:
                sock.sendto(b"hello", (address, port))
            data, peer = sock.recvfrom(4096)
            say["peer"] = peer[:2]
        say["own"] = sock.getsockname()[0]
    except OSError as error:
        say["error"] = type(error).__name__
    print(json.dumps(say))
""")


def cgroup2_root():
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        fields, rest = line.split(" - ")
        if rest.startswith("cgroup2 ") and fields.split()[3] == "/":
            return pathlib.Path(fields.split()[4])
    return None


class Cgroup:
    """A cgroup of the test's own. Processes join by themselves; children inherit."""

    def __init__(self, name, above=None):
        self.root = cgroup2_root()
        self.path = f"{above.path if above else ''}/{name}"
        self.folder = self.root / self.path[1:]
        self.folder.mkdir()

    def join(self):
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def leave(self):
        (self.root / "cgroup.procs").write_text(str(os.getpid()))

    def close(self):
        self.leave()
        harness.wait_until(self._removed, f"{self.folder} is empty")

    def _removed(self):
        try:
            self.folder.rmdir()
        except OSError:
            return False
        return True


class LocalCase(product.TestCase):
    def setUp(self):
        super().setUp()
        if cgroup2_root() is None:
            self.skipTest("cgroup v2 is not mounted")
        self.cgroup = Cgroup(self.lab.name)
        self.addCleanup(self.cgroup.close)
        self.lab.serve()
        self.datagrams = harness.Peer(self.lab.server, 5300, script="udp_peer.py")
        self.addCleanup(self.datagrams.close)
        self.datagrams.read()

    def settings(self, *rules, **more):
        return product.config([*rules], local={"cgroup": self.cgroup.path}, **more)

    def run_rules(self, *rules, **more):
        self.tpx.start(self.settings(*rules, **more))

    def ask(self, kind, family, uid=None, inside=True, address=None, port=None):
        """What a process of the gateway finds out."""
        folder = self.cgroup.folder if inside else self.cgroup.root
        user = ["setpriv", f"--reuid={uid}", "--clear-groups"] if uid else []
        port = port or (8080 if kind == "tcp" else 5300)
        done = self.lab.gateway.run(
            "sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec "$@"', "sh", *user,
            "/usr/bin/python3", "-c", CLIENT, kind, address or family.server, port)
        return json.loads(done.stdout)

    def assert_proxied(self, kind, family, **how):
        said = self.ask(kind, family, **how)
        self.assertEqual(said.get("peer"), [how.get("address") or family.server, how.get("port") or
                                            (8080 if kind == "tcp" else 5300)], said)
        if kind != "datagram":
            self.assertEqual(said["own"], family.loopback, said)
        return said

    def assert_direct(self, kind, family, **how):
        said = self.ask(kind, family, **how)
        self.assertEqual(said.get("peer", [None])[0], how.get("address") or family.server, said)
        if kind != "datagram":
            self.assertEqual(said["own"], family.wan, said)
        return said

    def each(self, kinds=("tcp", "connected", "datagram")):
        for family in harness.FAMILIES:
            for kind in kinds:
                with self.subTest(family=family.name, kind=kind):
                    yield kind, family


ANY = {"proto": ["tcp", "udp"]}


class Captured(LocalCase):
    def test_every_kind_of_flow_is_proxied(self):
        self.run_rules(product.rule(match=ANY))
        for kind, family in self.each():
            before = self.tpx.reasons()["lo_proxy"]
            self.assert_proxied(kind, family)
            self.assertEqual(self.tpx.reasons()["lo_proxy"], before + 1)
        totals = self.tpx.totals()
        self.assertEqual(totals["accepted"], 2)
        self.assertEqual(self.tpx.rules()["all"], 6)


    def test_mapped_addresses_of_dual_stack_sockets(self):
        self.run_rules(product.rule(match=ANY))
        for kind in ("tcp", "connected", "datagram"):
            with self.subTest(kind=kind):
                said = self.ask(kind, harness.V4, address="::ffff:198.51.100.2")
                self.assertEqual(said.get("peer", [None])[0], "::ffff:198.51.100.2", said)
                if kind != "datagram":
                    self.assertEqual(said["own"], "::ffff:127.0.0.1")
        self.assertEqual(self.tpx.reasons()["lo_proxy"], 3)

    def test_who_is_not_in_the_cgroup_or_the_namespace_is_left_alone(self):
        self.run_rules(product.rule(match=ANY))
        for kind, family in self.each():
            self.assert_direct(kind, family, inside=False)
        self.cgroup.join()
        self.addCleanup(self.cgroup.leave)
        # From the LAN it is a client's flow, judged by tc alone.
        before = self.tpx.reasons()
        for family in harness.FAMILIES:
            self.lab.who(family)
        after = self.tpx.reasons()
        self.assertEqual({r: after[r] for r in after if r.startswith("lo_pr")},
                         {r: before[r] for r in before if r.startswith("lo_pr")})

    def test_own_and_special_addresses_are_left_alone(self):
        self.run_rules(product.rule("drop", match=ANY))
        with self.lab.gateway.listen(harness.V6, 8080) as listener:
            for family in harness.FAMILIES:
                for address in (family.loopback, family.wan):
                    said = self.ask("tcp", family, address=address)
                    self.assertNotIn(said.get("error"), ("PermissionError", "ConnectionRefusedError"), said)
                    listener.accept()[0].close()
        reasons = self.tpx.reasons()
        self.assertEqual((reasons["lo_special_address"], reasons["lo_own_address"]), (2, 2))

    def test_denials_come_at_once(self):
        self.run_rules(product.rule("drop", "d", {"proto": ["tcp", "udp"], "dport": [8080, 5300]}),
                       product.rule("reject", "r", {"proto": ["tcp", "udp"], "dport": 9}))
        for kind, family in self.each():
            self.assertEqual(self.ask(kind, family).get("error"), "PermissionError")
            self.assertEqual(self.ask(kind, family, port=9).get("error"), "ConnectionRefusedError")
        reasons = self.tpx.reasons()
        self.assertEqual((reasons["lo_drop"], reasons["lo_reject"]), (6, 6))

    def test_what_bypasses_goes_direct(self):
        self.run_rules(product.rule("bypass", "b", ANY), product.rule(match=ANY))
        for kind, family in self.each():
            self.assert_direct(kind, family)
        self.assertEqual(self.tpx.reasons()["lo_bypass"], 6)

    def test_a_dead_proxy_means_what_the_rule_says(self):
        rules = [product.rule("proxy", mode, {"proto": ["tcp", "udp"], "dport": ports}, on_proxy_down=mode)
                 for mode, ports in (("open", [8080, 5300]), ("closed", [10]), ("reset", [11]))]
        self.run_rules(*rules)
        self.assert_proxied("tcp", harness.V4)
        self.tpx.crash()
        for kind, family in self.each():
            if kind != "tcp":  # which leave the sockmap when the ring is gone
                harness.wait_until(lambda k=kind, f=family: "peer" in self.ask(k, f), "direct again")
            self.assert_direct(kind, family)
            self.assertEqual(self.ask(kind, family, port=10).get("error"), "PermissionError")
            self.assertEqual(self.ask(kind, family, port=11).get("error"), "ConnectionRefusedError")
        self.tpx.start(self.settings(*rules))
        self.assert_proxied("tcp", harness.V6)

    def test_a_server_on_the_gateway_answers_its_clients_itself(self):
        self.cgroup.join()
        self.addCleanup(self.cgroup.leave)
        self.run_rules(product.rule(match=ANY))
        server = harness.Peer(self.lab.gateway, 7000, script="udp_peer.py")
        self.addCleanup(server.close)
        server.read()
        for family in harness.FAMILIES:
            with self.lab.client.socket(family.af, socket.SOCK_DGRAM) as sock:
                sock.settimeout(5)
                sock.sendto(b"hello", (family.lan, 7000))
                self.assertEqual(sock.recvfrom(100)[1][:2], (family.lan, 7000))
        self.assertEqual(self.tpx.reasons()["lo_answer"], 2)

    def test_sockets_older_than_the_programs_are_left_alone(self):
        self.cgroup.join()
        self.addCleanup(self.cgroup.leave)
        old = [(family, self.lab.gateway.socket(family.af, kind))
               for family in harness.FAMILIES for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
        self.run_rules(product.rule(match=ANY))
        for family, sock in old:
            with sock:
                sock.connect((family.server, 8080))
                self.assertEqual(sock.getsockname()[0], family.wan)
        self.assertEqual(self.tpx.reasons()["lo_old_socket"], 4)

    def test_a_bound_address_stays_where_it_can_be_proxied(self):
        self.cgroup.join()
        self.addCleanup(self.cgroup.leave)
        self.run_rules(product.rule(match=ANY, on_proxy_down="closed"))
        for family in harness.FAMILIES:
            with self.lab.gateway.socket(family.af) as sock:
                sock.settimeout(5)
                sock.bind((family.lan, 0))
                sock.connect((family.server, 8080))
                sock.sendall(b"W\n")
                self.assertEqual(json.loads(sock.recv(100))[0], family.wan)
                self.assertEqual(sock.getsockname()[0], family.lan)
            with self.lab.gateway.socket(family.af, socket.SOCK_DGRAM) as sock:
                sock.bind((family.lan, 0))
                self.assertRaises(PermissionError, sock.sendto, b"x", (family.server, 5300))
            with self.lab.gateway.socket(family.af) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wan0")
                self.assertRaises(PermissionError, sock.connect, (family.server, 8080))
        self.assertEqual(self.tpx.reasons()["lo_unable_closed"], 4)

    def test_many_datagrams_to_many_peers(self):
        self.cgroup.join()
        self.addCleanup(self.cgroup.leave)
        self.run_rules(product.rule(match={"proto": "udp", "dport": 5300}))
        others = harness.Peer(self.lab.server, *range(5301, 5305), script="udp_peer.py")
        self.addCleanup(others.close)
        others.read()
        for family in harness.FAMILIES:
            with self.lab.gateway.socket(family.af, socket.SOCK_DGRAM) as sock:
                sock.settimeout(5)
                for n in range(200):
                    port = 5300 + n % 5
                    sock.sendto(b"%d" % n, (family.server, port))
                    data, peer = sock.recvfrom(100)
                    self.assertEqual((data, peer[:2]), (b"%d" % n, (family.server, port)))
        reasons = self.tpx.reasons()
        self.assertEqual((reasons["lo_proxy"], reasons["lo_proxied"]), (2, 78))
        self.assertEqual((reasons["lo_bypass"], reasons["lo_direct"]), (8, 312))


if __name__ == "__main__":
    harness.main()
