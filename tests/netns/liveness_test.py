# SPDX-License-Identifier: Apache-2.0
"""L1 to L4: the proxy is killed or hangs under a steady flow of new connections."""
import signal
import socket
import time

import harness
import product
import ptrace

LEASE = 1.0
MARGIN = 1.0  # for a loaded machine, on top of the lease


class Liveness(product.TestCase):
    def setUp(self):
        super().setUp()
        self.server = self.lab.serve()
        self.loops = {}

    def start_loops(self, **options):
        """One for each family: they run at the same time."""
        arguments = [word for key, value in options.items() for word in (f"--{key}", value)]
        for family in harness.FAMILIES:
            self.loops[family] = self.lab.peer(self.lab.client, "loop", family.server, 8080, *arguments)
            self.loops[family].read()

    def outcomes(self):
        return {family: [tuple(o) for o in loop.ask("stop")] for family, loop in self.loops.items()}

    def kill_under_load(self, mode, **loop):
        """Returns when it was killed, the outcomes, and the connections that the server got before and in all."""
        self.tpx.start(product.config(on_proxy_down=mode))
        self.start_loops(**loop)
        time.sleep(1)
        killed = time.monotonic()
        self.tpx.crash()
        time.sleep(0.1)  # what was on its way has arrived
        before = self.server.ask("stats")["total"]
        time.sleep(1.5)
        outcomes = self.outcomes()
        for family, seen in outcomes.items():
            proxied = [o for o in seen if o[0] < killed - 0.1]
            self.assertGreater(len(proxied), 50)
            self.assertEqual({(o[2], o[3]) for o in proxied}, {("ok", family.wan)}, "before the kill")
            self.assert_explained(product.WHILE_DOWN[mode], (family.client, 50000), (family.server, 8080))
        return killed, outcomes, self.server.ask("stats")["total"] - before

    def test_L1_kill_fail_open(self):
        killed, outcomes, _ = self.kill_under_load("open")
        for family, seen in outcomes.items():
            with self.subTest(family=family.name):
                failures = [o for o in seen if o[2] != "ok"]
                # A sanitizer's shadow memory takes 10 ms to unmap, before the sockets are closed.
                self.assertLessEqual(len(failures), 10 if self.tpx.sanitized() else 2, failures)
                after = {o[3] for o in seen if o[0] > killed + 0.1}
                self.assertEqual(after, {family.client})
        self.assertGreater(self.tpx.reasons()["down_open"], 0)

    def test_L2_kill_fail_closed(self):
        killed, outcomes, leaked = self.kill_under_load("closed", timeout=0.3)
        self.assertEqual(leaked, 0, "connections of a closed class reached the server")
        for family, seen in outcomes.items():
            with self.subTest(family=family.name):
                after = [o for o in seen if o[0] > killed + 0.1]
                self.assertTrue(after)
                self.assertEqual({o[2] for o in after}, {"timeout"})
        self.assertGreater(self.tpx.reasons()["down_closed"], 0)

    def test_L2_kill_fail_reset(self):
        killed, outcomes, leaked = self.kill_under_load("reset")
        self.assertEqual(leaked, 0, "connections of a closed class reached the server")
        for family, seen in outcomes.items():
            with self.subTest(family=family.name):
                after = [o for o in seen if o[0] > killed + 0.1]
                self.assertGreater(len(after), 50, "answers do not come at once")
                self.assertEqual({o[2] for o in after}, {"ECONNREFUSED"})
                self.assertLess(max(o[1] for o in after), 0.9, "not at once: only after the SYN was sent again")
        self.assertGreater(self.tpx.reasons()["down_reset"], 0)

    def test_L1_kill_resets_established_flows(self):
        self.tpx.start()
        holders = [self.lab.peer(self.lab.client, "hold", f.server, 8080, "--count", 50) for f in harness.FAMILIES]
        for family, holder in zip(harness.FAMILIES, holders):
            self.assertEqual(holder.read()["sources"], {family.wan: 50})
        self.tpx.crash()
        for holder in holders:
            self.assertEqual(holder.ask("watch"), {"ECONNRESET": 50})

    def test_L1_run_again_resumes_without_load(self):
        self.tpx.start()
        generation = self.tpx.status()["generation"]
        for _ in range(3):
            self.tpx.crash()
            for family in harness.FAMILIES:
                self.assert_direct(family)
            harness.wait_until(lambda: not self.tpx.status()["proxy"]["running"], "status tells it")
            self.tpx.start()
            for family in harness.FAMILIES:
                self.assert_proxied(family)
        self.assertGreaterEqual(self.tpx.status()["generation"], generation)

    def test_L1_ready_means_that_flows_are_taken(self):
        """Also where the workers' threads get a CPU late."""
        path = str(self.tpx.folder / "ready")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(path)
            self.tpx.spawn(notify=path)
            with ptrace.new_threads_held(self.tpx.pid) as held:
                harness.wait_until(lambda: len(held) == 2, "two workers are made", seconds=20)
                ready.settimeout(1)
                with self.assertRaises(TimeoutError):
                    ready.recv(4096)
            ready.settimeout(20)
            self.assertIn(b"READY=1", ready.recv(4096))
        for family in harness.FAMILIES:
            self.assert_proxied(family)

    def test_L1_direct_connections_are_not_touched(self):
        self.tpx.load()
        holder = self.lab.peer(self.lab.client, "hold", harness.V4.server, 8080, "--count", 20)
        self.assertEqual(holder.read()["sources"], {harness.V4.client: 20})
        for act in (self.tpx.start, self.tpx.crash, self.tpx.start, self.tpx.reload, self.tpx.stop, self.tpx.detach):
            act()
            self.assertEqual(holder.ask("check"), {"ok": 20}, act.__name__)

    def is_steered(self, family):
        try:
            return self.lab.who(family, asks=False)[0] == family.wan
        except OSError:  # still refused: the rule resets until the lease runs again
            return False

    def hang(self, mode, seconds=3.0, **loop):
        self.tpx.start(product.config(on_proxy_down=mode, proxy={"lease": "1s"}))
        self.start_loops(outstanding=1000, **loop)
        time.sleep(1)
        stopped = time.monotonic()
        self.tpx.kill(signal.SIGSTOP)
        time.sleep(seconds)
        for family in harness.FAMILIES:
            self.assert_explained(product.WHILE_DOWN[mode], (family.client, 50000), (family.server, 8080))
        self.tpx.kill(signal.SIGCONT)
        resumed = time.monotonic()
        for family in harness.FAMILIES:
            harness.wait_until(lambda f=family: self.is_steered(f), "steering resumes")
            self.assert_explained("proxy", (family.client, 50000), (family.server, 8080))
        return stopped, resumed, self.outcomes()

    def test_L3_hang_fail_open(self):
        stopped, resumed, outcomes = self.hang("open", timeout=15)
        for family, seen in outcomes.items():
            with self.subTest(family=family.name):
                hung = [o for o in seen if stopped + LEASE + MARGIN < o[0] < resumed - 0.1]
                self.assertGreater(len(hung), 50)
                self.assertEqual({(o[2], o[3]) for o in hung}, {("ok", family.client)})
                self.assertNotIn("timeout", {o[2] for o in seen}, "accepted by the kernel, then forgotten")

    def test_L3_hang_fail_reset(self):
        stopped, resumed, outcomes = self.hang("reset", timeout=15)
        for family, seen in outcomes.items():
            with self.subTest(family=family.name):
                hung = [o for o in seen if stopped + LEASE + MARGIN < o[0] < resumed - 0.1]
                self.assertGreater(len(hung), 50)
                self.assertEqual({o[2] for o in hung}, {"ECONNREFUSED"})
                self.assertNotIn("timeout", {o[2] for o in seen})

    def test_L3_hang_is_shown_by_status(self):
        self.tpx.start(product.config(proxy={"lease": "1s"}))
        self.tpx.kill(signal.SIGSTOP)
        self.addCleanup(self.tpx.kill, signal.SIGCONT)
        harness.wait_until(lambda: max(self.leases()) <= 0, "the leases run out")
        self.tpx.kill(signal.SIGCONT)
        harness.wait_until(lambda: min(self.leases()) > 0, "the leases are renewed")

    def leases(self):
        return [worker["lease_ms_left"] for worker in self.tpx.status()["proxy"]["workers"]
                if worker["state"] != "absent"]

    def test_L4_one_hung_worker_of_two(self):
        self.tpx.start(product.config(proxy={"workers": 2, "lease": "1s"}))
        with ptrace.stopped(ptrace.thread_named(self.tpx.pid, "tpx-worker-0")):
            time.sleep(LEASE + MARGIN)
            for family in harness.FAMILIES:
                with self.subTest(family=family.name):
                    for _ in range(50):
                        self.assertEqual(self.lab.who(family)[0], family.wan)
        harness.wait_until(lambda: min(self.leases()) > 0, "the worker is back")
        for family in harness.FAMILIES:
            self.assert_proxied(family)


if __name__ == "__main__":
    harness.main()
