# SPDX-License-Identifier: Apache-2.0
"""A1 to A4: load and detach fail or are killed at every step: traffic passes, and the next command cleans up."""
import collections
import json
import re
import shutil
import unittest

import harness
import product
import state

# what may change the machine; a kill before and after each of these covers every intermediate state
CHANGES = {
    "bpf": r"BPF_(MAP_CREATE|PROG_LOAD|OBJ_PIN|LINK_CREATE|LINK_UPDATE|LINK_DETACH|MAP_UPDATE_ELEM)",
    "sendto": "", "sendmsg": "", "mkdir": "", "mkdirat": "", "rename": "", "renameat": "", "renameat2": "",
    "unlink": "", "unlinkat": "", "rmdir": "", "write": "", "pwrite64": "", "openat": r"O_(CREAT|WRONLY|RDWR)",
    "ftruncate": "", "fsync": "", "flock": "", "link": "", "linkat": "",
}


# Ports that two policies judge differently.
TOLD = (9001, 9002)

# A leak check cannot run in a traced process.
STRACE = ("strace", "-f", "-qq", "-E", "ASAN_OPTIONS=detect_leaks=0")


@unittest.skipUnless(shutil.which("strace"), "needs strace")
class Crash(product.TestCase):
    def setUp(self):
        super().setUp()
        self.lab.serve()
        self.tpx.load()
        self.tpx.detach()
        self.before = state.of(self.lab.gateway)

    def steps(self, *command):
        """The n-th calls of each kind that may change something: [(call, n)], in order."""
        trace = self.tpx.folder / "trace"
        self.lab.gateway.run(*STRACE, "-o", trace, "-e", "trace=" + ",".join(CHANGES),
                             *self.tpx.argv(*command))
        counts, found = collections.Counter(), []
        for line in trace.read_text().splitlines():
            match = re.match(r"\d+\s+(\w+)\((.*)", line)
            if not match or "resumed>" in line:
                continue
            call, arguments = match.groups()
            counts[call] += 1
            if re.search(CHANGES[call], arguments):
                found.append((call, counts[call]))
        return found

    def inject(self, what, call, number, *command):
        return self.lab.gateway.run(
            *STRACE, "-o", "/dev/null", "-e", f"trace={call}", "-e",
            f"inject={call}:{what}:when={number}", *self.tpx.argv(*command), check=False)

    def assert_clean(self):
        self.assertEqual(state.difference(self.before, state.of(self.lab.gateway)), [])
        self.assertFalse(self.tpx.pins.exists(), "pins are left")

    def assert_traffic_passes(self):
        for family in harness.FAMILIES:
            self.assert_direct(family)

    @staticmethod
    def thinned(steps, most):
        """Evenly chosen, when there are more than fit the time."""
        most = harness.scaled(most, 10)
        stride = max(1, -(-len(steps) // most))
        return steps[::stride]

    def load_words(self):
        return "load", "--config", self.tpx.config

    def test_A1_A2_bpf_calls_that_fail_at_load(self):
        steps = self.steps(*self.load_words())
        self.tpx.detach()
        for call, number in self.thinned([s for s in steps if s[0] == "bpf"], 20):
            with self.subTest(call=call, number=number):
                done = self.inject("error=ENOMEM", call, number, *self.load_words())
                self.assertIn(done.returncode, (0, 1), done.stderr)
                if done.returncode == 0:
                    self.tpx.detach()  # a probe failed: an older way was taken
                else:
                    self.assertTrue(done.stderr.strip(), "failed without a word")
                self.assert_clean()

    def test_A3_netlink_and_files_that_fail_at_load(self):
        steps = self.steps(*self.load_words())
        self.tpx.detach()
        for call, number in self.thinned([s for s in steps if s[0] != "bpf"], 20):
            with self.subTest(call=call, number=number):
                done = self.inject("error=ENOSPC", call, number, *self.load_words())
                self.assertIn(done.returncode, (0, 1), done.stderr)
                self.assert_traffic_passes()
                self.tpx.detach()
                self.assert_clean()

    def test_A4_killed_at_every_step_of_load(self):
        steps = self.steps(*self.load_words())
        self.tpx.detach()
        for turn, (call, number) in enumerate(self.thinned(steps, 40)):
            with self.subTest(call=call, number=number):
                self.inject("signal=SIGKILL", call, number, *self.load_words())
                self.assert_traffic_passes()
                if turn % 2:
                    self.tpx.load()
                    self.assertTrue(self.tpx.status()["loaded"])
                self.tpx.detach()
                self.assert_clean()

    def test_A4_killed_at_every_step_of_detach(self):
        self.tpx.load()
        steps = self.steps("detach")
        for turn, (call, number) in enumerate(self.thinned(steps, 30)):
            with self.subTest(call=call, number=number):
                self.tpx.load()
                self.inject("signal=SIGKILL", call, number, "detach")
                self.assert_traffic_passes()
                if turn % 2:
                    self.tpx.load()
                self.tpx.detach()
                self.assert_clean()

    def two_policies(self):
        """Files that say the opposite of two ports, and the same of the rest."""
        files = []
        for name, of_the_first, of_the_second in (("a", "reject", "bypass"), ("b", "bypass", "reject")):
            files.append(self.tpx.folder / f"{name}.yaml")
            files[-1].write_text(json.dumps(product.config(
                [product.rule(of_the_first, f"{name}-{TOLD[0]}", {"proto": "tcp", "dport": TOLD[0]}),
                 product.rule(of_the_second, f"{name}-{TOLD[1]}", {"proto": "tcp", "dport": TOLD[1]}), product.rule()])))
        return files

    def told(self):
        return tuple(self.tpx.json("explain", "tcp", "192.0.2.2:1", f"198.51.100.2:{port}")["verdict"] for port in TOLD)

    def test_A4_killed_at_every_step_of_reload(self):
        """The policy is the old one or the new one, whole, and the next command makes it the new one."""
        now, then = self.two_policies()
        verdicts = {now: ("reject", "direct"), then: ("direct", "reject")}
        self.tpx.start(now.read_text())
        steps, seen = self.steps("reload", "--config", then), set()
        for call, number in self.thinned(steps, 20):
            now, then = then, now
            with self.subTest(call=call, number=number):
                self.assertEqual(self.told(), verdicts[now])
                self.inject("signal=SIGKILL", call, number, "reload", "--config", then)
                told = self.told()
                self.assertIn(told, verdicts.values())
                seen.add(told == verdicts[then])
                for family in harness.FAMILIES:
                    self.assert_proxied(family)
                self.tpx.command("reload", "--config", then)
                self.assertEqual(self.told(), verdicts[then])
        self.assertIn(False, seen)
        self.assertEqual(self.tpx.stop(), 0)
        self.tpx.detach()
        self.assert_clean()


if __name__ == "__main__":
    harness.main()
