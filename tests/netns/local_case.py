# SPDX-License-Identifier: Apache-2.0
"""Processes of the gateway whose flows are judged: in a cgroup of the test's own."""
import json
import os
import textwrap

import harness
import product

PYTHON = os.path.realpath("/usr/bin/python3")

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


class Cgroup:
    """A cgroup of the test's own. Processes join by themselves; children inherit."""

    def __init__(self, name, above=None):
        self.root = harness.cgroup_root()
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
        if harness.cgroup_root() is None:
            self.skipTest("cgroup v2 is not mounted")
        self.cgroup = Cgroup(harness.unique())
        self.addCleanup(self.cgroup.close)  # last: the product may run in it
        super().setUp()
        self.lab.serve()
        self.datagrams = harness.Peer(self.lab.server, 5300, script="udp_peer.py")
        self.addCleanup(self.datagrams.close)
        self.datagrams.read()

    def settings(self, *rules, **more):
        return product.config([*rules], local={"cgroup": self.cgroup.path}, **more)

    def run_rules(self, *rules, **more):
        self.tpx.start(self.settings(*rules, **more))

    def ask(self, kind, family, uid=None, gid=None, inside=True, group=None, address=None, port=None):
        """What a process of the gateway finds out; explain has to say the same."""
        server = (address or family.server, port or (8080 if kind == "tcp" else 5300))
        before = self.local_counts()
        said = self.found_by_process(kind, server, uid, gid, (group or self.cgroup).folder if inside else self.cgroup.root)
        if before and self.is_asked_now():
            counted = {key: n - before[key] for key, n in self.local_counts().items() if n != before[key]}
            owner = ("--uid", uid or 0, "--gid", gid or 0, "--exe", PYTHON,
                     "--cgroup", (group or self.cgroup).path if inside else "/")
            self.assert_explained_as_counted(said, counted, kind, family, server, owner)
        return said

    def local_counts(self):
        """What is counted of new local flows; nothing where nobody can be asked."""
        if not self.asks_explain or not self.tpx.pins.exists():
            return {}
        counters = self.tpx.json("counters")
        return {**{("reason", r["name"]): r["packets"] for r in counters["reasons"]
                   if r["name"].startswith("lo_") and r["name"] != "lo_own_socket"},
                **{("rule", r["name"]): r["packets"] for r in counters["rules"]}}

    def assert_explained_as_counted(self, said, counted, kind, family, server, owner):
        """By that reason and that rule, with a verdict that fits what the process saw."""
        flow = ("tcp" if kind == "tcp" else "udp", "0.0.0.0" if family is harness.V4 else "[::]",
                product.end(server[0].removeprefix("::ffff:"), server[1]))
        key = (owner, flow, *counted, self.tpx.config.read_text(), self.tpx.daemon and self.tpx.daemon.pid)
        if key not in self._asked:
            self._asked[key] = self.tpx.json("explain", *owner, *flow)
        answer = self._asked[key]
        reasons = {key: n for key, n in counted.items() if key[0] == "reason"}
        if not reasons:  # neither judged nor counted; the rules' hits are of others
            self.assertRegex(" ".join(answer["notes"]), "flows of (others|the gateway's own processes) are left alone")
            return
        rule = {("rule", answer["rule"]["name"]): 1} if answer["rule"] else {}
        self.assertEqual(counted, {("reason", answer["reason"]["name"]): 1, **rule}, answer)
        self.assertIn(answer["verdict"], self.verdicts(said, kind, family), (said, answer))

    @staticmethod
    def verdicts(said, kind, family):
        """Those that look like this to the process. A redirect's target may refuse, too."""
        if "error" in said:
            return {"PermissionError": ["drop"], "ConnectionRefusedError": ["reject", "redirect"]}.get(
                said["error"], product.ARRIVES)
        if kind == "datagram":
            return product.ARRIVES
        return ["redirect", "proxy" if said["own"].removeprefix("::ffff:") == family.loopback else "direct"]

    def found_by_process(self, kind, server, uid, gid, folder):
        user = [*([f"--reuid={uid}"] if uid else []), *([f"--regid={gid}"] if gid else [])]
        user = user and ["setpriv", *user, "--clear-groups"]
        done = self.lab.gateway.run(
            "sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec "$@"', "sh", *user,
            PYTHON, "-c", CLIENT, kind, *server)
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
