# SPDX-License-Identifier: Apache-2.0
"""E1 to E4: at a limit new flows get the stated treatment, old ones go on, nothing spins."""
import os
import pathlib
import threading
import time

import harness
import product


class Limits(product.TestCase):
    def setUp(self):
        super().setUp()
        self.lab.serve()

    def hold(self, family, count, timeout=10):
        holder = self.lab.peer(self.lab.client, "hold", family.server, 8080, "--count", count, "--timeout", timeout)
        return holder, holder.read(120)

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.tpx.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def assert_idle(self):
        before = self.cpu_seconds()
        time.sleep(1)
        self.assertLess(self.cpu_seconds() - before, 0.3, "spins at its limit")

    def assert_explained_full(self, family, mode):
        """While all workers are."""
        answer = self.assert_explained(product.WHILE_DOWN[mode], (family.client, 50000), (family.server, 8080))
        if answer:
            self.assertEqual(answer["reason"]["name"], f"busy_{mode}", answer)

    def check_full(self, family, limit):
        """A proxy that fails open takes what it can; the rest goes direct, and nothing is refused."""
        holder, opened = self.hold(family, 3 * limit)
        self.assertEqual(opened["failures"], {})
        taken = opened["sources"].get(family.wan, 0)
        self.assertGreater(taken, 0)
        self.assertLessEqual(taken, limit)
        self.assertEqual(opened["sources"].get(family.client, 0), 3 * limit - taken)
        self.assert_idle()
        self.assertEqual(holder.ask("check"), {"ok": 3 * limit})
        self.assertGreater(self.tpx.totals()["limit_reached"], 0)
        self.assertGreater(self.tpx.reasons()["busy_open"], 0)
        self.assert_explained_full(family, "open")
        holder.ask("close")
        harness.wait_until(lambda: self.tpx.sessions() == 0, "sessions end")
        self.wait_proxied(family, "new flows are taken again")

    def test_E1_session_limit_fail_open(self):
        self.tpx.start(product.config(proxy={"max_sessions": 100}))
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                self.check_full(family, 100)

    def test_E1_session_limit_fail_reset(self):
        self.tpx.start(product.config(on_proxy_down="reset", proxy={"max_sessions": 100}))
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                holder, opened = self.hold(family, 200)
                self.assertNotIn(family.client, opened["sources"])
                self.assertGreaterEqual(opened["sources"][family.wan], 50)
                self.assertLessEqual(set(opened["failures"]), {"ECONNREFUSED", "ECONNRESET"})
                self.assert_explained_full(family, "reset")
                holder.ask("close")
                harness.wait_until(lambda: self.tpx.sessions() == 0, "sessions end")

    def test_E1_session_limit_fail_closed(self):
        self.tpx.start(product.config(on_proxy_down="closed", proxy={"max_sessions": 100}))
        holder, opened = self.hold(harness.V4, 110, timeout=0.2)
        self.assertNotIn(harness.V4.client, opened["sources"])
        self.assertLessEqual(set(opened["failures"]), {"timeout", "ECONNRESET"})
        self.assert_explained_full(harness.V4, "closed")
        self.assertEqual(holder.ask("check"), {"ok": opened["sources"][harness.V4.wan]})

    def test_E1_descriptor_limit_lowers_the_session_limit(self):
        self.tpx.start(product.config(proxy={"max_sessions": 1000}), wrapper=("prlimit", "--nofile=256:256", "--"))
        self.assertIn("descriptor", self.tpx.log.read_text())
        reports = self.tpx.log.read_text().count("descriptor")
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                self.check_full(family, 128)
        self.assertEqual(self.tpx.totals()["accept_errors"], 0, "the session limit comes first")
        self.assertEqual(self.tpx.log.read_text().count("descriptor"), reports, "reported again")

    def test_E2_descriptors_run_out_all_the_same(self):
        """Taken away at run time, below what the session limit was made for."""
        self.tpx.start(product.config(proxy={"max_sessions": 1000}))
        harness.run(["prlimit", f"--pid={self.tpx.pid}", "--nofile=120:20000"])
        holder, _ = self.hold(harness.V4, 300, timeout=1)
        self.assert_idle()
        self.assertIsNone(self.tpx.daemon.poll())
        harness.run(["prlimit", f"--pid={self.tpx.pid}", "--nofile=20000:20000"])
        holder.ask("close")
        harness.wait_until(lambda: self.tpx.sessions() == 0, "sessions end")
        for family in harness.FAMILIES:
            self.wait_proxied(family, "flows are taken again")

    def pair_flows(self, count):
        return [self.pair(harness.FAMILIES[i % 2]) for i in range(count)]

    def test_E3_one_blaster_does_not_starve_slow_flows(self):
        self.tpx.start()
        flows = self.pair_flows(100)
        source, sink = self.pair(harness.V4)
        done = threading.Event()

        def blast():
            while not done.is_set():
                source.sendall(bytes(1 << 18))

        def swallow():
            while sink.recv(1 << 18):
                pass
        threads = [threading.Thread(target=blast), threading.Thread(target=swallow)]
        for thread in threads:
            thread.start()
        try:
            for number in range(10):
                data = bytes([number]) * 100
                for client, server in flows:
                    client.sendall(data)
                for client, server in flows:
                    self.assertEqual(product.receive(server, 100), data)
                    server.sendall(data)
                for client, server in flows:
                    self.assertEqual(product.receive(client, 100), data)
        finally:
            done.set()
            threads[0].join()
            source.close()
            threads[1].join()

    def test_E4_pipe_limit_falls_back_to_copying(self):
        for pipes in (0, 1):
            with self.subTest(pipes=pipes):
                self.tpx.start(product.config(proxy={"pipes": pipes}))
                for family in harness.FAMILIES:
                    peer = self.lab.peer(self.lab.client, "transfer", family.server, 8080,
                                         "--count", 8, "--bytes", harness.scaled(16 << 20))
                    for result in peer.read(120):
                        self.assertIsNone(result["error"])
                        self.assertTrue(result["up_ok"] and result["down_ok"])
                totals = self.tpx.totals()
                self.assertGreater(totals["pipes_short"], 0)
                self.assertLessEqual(totals["pipes"], 2 * pipes)
                self.assertEqual(self.tpx.stop(), 0)
                self.tpx.detach()

    def test_E4_small_pipes(self):
        """The system's limit for the size of pipes is met: bytes are the same."""
        self.tpx.start(wrapper=("setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource", "--"))
        peer = self.lab.peer(self.lab.client, "transfer", harness.V4.server, 8080, "--count", 32, "--bytes", 4 << 20)
        for result in peer.read(120):
            self.assertTrue(result["up_ok"] and result["down_ok"], result)

    def test_E15_log_that_nobody_reads(self):
        """A full pipe as standard error blocks nothing."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        os.set_blocking(writer, False)
        try:
            while True:
                os.write(writer, b"x" * 4096)
        except BlockingIOError:
            pass
        os.set_blocking(writer, True)
        self.tpx.load()
        self.tpx.daemon = self.lab.gateway.popen(*self.tpx.argv("run", "--config", self.tpx.config),
                                                 stdout=writer, stderr=writer)
        os.close(writer)
        for family in harness.FAMILIES:
            self.wait_proxied(family, "traffic is proxied")
        for _ in range(100):
            with self.assertRaises(ConnectionError), self.lab.client.connect(harness.V4, harness.V4.server, 1) as sock:
                sock.recv(1) or self.fail("end of stream")


if __name__ == "__main__":
    harness.main()
