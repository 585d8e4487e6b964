# SPDX-License-Identifier: Apache-2.0
"""Early drop beside XDP programs of others, in libxdp's dispatcher."""
import collections
import json
import os
import re
import shutil
import unittest

import harness
import product
import state
from xdp_case import DROPPED, XdpCase, dropping

MODES = {"native": "native", "generic": "skb"}  # as xdp-loader calls them
FOLDER = harness.BPFFS / "xdp"
MOST = 10  # programs in a dispatcher
KILLS = 10
STRACE = ("strace", "-f", "-qq", "-E", "ASAN_OPTIONS=detect_leaks=0")
CHANGES = {"bpf": r"BPF_(PROG_LOAD|OBJ_PIN|LINK_CREATE|RAW_TRACEPOINT_OPEN)", "mkdir": "", "unlink": "", "rmdir": "",
           "sendto": "", "write": "", "rename": ""}
OURS, ALONE = "tpx_xdp_part", "tpx_xdp_early"


@unittest.skipUnless(shutil.which("xdp-loader"), "needs xdp-loader")
class Dispatcher(XdpCase):
    fate = OSError  # refused where nothing of ours drops it
    asks_explain = False  # loads a program for each question, under emulation

    def setUp(self):
        super().setUp()
        self.object = self.compiled()
        self.killed = 0
        self.folders_before = {path.name for path in FOLDER.glob("dispatch-*")}
        self.addCleanup(self.lab.gateway.run, "xdp-loader", "unload", "lan0", "--all", check=False)

    def compiled(self):
        ready = harness.HERE / "counting_xdp.o"
        if ready.exists():
            return ready
        built = self.tpx.folder / "counting_xdp.o"
        harness.run(["clang", "-target", "bpf", "-O2", "-g", "-isystem", "/usr/include/x86_64-linux-gnu",
                     "-c", harness.HERE / "counting_xdp.bpf.c", "-o", built])
        return built

    def add_other(self, mode="native"):
        """Somebody else's program, which makes the dispatcher where it is the first one. Its id."""
        before = set(self.others())
        self.lab.gateway.run("xdp-loader", "load", "-m", MODES[mode], "lan0", self.object)
        if self.kernel()[2] != "xdp_dispatcher":
            self.skipTest("this kernel lets nobody replace functions of BPF programs")
        return (set(self.others()) - before).pop()

    def remove_other(self, number):
        self.lab.gateway.run("xdp-loader", "unload", "lan0", "--id", number)

    def kernel(self):
        """What the device runs, as the kernel says: mode, id and name."""
        link = json.loads(self.lab.gateway.run("ip", "-j", "-d", "link", "show", "lan0").stdout)[0]
        mode = {None: "none", 1: "native", 2: "generic"}[link.get("xdp", {}).get("mode")]
        program = link.get("xdp", {}).get("prog", {})
        return mode, program.get("id"), program.get("name")

    def parts(self):
        """Of the dispatcher, in order, as libxdp sees it: id and name."""
        listed = self.lab.gateway.run("xdp-loader", "status", "lan0", check=False).stdout
        return [(int(number), name) for name, number in re.findall(r"=> +\d+ +(\S+) +(\d+) ", listed)]

    def others(self):
        return [number for number, name in self.parts() if name != OURS]

    def ours(self):
        return [number for number, name in self.parts() if name == OURS]

    def seen(self, number):
        """Packets that somebody else's program has counted."""
        program = json.loads(harness.run(["bpftool", "-j", "prog", "show", "id", number]).stdout)
        key = ["bpftool", "-j", "map", "lookup", "id", program["map_ids"][0], "key", 0, 0, 0, 0]
        return json.loads(harness.run(key).stdout)["formatted"]["value"]

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.tpx.pid}/fd"))

    def folders(self):
        """Where libxdp pins the device's dispatchers. Devices of other namespaces have the same number."""
        return sorted({path.name for path in FOLDER.glob(f"dispatch-{self.index()}-*")} - self.folders_before)

    def index(self):
        return json.loads(self.lab.gateway.run("ip", "-j", "link", "show", "lan0").stdout)[0]["ifindex"]

    def early(self):
        return next(entry for entry in self.tpx.status()["early_drop"] if entry["device"] == "lan0")

    def is_joined(self):
        entry = self.early()
        return entry["dispatcher"] and entry["attached"] and len(self.ours()) == 1

    def assert_joined(self, mode):
        entry = self.early()
        self.assertEqual((entry["xdp"], entry["dispatcher"], entry["attached"]), (mode, True, True), entry)
        self.assertIn("in libxdp's dispatcher", entry["why"])
        self.assertEqual(self.kernel()[::2], (mode, "xdp_dispatcher"))
        self.assertEqual(len(self.ours()), 1, self.parts())

    def assert_only_others(self, *numbers):
        """They are there, see packets, and what is pinned is theirs."""
        self.assertEqual(sorted(self.others()), sorted(numbers), self.parts())
        self.assertEqual(self.ours(), [])
        self.assertEqual(self.folders(), [f"dispatch-{self.index()}-{self.kernel()[1]}"])
        before = [self.seen(number) for number in numbers]
        self.flood()
        for number, count in zip(numbers, before):
            self.assertGreaterEqual(self.seen(number), count + 10)

    def assert_drops_early(self):
        before = self.tpx.reasons().get("rule_drop", 0), self.tpx.rules()["no"]
        self.assertEqual(self.syns_seen(), 0, "XDP let it through")
        after = self.tpx.reasons()["rule_drop"], self.tpx.rules()["no"]
        self.assertGreaterEqual(after[0] - before[0], 12)
        self.assertEqual(after[0] - before[0], after[1] - before[1])

    def start(self, content):
        self.tpx.start(content, seconds=120)

    def test_joins_and_leaves_after_a_crash(self):
        for mode in MODES:
            with self.subTest(mode=mode):
                other = self.add_other(mode)
                before = state.of(self.lab.gateway)
                # It is the dispatcher's mode that counts.
                self.start(dropping("generic" if mode == "native" else "native"))
                self.assert_joined(mode)
                self.asks_explain = True
                self.assert_explained("drop", (harness.V4.client, 50000), (harness.V4.server, DROPPED), rule="no")
                self.asks_explain = False
                self.assertIn("in libxdp's dispatcher", self.tpx.command("status").stdout)
                seen = self.seen(other)
                self.assert_drops_early()
                self.assertGreaterEqual(self.seen(other), seen + 12)
                for family in harness.FAMILIES:
                    self.assert_proxied(family)
                self.tpx.crash()
                self.assert_joined(mode)
                self.assert_drops_early()
                ids = state.objects(self.tpx.pins)
                ids["prog"] |= set(self.ours())
                self.assertRegex(self.tpx.detach().stdout, "detached XDP from device lan0")
                self.assert_only_others(other)
                after = state.of(self.lab.gateway)
                for seen in (before, after):  # the dispatcher is another one
                    for key in ("xdp lan0", "ip link", "ip addr"):
                        seen.pop(key)
                self.assertEqual(state.difference(before, after), [])
                harness.wait_until(lambda: not state.alive(ids), "kernel objects go", 20)
                self.remove_other(other)
                self.assertEqual((self.kernel()[0], self.folders()), ("none", []))

    def test_others_come_and_go(self):
        first = self.add_other()
        self.start(dropping())
        self.assert_joined("native")
        descriptors = self.descriptors()
        second = self.add_other()
        self.assert_joined("native")
        self.assert_drops_early()
        self.remove_other(first)
        self.assert_joined("native")
        self.remove_other(second)
        self.assertEqual(len(self.parts()), 1)
        self.assert_joined("native")
        self.assert_drops_early()
        self.tpx.reload()
        self.assert_joined("native")
        self.lab.gateway.run("xdp-loader", "unload", "lan0", "--all")
        harness.wait_until(lambda: self.early()["attached"], "it is attached again", 60)
        self.assertEqual((self.early()["dispatcher"], self.kernel()[2]), (False, ALONE))
        harness.wait_until(lambda: self.descriptors() <= descriptors, "looking keeps no descriptors")
        self.assert_drops_early()
        self.tpx.reload(product.config(xdp="native"))
        self.assertEqual((self.kernel()[0], self.folders()), ("none", []))

    def test_the_last_one_takes_the_dispatcher_away(self):
        other = self.add_other("generic")
        self.tpx.write(dropping())
        self.tpx.load()
        self.remove_other(other)
        self.assert_joined("generic")
        self.tpx.detach()
        self.assertEqual((self.kernel()[0], self.folders()), ("none", []))

    def test_joins_one_that_comes_later_where_it_has_nothing_yet(self):
        """Where a program has the device for itself, xdp-loader loads none: ours has to keep out for that."""
        self.start(dropping("off"))
        other = self.add_other()
        self.assertEqual(self.early()["xdp"], "none")
        self.assertRegex(self.tpx.reload(dropping()).stdout,
                         "drops early on lan0 by native XDP: in libxdp's dispatcher")
        self.assert_joined("native")
        self.remove_other(other)
        self.assert_joined("native")

    def test_stays_out_where_it_has_nothing_to_do_there(self):
        other = self.add_other()
        self.tpx.write(dropping())
        self.tpx.load()
        for content, why in ((dropping("auto"), "veth"), (dropping("off"), "switched off"),
                             (product.config(xdp="native"), "no rule drops anything")):
            with self.subTest(why=why):
                self.tpx.reload(dropping())
                self.assert_joined("native")
                self.assertRegex(self.tpx.reload(content).stdout, f"no early drop by XDP on lan0: .*{why}")
                self.assertEqual((self.early()["xdp"], self.early()["dispatcher"]), ("none", False))
                self.assert_only_others(other)

    def test_a_lan_device_that_becomes_wan_is_released(self):
        other = self.add_other()
        self.tpx.write(dropping())
        self.tpx.load()
        self.assert_joined("native")
        self.tpx.reload(dropping(interfaces={"lan": ["wan0"], "wan": ["lan0"]}))
        self.assert_only_others(other)

    def test_upgrade_replaces_it(self):
        other = self.add_other()
        self.start(dropping())
        old = self.ours()
        self.tpx.command("upgrade")
        self.assert_joined("native")
        self.assertNotEqual(self.ours(), old)
        self.assertIn(other, self.others())
        self.assert_drops_early()
        self.tpx.detach()
        self.assert_only_others(other)

    def test_a_dispatcher_without_room_is_a_message(self):
        others = [self.add_other() for _ in range(MOST)]
        self.tpx.write(dropping())
        self.assertRegex(self.tpx.load().stdout, "no early drop by XDP on lan0: .*dispatcher.* failed .*: tc drops")
        self.assertEqual(self.early()["xdp"], "none")
        before = self.tpx.rules().get("no", 0)
        self.assert_only_others(*others)
        self.assertGreaterEqual(self.tpx.rules()["no"], before + 12, "tc drops all the same")
        self.remove_other(others.pop())
        self.tpx.reload()
        self.assert_joined("native")
        self.tpx.detach()
        self.assert_only_others(*others)

    def test_a_device_that_goes_leaves_nothing_of_ours(self):
        self.add_other()
        self.start(dropping(interfaces={"lan": ["lan*"], "wan": ["wan0"]}))
        self.assert_joined("native")
        ids = {"prog": set(self.ours())}
        self.lab.client.ip("link del c0")
        harness.wait_until(lambda: not self.tpx.status()["early_drop"], "lan0 is forgotten", 60)
        harness.wait_until(lambda: not state.alive(ids), "our program goes", 60)

    def steps(self, *command):
        """The calls between the first and the last look at the dispatcher that may change it: [(call, n)]."""
        trace = self.tpx.folder / "trace"
        self.lab.gateway.run(*STRACE, "-o", trace, "-e", "trace=" + ",".join(CHANGES), *self.tpx.argv(*command))
        counts, found, told, last = collections.Counter(), [], False, 0
        for line in trace.read_text().splitlines():
            match = re.match(r"(?:\d+\s+)?(\w+)\((.*)", line)
            if not match:
                continue
            call, arguments = match.groups()
            counts[call] += 1
            told |= "dispatch" in arguments
            if told and re.search(CHANGES[call], arguments):
                found.append((call, counts[call]))
            if "dispatch-" in arguments:
                last = len(found)
        found = found[:last]
        self.assertGreater(len(found), 10, trace.read_text())
        stride = -(-len(found) // harness.scaled(KILLS))
        return found[::stride]

    def kill(self, call, number, *command):
        done = self.lab.gateway.run(*STRACE, "-o", "/dev/null", "-e", f"trace={call}", "-e",
                                    f"inject={call}:signal=SIGKILL:when={number}", *self.tpx.argv(*command),
                                    check=False)
        self.killed += done.returncode != 0

    @unittest.skipUnless(shutil.which("strace"), "needs strace")
    def test_killed_while_it_joins(self):
        other = self.add_other()
        self.tpx.load()
        command = ("reload", "--config", self.tpx.write(dropping()))
        steps = self.steps(*command)
        self.tpx.detach()
        for turn, (call, number) in enumerate(steps):
            with self.subTest(call=call, number=number):
                self.tpx.write(product.config())
                self.tpx.load()
                self.tpx.write(dropping())
                self.kill(call, number, *command)
                if turn % 2:
                    self.tpx.reload()
                    self.assert_joined("native")
                self.tpx.detach()
                self.assert_only_others(other)
        self.assertGreater(self.killed, len(steps) // 2)

    @unittest.skipUnless(shutil.which("strace"), "needs strace")
    def test_killed_while_it_leaves(self):
        other = self.add_other()
        self.tpx.write(dropping())
        self.tpx.load()
        steps = self.steps("detach")
        for call, number in steps:
            with self.subTest(call=call, number=number):
                self.tpx.load()
                self.kill(call, number, "detach")
                self.tpx.detach()
                self.assert_only_others(other)
        self.assertGreater(self.killed, len(steps) // 2)


if __name__ == "__main__":
    harness.main()
