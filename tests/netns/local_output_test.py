# SPDX-License-Identifier: Apache-2.0
"""Flows that begin on the gateway itself: what becomes of them, with real processes and both families."""
import json
import os
import random
import socket
import subprocess

import harness
import local_case
import product
import schema
import state
from local_case import ANY, LocalCase


class Captured(LocalCase):
    def test_every_kind_of_flow_is_proxied(self):
        self.run_rules(product.rule(match=ANY))
        for kind, family in self.each():
            before = self.tpx.reasons()["lo_proxy"]
            self.assert_proxied(kind, family)
            self.assertEqual(self.tpx.reasons()["lo_proxy"], before + 1)
        totals = self.tpx.totals()
        self.assertEqual(totals["sessions_total"], 2)
        self.assertEqual(self.tpx.rules()["all"], 6)


    def test_mapped_addresses_of_dual_stack_sockets(self):
        self.run_rules(product.rule(match=ANY, on_proxy_down="closed"))
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

    def test_rules_by_protocol_alone(self):
        self.run_rules(product.rule("drop", "udp", {"proto": "udp"}), product.rule("reject", "tcp", {"proto": "tcp"}))
        for kind, family in self.each():
            denied = "ConnectionRefusedError" if kind == "tcp" else "PermissionError"
            self.assertEqual(self.ask(kind, family).get("error"), denied)
        self.assertEqual(self.tpx.rules(), {**self.tpx.rules(), "udp": 4, "tcp": 2})

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


class Owners(LocalCase):
    def test_rules_by_user_group_cgroup_and_program(self):
        nested = local_case.Cgroup("nested", self.cgroup)
        self.addCleanup(nested.close)
        below = local_case.Cgroup("below", nested)
        self.addCleanup(below.close)
        python = os.path.realpath("/usr/bin/python3")
        self.run_rules(product.rule("bypass", "excluded", {**ANY, "uid": [4242, "nobody"]}),
                       product.rule("bypass", "nested", {**ANY, "cgroup": nested.path}),
                       product.rule("reject", "group", {**ANY, "gid": 4343}),
                       product.rule("drop", "not-python", {**ANY, "exe": {"not": python}}),
                       product.rule("proxy", "rest", {**ANY, "uid": {"not": 4444}}))
        for kind, family in self.each():
            self.assert_direct(kind, family, uid=4242)
            self.assert_proxied(kind, family)
            self.assert_direct(kind, family, uid=4444)
            for group in (nested, below):
                self.assert_direct(kind, family, group=group)
            self.assertEqual(self.ask(kind, family, gid=4343).get("error"), "ConnectionRefusedError")
        done = self.lab.gateway.run("sh", "-c", f'echo $$ > {self.cgroup.folder}/cgroup.procs && exec "$@"', "sh",
                                    "curl", "-sS", f"http://{harness.V4.server}:8080/", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual({name: count for name, count in self.tpx.rules().items() if name != "default"},
                         {"excluded": 6, "nested": 12, "group": 6, "not-python": 1, "rest": 6})


    def test_users_and_cgroups_are_excluded_with_mapped_addresses_too(self):
        nested = local_case.Cgroup("nested", self.cgroup)
        self.addCleanup(nested.close)
        self.run_rules(product.rule("bypass", "user", {**ANY, "uid": 4242}),
                       product.rule("bypass", "nested", {**ANY, "cgroup": nested.path}),
                       product.rule("reject", "group", {**ANY, "gid": 4343}),
                       product.rule("proxy", "rest", ANY))
        mapped = "::ffff:" + harness.V4.server
        for kind in ("tcp", "connected", "datagram"):
            for own, how in ((harness.V4.wan, {"uid": 4242}), (harness.V4.wan, {"group": nested}), (harness.V4.loopback, {})):
                with self.subTest(kind=kind, how=how):
                    said = self.ask(kind, harness.V4, address=mapped, **how)
                    self.assertEqual(said.get("peer", [None])[0], mapped, said)
                    if kind != "datagram":
                        self.assertEqual(said["own"], "::ffff:" + own)
            self.assertEqual(self.ask(kind, harness.V4, address=mapped, gid=4343).get("error"), "ConnectionRefusedError")
        self.assertEqual({name: count for name, count in self.tpx.rules().items() if name != "default"},
                         {"user": 3, "nested": 3, "group": 3, "rest": 3})

    def test_random_rules_mean_what_they_say(self):
        """Real processes against a plain reading of the rules."""
        nested = local_case.Cgroup("nested", self.cgroup)
        self.addCleanup(nested.close)
        seed = random.randrange(1 << 32)
        print(f"seed {seed}", flush=True)
        dice = random.Random(seed)
        values = {"uid": [0, 4242, 4444], "gid": [0, 4343], "cgroup": [nested.path, self.cgroup.path],
                  "exe": [local_case.PYTHON, "/usr/bin/true"]}
        within = {nested: {nested.path, self.cgroup.path}, self.cgroup: {self.cgroup.path}}

        def random_rule(number):
            match = dict(ANY)
            for key, listed in values.items():
                if dice.random() < 0.5:
                    value = dice.choice(listed)
                    match[key] = {"not": value} if dice.random() < 0.3 else value
            return product.rule(dice.choice(["bypass", "proxy", "drop", "reject"]), f"r{number}", match)

        def fits(match, owner):
            return all((wanted["not"] not in owner[key]) if isinstance(wanted, dict) else wanted in owner[key]
                       for key, wanted in match.items() if key != "proto")

        self.run_rules()
        for _ in range(harness.scaled(15)):
            rules = [random_rule(number) for number in range(dice.randint(1, 5))]
            self.tpx.reload(self.settings(*rules, default="proxy"))
            for _ in range(6):
                family, uid, gid, group = (dice.choice(some) for some in (
                    harness.FAMILIES, [0, 4242, 4444], [0, 4343], [self.cgroup, nested]))
                owner = {"uid": {uid}, "gid": {gid}, "cgroup": within[group], "exe": {local_case.PYTHON}}
                expected = next((rule["action"] for rule in rules if fits(rule["match"], owner)), "proxy")
                said = self.ask("tcp", family, uid=uid, gid=gid, group=group)
                found = {"PermissionError": "drop", "ConnectionRefusedError": "reject"}.get(said.get("error")) or \
                    {family.loopback: "proxy", family.wan: "bypass"}.get(said.get("own"))
                self.assertEqual(found, expected, (said, uid, gid, group.path, rules))

    def counted(self):
        """Of local flows; neighbours are talking all the time."""
        return {name: n for name, n in self.tpx.reasons().items() if name.startswith("lo_")}, self.tpx.rules()

    def explain(self, kind, family, *owner):
        asked = self.tpx.json("explain", *owner, "tcp" if kind == "tcp" else "udp", family.wan if family is harness.V4
                              else f"[{family.wan}]", f"{family.server}:{8080 if kind == 'tcp' else 5300}" if
                              family is harness.V4 else f"[{family.server}]:{8080 if kind == 'tcp' else 5300}")
        self.assertEqual(schema.errors_of(asked, json.loads((harness.REPO / "docs/schema/explain.schema.json").read_text())), [])
        return asked["verdict"], (asked["rule"] or {}).get("name")

    def test_explain_agrees_with_what_processes_find(self):
        nested = local_case.Cgroup("nested", self.cgroup)
        self.addCleanup(nested.close)
        python = os.path.realpath("/usr/bin/python3")
        self.run_rules(product.rule("drop", "user", {**ANY, "uid": 4242}),
                       product.rule("reject", "group", {**ANY, "gid": 4343}),
                       product.rule("bypass", "nested", {**ANY, "cgroup": nested.path}),
                       product.rule("proxy", "python", {**ANY, "exe": python}),
                       product.rule("drop", "rest", ANY))
        inside = ("--cgroup", self.cgroup.path)
        before = self.counted()
        answers = {}
        for kind, family in self.each(("tcp", "connected")):
            for name, owner in (("user", ("--uid", "4242", *inside)), ("group", ("--gid", "4343", *inside)),
                                ("nested", ("--cgroup", nested.path)), ("python", ("--exe", python, *inside)),
                                ("rest", inside)):
                answers[kind, family.name, name] = self.explain(kind, family, *owner)
        self.assertEqual(self.counted(), before)
        for kind, family in self.each(("tcp", "connected")):
            of = {name: answers[kind, family.name, name] for name in ("user", "group", "nested", "python", "rest")}
            self.assertEqual(of, {"user": ("drop", "user"), "group": ("reject", "group"), "nested": ("direct", "nested"),
                                  "python": ("proxy", "python"), "rest": ("drop", "rest")})
            self.assertEqual(self.ask(kind, family, uid=4242).get("error"), "PermissionError")
            self.assertEqual(self.ask(kind, family, gid=4343).get("error"), "ConnectionRefusedError")
            self.assert_direct(kind, family, group=nested)
            self.assert_proxied(kind, family)
        self.tpx.crash()
        self.assertEqual(self.explain("tcp", harness.V4, "--exe", python, *inside), ("direct", "python"))
        self.assertEqual(self.tpx.command("explain", "--uid", "tpx-none", "tcp", "192.0.2.2", "192.0.2.3:1",
                                          check=False).returncode, 2)

    def test_trace_tells_the_process(self):
        self.run_rules(product.rule("proxy", "all", ANY, log="sample"))
        listening = self.tpx.folder / "listening"
        with listening.open("w") as err:
            trace = self.lab.gateway.popen(*self.tpx.argv("trace", "--json", "--count", "6", "--for", "60s"),
                                           stdout=subprocess.PIPE, stderr=err, text=True)
        self.addCleanup(harness.end, trace)
        harness.wait_until(lambda: "listening" in listening.read_text(), "the trace listens")
        for kind, family in self.each():
            self.assert_proxied(kind, family, uid=4242)
        events = [json.loads(line) for line in trace.communicate(timeout=60)[0].splitlines()]
        self.assertEqual(len(events), 6)
        for event in events:
            self.assertEqual((event["hook"], event["verdict"], event["rule"]), ("cgroup", "proxy", "all"))
            self.assertEqual(event["process"]["uid"], 4242)
            self.assertTrue(event["process"]["name"].startswith("python"))
            self.assertEqual(event["process"]["cgroup"], self.cgroup.folder.stat().st_ino)
        harness.wait_until(lambda: self.tpx.log.read_text().count("of python") == 6, "the log of the rule")


class Life(LocalCase):
    def test_A14_a_missing_cgroup_leaves_the_gateway_working(self):
        self.tpx.start(product.config(local={"cgroup": "/tpx-missing"}))
        self.assertRegex(self.tpx.log.read_text(), "local: .*tpx-missing.*left alone")
        self.assertEqual(self.tpx.status()["local"], {"enabled": False})
        for family in harness.FAMILIES:
            self.lab.who(family)
        self.assertEqual(self.tpx.totals()["sessions_total"], 2)

    def test_A14_without_cgroup_v2_the_gateway_works(self):
        """As where only version 1 is mounted."""
        without = ("unshare", "--mount", "sh", "-c",
                   "awk '/ - cgroup2 /{print $5}' /proc/self/mountinfo | while read m; do umount -l $m; done; exec \"$@\"",
                   "sh")
        for local in (True, {"cgroup": self.cgroup.path}):
            with self.subTest(local=local):
                self.tpx.start(product.config(local=local), wrapper=without)
                self.assertRegex(self.tpx.log.read_text(), "warning: local: cgroup v2 is not mounted; .*left alone")
                self.assertEqual(self.tpx.status()["local"], {"enabled": False})
                for family in harness.FAMILIES:
                    self.lab.who(family)
                self.assertEqual(self.tpx.totals()["sessions_total"], 2)
                self.assertEqual(self.tpx.stop(), 0)
                self.tpx.detach()

    def test_A14_a_cgroup_that_is_deleted_takes_only_its_flows_along(self):
        nested = local_case.Cgroup("nested", self.cgroup)
        self.tpx.start(product.config([product.rule(match=ANY)], local={"cgroup": nested.path}))
        self.assert_proxied("tcp", harness.V4, group=nested)
        nested.close()
        status = self.tpx.status()
        self.assertFalse(status["local"]["attached"])
        self.assertRegex("".join(status["problems"]), f"not attached to local flows of cgroup {nested.path}")
        for family in harness.FAMILIES:
            self.lab.who(family)
        self.assertRegex(self.tpx.reload().stdout, "warning: local: .* left alone")
        self.assertEqual(self.tpx.status()["problems"], [])

    def test_reload_turns_it_on_and_off(self):
        off = product.config([product.rule(match=ANY)])
        self.tpx.start(off)
        for _ in range(2):
            for kind, family in self.each():
                self.assert_direct(kind, family)
            self.tpx.reload(self.settings(product.rule(match=ANY)))
            self.assertTrue(self.tpx.status()["local"]["attached"])
            for kind, family in self.each():
                self.assert_proxied(kind, family)
            self.tpx.reload(off)

    def test_upgrade_keeps_it_and_detach_leaves_nothing(self):
        before = state.of(self.lab.gateway)
        self.run_rules(product.rule(match=ANY))
        self.tpx.command("upgrade")
        for kind, family in self.each():
            self.assert_proxied(kind, family)
        self.tpx.stop()
        self.tpx.detach()
        self.assertEqual(state.difference(before, state.of(self.lab.gateway)), [])
        self.assertEqual(harness.run(["bpftool", "cgroup", "show", self.cgroup.folder]).stdout.strip(), "")
        for kind, family in self.each():
            self.assert_direct(kind, family)


if __name__ == "__main__":
    harness.main()
