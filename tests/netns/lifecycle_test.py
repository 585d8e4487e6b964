# SPDX-License-Identifier: Apache-2.0
"""A5 to A15: load, reload and detach: all or nothing, idempotent, beside others, guarded."""
import json
import os
import pathlib
import shutil
import stat
import subprocess
import unittest

import harness
import product
import state

CLANG = next(filter(None, map(shutil.which, ("clang", "clang-19", "clang-16", "clang-14"))), None)
BAD = sorted((harness.REPO / "tests/configs/bad").glob("*.yaml"))


class Lifecycle(product.TestCase):
    def setUp(self):
        super().setUp()
        self.lab.serve()
        self.before = state.of(self.lab.gateway)

    def assert_as_before(self, ids=None):
        self.assertEqual(state.difference(self.before, state.of(self.lab.gateway)), [])
        self.assertFalse(self.tpx.pins.exists(), "pins are left")
        if ids:
            harness.wait_until(lambda: not state.alive(ids), f"kernel objects go: {state.alive(ids)}", 5)

    def test_I8_load_and_detach_leave_the_machine_as_it_was(self):
        for attach in ("tcx", "clsact"):
            for _ in range(2):
                with self.subTest(attach=attach):
                    self.tpx.write(product.config(steering={"attach": attach}))
                    self.tpx.load()
                    ids = state.objects(self.tpx.pins)
                    self.assertTrue(ids["prog"] and ids["map"] and ids["link"], ids)
                    self.assert_direct(harness.V4)
                    self.tpx.detach()
                    self.assert_as_before(ids)

    def test_I8_run_and_detach_leave_the_machine_as_it_was(self):
        for source in ("masquerade", "preserve"):
            self.tpx.start(product.config(source=source))
            ids = state.objects(self.tpx.pins)
            for family in harness.FAMILIES:
                self.lab.who(family)
            self.assertEqual(self.tpx.stop(), 0)
            self.tpx.detach()
            self.assert_as_before(ids)

    def test_detach_under_a_running_proxy_ends_its_sessions(self):
        """Or is refused; in no case are they left hanging."""
        self.tpx.start()
        holders = [self.lab.peer(self.lab.client, "hold", f.server, 8080, "--count", 5) for f in harness.FAMILIES]
        for holder in holders:
            holder.read()
        done = self.tpx.detach(check=False)
        self.assertIn(done.returncode, (0, 1))
        for family in harness.FAMILIES:
            (self.assert_direct if done.returncode == 0 else self.assert_proxied)(family)
        for holder in holders:
            self.assertEqual(holder.ask("check"), {"ECONNRESET" if done.returncode == 0 else "ok": 5})
        self.assertIn(self.tpx.stop(), (0, 1) if done.returncode == 0 else (0,))
        self.tpx.detach()
        self.assert_as_before()

    def test_dry_run_changes_nothing(self):
        self.tpx.load()
        self.tpx.detach()
        self.assertEqual(self.tpx.command("load", "--config", self.tpx.config, "--dry-run").returncode, 0)
        self.assert_as_before()
        self.assertFalse(self.tpx.status()["loaded"])

    def test_idempotent_verbs_say_already(self):
        self.tpx.load()
        generation = self.tpx.status()["generation"]
        again = self.tpx.load()
        self.assertIn("already", again.stdout + again.stderr)
        self.assertEqual(self.tpx.status()["generation"], generation)
        self.tpx.detach()
        again = self.tpx.detach()
        self.assertRegex(again.stdout + again.stderr, "already|nothing")

    def test_A3_missing_device_at_load(self):
        """A name that does not exist yet is followed, not an error; with two devices the other one works."""
        content = product.config()
        content["interfaces"]["lan"] = ["lan0", "nosuch0"]
        self.tpx.write(content)
        self.tpx.load(check=False)
        self.tpx.detach()
        self.assert_as_before()

    def of_devices(self, attach, lan, wan):
        content = product.config(steering={"attach": attach})
        content["interfaces"] = {"lan": lan, "wan": wan}
        return content

    def assert_devices(self, lan, wan):
        status = self.tpx.status()
        self.assertEqual(status["problems"], [])
        self.assertEqual({(d["name"], d["role"], d["attached"]) for d in status["devices"]},
                         {(lan, "lan", True), (wan, "wan", True)})

    def test_A3_device_renamed_without_a_proxy_is_followed_by_reload(self):
        """Nobody was there to see it: the programs stay where they are, the rules get the new name."""
        for attach in ("tcx", "clsact"):
            for wanted in ("lan7", "lan[0-9]"):
                with self.subTest(attach=attach, wanted=wanted):
                    self.tpx.write(self.of_devices(attach, ["lan0"], ["wan0"]))
                    self.tpx.load()
                    links = state.objects(self.tpx.pins)["link"]
                    self.lab.gateway.run("ip", "link", "set", "lan0", "name", "lan7")
                    self.tpx.reload(self.of_devices(attach, [wanted], ["wan0"]))
                    self.assert_devices("lan7", "wan0")
                    self.assertEqual(state.objects(self.tpx.pins)["link"], links)
                    self.tpx.start()
                    for family in harness.FAMILIES:
                        self.assert_proxied(family)
                    self.assertEqual(self.tpx.stop(), 0)
                    self.tpx.detach()
                    self.lab.gateway.run("ip", "link", "set", "lan7", "name", "lan0")
                    self.assert_as_before()

    def test_A8_devices_swap_their_roles(self):
        for attach in ("tcx", "clsact"):
            with self.subTest(attach=attach):
                self.tpx.start(self.of_devices(attach, ["lan0"], ["wan0"]))
                for lan, wan in (("wan0", "lan0"), ("lan0", "wan0")) * 2:
                    self.tpx.reload(self.of_devices(attach, [lan], [wan]))
                    self.assert_devices(lan, wan)
                    # explain supposes a LAN device, which the client's is not half of the time
                    self.asks_explain = lan == "lan0"
                    for family in harness.FAMILIES:
                        (self.assert_proxied if lan == "lan0" else self.assert_direct)(family)
                    answer = self.tpx.json("explain", "tcp", "192.0.2.2", "203.0.113.5:80", "--in", "lan0")
                    self.assertEqual(any("lan0 is no LAN device" in note for note in answer["notes"]), lan != "lan0")
                self.assertEqual(self.tpx.stop(), 0)
                self.tpx.detach()
                self.assert_as_before()

    def test_A5_second_run_is_refused(self):
        self.tpx.start()
        second = self.tpx.command("run", "--config", self.tpx.config, check=False)
        self.assertEqual(second.returncode, 1)
        self.assertRegex(second.stderr, "already|locked")
        for family in harness.FAMILIES:
            self.assert_proxied(family)

    def test_A5_two_loads_at_once(self):
        for _ in range(10):
            commands = [self.lab.gateway.popen(*self.tpx.argv("load", "--config", self.tpx.config),
                                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(3)]
            codes = [(command.communicate(timeout=60)[0], command.returncode)[1] for command in commands]
            self.assertIn(0, codes)
            self.assertLessEqual(set(codes), {0, 1})
            self.assertTrue(self.tpx.status()["loaded"])
            self.tpx.detach()
            self.assert_as_before()

    def test_A5_load_and_detach_at_once(self):
        for _ in range(10):
            commands = [self.lab.gateway.popen(*self.tpx.argv(*words), stdout=subprocess.DEVNULL,
                                               stderr=subprocess.DEVNULL)
                        for words in (("load", "--config", self.tpx.config), ("detach",))]
            for command in commands:
                self.assertIn(command.wait(60), (0, 1))
            self.assert_direct(harness.V4)
            self.tpx.detach()
            self.assert_as_before()

    def test_A6_pins_of_another_layout(self):
        """They are replaced, or load says what to do; they are never used."""
        self.tpx.load()
        paths = [p for p in self.tpx.pins.rglob("*") if p.is_file()]
        maps = [p for p in paths if harness.run(["bpftool", "map", "show", "pinned", p], check=False).returncode == 0]
        self.assertGreater(len(maps), 5)
        self.tpx.detach()
        for path in maps:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            harness.run(["bpftool", "map", "create", path, "type", "array", "key", 4, "value", 8,
                         "entries", 3, "name", "stale"])
        done = self.tpx.load(check=False)
        if done.returncode:
            self.assertIn("detach", done.stderr)
            self.tpx.detach()
        self.tpx.start()
        for family in harness.FAMILIES:
            self.assert_proxied(family)
        self.assertEqual(self.tpx.stop(), 0)
        self.tpx.detach()
        self.assert_as_before()

    def test_A8_reload_under_load(self):
        self.tpx.start()
        loops = [self.lab.peer(self.lab.client, "loop", f.server, 8080) for f in harness.FAMILIES]
        for loop in loops:
            loop.read()
        contents = [product.config(), product.config([product.rule(name="web", match={"dport": [8080]})])]
        generation = self.tpx.status()["generation"]
        for number in range(harness.scaled(80, 20)):
            self.tpx.reload(contents[number % 2])
        self.assertEqual(self.tpx.status()["generation"], generation + harness.scaled(80, 20))
        for family, loop in zip(harness.FAMILIES, loops):
            outcomes = loop.ask("stop")
            self.assertGreater(len(outcomes), 100)
            self.assertEqual({(o[2], o[3]) for o in outcomes}, {("ok", family.wan)})

    def test_A8_hits_of_rules_are_exact_across_reloads(self):
        """Each connection is counted once, whichever generation its SYN meets."""
        unused = [product.rule(name=f"unused{n}", match={"dport": [n]}) for n in (1, 2)]
        contents = [product.config([unused[0], product.rule()]), product.config([product.rule(), unused[1]])]
        self.tpx.start(contents[0])
        loops = [self.lab.peer(self.lab.client, "loop", f.server, 8080, "--interval", 0.0005, "--outstanding", 8)
                 for f in harness.FAMILIES]
        for loop in loops:
            loop.read()
        for number in range(harness.scaled(80, 20)):
            self.tpx.reload(contents[(number + 1) % 2])
        outcomes = [outcome for loop in loops for outcome in loop.ask("stop")]
        self.assertGreater(len(outcomes), 200)
        self.assertEqual({o[2] for o in outcomes}, {"ok"})
        hits = self.tpx.rules()
        self.assertEqual(hits["all"], len(outcomes))
        self.assertEqual(sum(hits.values()), len(outcomes))

    def test_A8_programs_are_replaced_under_load(self):
        """No packet goes without a program, none is counted by two: every SYN is steered, once."""
        for attach in ("tcx", "clsact"):
            with self.subTest(attach=attach):
                self.tpx.start(product.config(steering={"attach": attach}))
                loops = [self.lab.peer(self.lab.client, "loop", f.server, 8080) for f in harness.FAMILIES]
                for loop in loops:
                    loop.read()
                held = {f: self.lab.client.connect(f, f.server, 8080) for f in harness.FAMILIES}
                programs = state.objects(self.tpx.pins)["prog"]
                for _ in range(harness.scaled(80, 20)):
                    self.tpx.command("upgrade")
                self.assertFalse(programs & state.objects(self.tpx.pins)["prog"], "old programs are pinned")
                connections = len(held)
                for family, loop in zip(harness.FAMILIES, loops):
                    outcomes = loop.ask("stop")
                    self.assertGreater(len(outcomes), 100)
                    self.assertEqual({(o[2], o[3]) for o in outcomes}, {("ok", family.wan)})
                    connections += len(outcomes)
                    with held[family] as sock:
                        sock.sendall(b"still there")
                        self.assertEqual(product.receive(sock, 11), b"still there")
                self.assertEqual(self.tpx.rules()["all"], connections)
                self.assertEqual(self.tpx.stop(), 0)
                self.tpx.detach()
                self.assert_as_before()

    def test_A10_bad_config_changes_nothing(self):
        self.assertGreaterEqual(len(BAD), 100)
        self.tpx.start()
        for family in harness.FAMILIES:
            self.assert_proxied(family)
        before, hits, objects = self.tpx.status(), self.tpx.rules(), state.objects(self.tpx.pins)
        for path in BAD:
            with self.subTest(path.name):
                done = self.tpx.command("reload", "--config", path, check=False)
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertRegex(done.stderr, r"\S+:\d+:\d+: ")
        after = self.tpx.status()
        for key in ("generation", "devices"):
            self.assertEqual(after[key], before[key])
        self.assertEqual(self.tpx.rules(), hits)
        self.assertEqual(state.objects(self.tpx.pins), objects)
        for family in harness.FAMILIES:
            self.assert_proxied(family)

    def test_A10_bad_config_loads_nothing(self):
        for path in BAD[:3]:
            for verb in ("load", "run"):
                with self.subTest(path.name, verb=verb):
                    self.assertEqual(self.tpx.command(verb, "--config", path, check=False).returncode, 1)
                    self.assert_as_before()

    def test_A15_pins_are_out_of_reach(self):
        self.tpx.start()
        for path in (self.tpx.pins, *self.tpx.pins.rglob("*")):
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o700 if path.is_dir() else 0o600, path)
            self.assertEqual(path.stat().st_uid, 0, path)
        run_folder = pathlib.Path("/run") / self.tpx.name
        if run_folder.exists():
            self.assertEqual(stat.S_IMODE(run_folder.stat().st_mode) & 0o022, 0)
        as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        for command in (("ls", self.tpx.pins), ("cat", next(self.tpx.pins.rglob("tpx_control"))),
                        self.tpx.argv("detach")):
            self.assertNotEqual(self.lab.gateway.run(*as_nobody, *command, check=False).returncode, 0, command)
        self.assert_proxied(harness.V4)

    def add_foreign_filters(self):
        """Somebody else's programs before and behind ours, each dropping one port."""
        self.lab.gateway.run("tc", "qdisc", "add", "dev", "lan0", "clsact")
        for priority, port in ((1, 7001), (60000, 7002)):
            built = self.tpx.folder / f"foreign{port}.o"
            harness.run([CLANG, "-O2", "-target", "bpf", f"-DPORT={port}",
                         f"-I/usr/include/{os.uname().machine}-linux-gnu",
                         "-c", harness.HERE / "foreign.bpf.c", "-o", built])
            self.lab.gateway.run("tc", "filter", "add", "dev", "lan0", "ingress", "pref", priority,
                                 "bpf", "direct-action", "obj", built, "sec", "tc")

    @unittest.skipUnless(CLANG, "needs clang")
    def test_A7_foreign_tc_programs_are_left_alone(self):
        self.add_foreign_filters()
        self.before = state.of(self.lab.gateway)
        for attach in ("tcx", "clsact"):
            with self.subTest(attach=attach):
                self.tpx.start(product.config(steering={"attach": attach}))
                for family in harness.FAMILIES:
                    self.assert_proxied(family)
                    for port in (7001, 7002):
                        with self.assertRaises(TimeoutError):
                            self.lab.client.connect(family, family.server, port, timeout=0.3)
                self.assertEqual(self.tpx.stop(), 0)
                self.tpx.detach()
                self.assert_as_before()

    def test_two_instances_do_not_mix(self):
        other = self.instance(self.lab.gateway)
        self.tpx.load()
        done = other.load(check=False)
        if done.returncode == 0:
            other.detach()
        self.assertTrue(self.tpx.status()["loaded"])
        self.assertFalse(other.status()["loaded"])
        self.tpx.start()
        for family in harness.FAMILIES:
            self.assert_proxied(family)

    def test_status_tells_what_is_attached(self):
        self.tpx.start()
        status = self.tpx.status()
        self.assertEqual({(d["name"], d["role"]) for d in status["devices"]}, {("lan0", "lan"), ("wan0", "wan")})
        self.assertTrue(all(d["attached"] for d in status["devices"]))
        self.assertTrue(status["proxy"]["running"])
        self.assertEqual(status["proxy"]["pid"], self.tpx.pid)
        json.dumps(status)
        self.assertTrue(os.path.exists(f"/proc/{status['proxy']['pid']}"))


if __name__ == "__main__":
    harness.main()
