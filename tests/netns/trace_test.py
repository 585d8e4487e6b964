# SPDX-License-Identifier: Apache-2.0
"""trace shows each verdict once, as it is made, and says what it could not show; rules with `log` are in run's log."""
import itertools
import json
import os
import pathlib
import queue
import re
import signal
import subprocess
import threading
import time

import explain_test
import harness
import product
import schema
from explain_test import ALIVE, SERVER, STRANGER, end

RING_EVENTS = (1 << 20) // 88  # events of 80 bytes and a header of 8
LEASE = 5
LOG_BURST = LOG_PER_SECOND = 10
LOST = re.compile(r"([\d,]+) events?, ([\d,]+) lost")


class Trace:
    """A `trace` that listens: what it prints, line by line."""

    def __init__(self, tpx, *args):
        self.process = tpx.space.popen(*tpx.argv("trace", *args), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       text=True)
        self.lines, self.said = queue.Queue(), queue.Queue()
        self._pumps = [threading.Thread(target=self._pump, args=pair, daemon=True)
                       for pair in ((self.process.stdout, self.lines), (self.process.stderr, self.said))]
        for pump in self._pumps:
            pump.start()
        if "listening" not in self.said.get(timeout=60):
            raise AssertionError("trace does not listen")

    @staticmethod
    def _pump(stream, lines):
        for line in stream:
            lines.put(line.rstrip("\n"))

    def read(self, count, seconds=30):
        deadline = time.monotonic() + seconds
        return [self.lines.get(timeout=max(0.1, deadline - time.monotonic())) for _ in range(count)]

    def end(self, number=signal.SIGINT):
        """The lines that were not read, what it said at the end, the exit status."""
        if number:
            self.process.send_signal(number)
        status = self.process.wait(60)
        self.close()
        return list(self.lines.queue), " ".join(self.said.queue), status

    def close(self):
        harness.end(self.process)
        for pump in self._pumps:
            pump.join()
        self.process.stdout.close()
        self.process.stderr.close()


class TraceTest(product.TestCase):
    def setUp(self):
        super().setUp()
        self._ports = itertools.count(20000)
        self.open_wire()
        self.published = json.loads((harness.REPO / "docs/schema/trace.schema.json").read_text())

    def trace(self, *args):
        trace = Trace(self.tpx, *args)
        self.addCleanup(trace.close)
        return trace

    def events(self):
        return self.tpx.json("counters")["events"]

    def frame(self, proto, family, port, sport=0):
        return explain_test.frame(proto, STRANGER[family.name], SERVER[family.name], sport or next(self._ports), port,
                                  self.gateway_mac)

    def send(self, proto, family, port, count=1):
        for _ in range(count):
            self.wire.send(self.frame(proto, family, port))

    def parsed(self, lines):
        events = [json.loads(line) for line in lines]
        for event in events:
            self.assertEqual(schema.errors_of(event, self.published), [])
        return events

    def test_I10_each_verdict_is_shown_once(self):
        self.tpx.start(product.config(explain_test.rules()))
        before = self.tpx.reasons()
        trace = self.trace("--json")
        sent = {}
        for family, proto, (port, reason) in itertools.product(harness.FAMILIES, ("tcp", "udp"), ALIVE.items()):
            sport = next(self._ports)
            self.wire.send(self.frame(proto, family, port, sport))
            sent[proto, end(STRANGER[family.name], sport), end(SERVER[family.name], port)] = port, reason
        events = self.parsed(trace.read(len(sent)))
        time.sleep(0.5)
        rest, said, status = trace.end()
        self.assertEqual((rest, status), ([], 0))
        self.assertIn(f"{len(sent)} events, 0 lost", said)
        shown = {(e["flow"]["proto"], e["flow"]["src"], e["flow"]["dst"]): e for e in events}
        self.assertEqual(shown.keys(), sent.keys())
        own = json.loads(self.lab.client.run("ip", "-j", "link", "show", "c0").stdout)[0]["address"]
        for key, event in shown.items():
            port, reason = sent[key]
            said = explain_test.VERDICTS.get(reason) or ("redirect" if port == 1007 else "proxy")
            with self.subTest(key=key):
                self.assertEqual(event["reason"]["name"], reason)
                self.assertEqual(event["verdict"], said)
                self.assertEqual(event["rule"], "default" if port == 1008 else f"r{port}")
                self.assertEqual(event["flow"]["device"], "lan0")
                self.assertEqual(event["worker"] is None, reason != "rule_proxy")
                self.assertTrue(event["flow"]["mac"] in ("02:00:00:00:00:01", own))
        after = self.tpx.reasons()
        for reason in set(ALIVE.values()):
            self.assertEqual(after[reason] - before[reason], [r for _, r in sent.values()].count(reason), reason)

    def test_I10_real_connections(self):
        self.lab.serve()
        self.tpx.start()
        for family in harness.FAMILIES:
            trace = self.trace("tcp", family.client, "any:8080", "--count", "1")
            self.assert_proxied(family)
            lines, said, status = trace.end(0)
            self.assertEqual((len(lines), status), (1, 0), said)
            pattern = rf"^\d\d:\d\d:\d\d\.\d{{6}} proxy tcp \S+ > {re.escape(end(family.server, 8080))} in lan0 " \
                      r"by rule all: rule_proxy, worker [01], \d+ bytes$"
            self.assertRegex(lines[0], pattern)
        trace = self.trace("--reason", "established")
        self.assert_proxied(harness.V4)
        self.assertIn(": established, ", trace.read(1)[0])
        self.assertEqual(trace.end(signal.SIGTERM)[2], 0)

    def test_I10_filters(self):
        self.tpx.start(product.config(explain_test.rules()))
        v6 = SERVER["v6"]
        for args, fits in ((("--rule", "r1005"), lambda f, p, n: n == 1005),
                           (("udp", "any", "any:1006"), lambda f, p, n: p == "udp" and n == 1006),
                           (("any", "any", "2001:db8:5::/48"), lambda f, p, n: SERVER[f.name] == v6),
                           (("tcp", STRANGER["v4"]), lambda f, p, n: f is harness.V4 and p == "tcp"),
                           (("--reason", "drop", "--reason", "rule_bypass"), lambda f, p, n: n in (1001, 1005)),
                           (("--in", "lan0", "--reason", "answer"), lambda f, p, n: n == 1006),
                           (("--in", "wan0"), lambda f, p, n: False)):
            with self.subTest(args=args):
                trace = self.trace("--json", *args)
                expected = 0
                for family, proto, port in itertools.product(harness.FAMILIES, ("tcp", "udp"), (1001, 1005, 1006)):
                    self.send(proto, family, port)
                    expected += fits(family, proto, port)
                self.parsed(trace.read(expected))
                time.sleep(0.2)
                self.assertEqual(trace.end()[0], [])

    def test_I10_sampling(self):
        self.tpx.start(product.config(explain_test.rules()))
        trace = self.trace("--rule", "r1005", "--sample", "10")
        self.send("udp", harness.V4, 1005, 200)
        harness.wait_until(lambda: self.events()["trace_matched"] == 200, "all have come")
        lines, said, _ = trace.end()
        cpus = len(list(pathlib.Path("/sys/devices/system/cpu").glob("cpu[0-9]*")))
        self.assertLessEqual(abs(len(lines) - 20), cpus)
        self.assertIn(f"{200 - len(lines)} left out by --sample", said)

    def test_I10_what_the_kernel_had_no_room_for_is_counted(self):
        """The reader stands still; nobody waits for it, and it knows afterwards what it missed."""
        self.tpx.start(product.config(explain_test.rules()))
        trace = self.trace("--rule", "r1005")
        frames = [self.frame("udp", harness.V4, 1005) for _ in range(100)]
        sent = 0
        for _ in range(20):
            trace.process.send_signal(signal.SIGSTOP)
            until = time.monotonic() + LEASE / 2
            for frame in itertools.islice(itertools.cycle(frames), RING_EVENTS * 5 // 4):
                self.wire.send(frame)
                sent += 1
                if time.monotonic() > until:
                    break
            lost = self.events()["trace_lost"]
            trace.process.send_signal(signal.SIGCONT)
            if lost:
                break
        self.assertGreater(lost, 0)
        self.send("udp", harness.V4, 1005)
        harness.wait_until(lambda: self.events()["trace_sent"] + lost >= RING_EVENTS, "it goes on")
        time.sleep(0.5)
        lines, said, _ = trace.end()
        counted = self.events()
        self.assertEqual([int(n.replace(",", "")) for n in LOST.search(said).groups()],
                         [counted["trace_sent"], counted["trace_lost"]])
        self.assertEqual(len(lines), counted["trace_sent"])
        self.assertLessEqual(counted["trace_sent"] + counted["trace_lost"], sent + 1)

    def deadline(self):
        dump = harness.run(["bpftool", "-j", "map", "dump", "pinned", self.tpx.pins / "tpx_trace"]).stdout
        value = json.loads(dump)[0]["value"]
        return int.from_bytes(bytes(int(byte, 16) for byte in value[:8]), "little")

    def test_I10_a_killed_reader_does_not_leave_tracing_on(self):
        self.tpx.start(product.config(explain_test.rules()))
        trace = self.trace()
        self.assertNotEqual(self.deadline(), 0)
        trace.process.kill()
        trace.process.wait()
        self.assertNotEqual(self.deadline(), 0)

        def over():
            self.send("udp", harness.V4, 1005)
            return self.deadline() == 0
        harness.wait_until(over, "the lease ends", LEASE + 20, step=0.2)
        matched = self.events()["trace_matched"]
        self.send("udp", harness.V4, 1005, 5)
        self.assertEqual(self.events()["trace_matched"], matched)
        again = self.trace("--count", "1")
        self.send("udp", harness.V4, 1005)
        self.assertEqual(len(again.read(1)), 1)
        again.end(0)
        self.assertEqual(self.deadline(), 0, "one that ends in order leaves nothing")

    def test_one_trace_at_a_time(self):
        self.tpx.load()
        trace = self.trace()
        done = self.tpx.command("trace", check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("already running", done.stderr)
        self.assertIn(str(trace.process.pid), done.stderr)
        self.assertEqual(trace.end()[2], 0)
        self.assertEqual(self.tpx.command("trace", "--for", "100ms").returncode, 0)

    def test_errors_say_what_is_wrong(self):
        done = self.tpx.command("trace", check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("nothing is loaded", done.stderr)
        self.tpx.write(product.config(explain_test.rules()))
        self.tpx.load()
        for args, status, words in ((("--rule", "r1oo5"), 1, "there is no rule 'r1oo5'"),
                                    (("--rule", "defualt"), 1, "did you mean 'default'?"),
                                    (("--in", "lan9"), 1, "there is no device 'lan9'"),
                                    (("--reason", "rule_dorp"), 2, "did you mean 'rule_drop'?"),
                                    (("sctp",), 2, "expected tcp, udp, icmp or any"),
                                    (("tcp", "192.0.2.1/24"), 2, "192.0.2.0/24"), (("--for", "soon"), 2, "30s"),
                                    (("--sample", "0"), 2, "--sample '0'")):
            with self.subTest(args=args):
                done = self.tpx.command("trace", *args, check=False)
                self.assertEqual((done.returncode, done.stdout), (status, ""), done.stderr)
                self.assertIn(words, done.stderr)

    def test_I10_names_follow_a_reload(self):
        self.tpx.start(product.config([product.udp_rule("drop", "before")]))
        trace = self.trace("--json")
        self.send("udp", harness.V4, 1)
        self.assertEqual(self.parsed(trace.read(1))[0]["rule"], "before")
        self.tpx.reload(product.config([product.udp_rule("drop", "after"), product.rule("drop", "before")]))
        self.send("udp", harness.V4, 1)
        self.send("tcp", harness.V4, 1)
        self.assertEqual([e["rule"] for e in self.parsed(trace.read(2))], ["after", "before"])
        trace.end()
        trace = self.trace("--rule", "after")
        self.tpx.reload(product.config([product.udp_rule("drop", "third")]))
        self.assertIn("rule 'after' is not in the new policy", trace.said.get(timeout=30))
        self.send("udp", harness.V4, 1)
        self.tpx.reload(product.config([product.udp_rule("drop", "after")]))
        self.assertIn("again", trace.said.get(timeout=30))
        self.send("udp", harness.V4, 2)
        self.assertIn(":2 in lan0 by rule after: rule_drop", trace.read(1)[0])
        self.assertEqual(trace.end()[0], [])

    def test_detach_ends_a_trace(self):
        self.tpx.load()
        trace = self.trace()
        self.tpx.detach()
        _, said, status = trace.end(0)
        self.assertEqual(status, 0)
        self.assertIn("detached by another process", said)
        self.assertFalse(pathlib.Path("/run", self.tpx.name).exists())

    def test_a_trace_ends_with_its_reader(self):
        self.tpx.load()
        process = self.tpx.space.popen(*self.tpx.argv("trace"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(harness.end, process)
        process.stdout.close()
        self.assertEqual(process.wait(30), 0)
        self.assertIn(b"0 events", process.stderr.read())
        process.stderr.close()

    # --- log: sample

    def flows_in_log(self):
        return [line for line in self.tpx.log.read_text().splitlines() if " flow" in line]

    def start_logged(self):
        self.tpx.start(product.config([product.rule("drop", "quiet", {"proto": ["tcp", "udp"], "dport": 1000}),
                                       product.rule("drop", "loud", {"proto": ["tcp", "udp"]}, log="sample")]))

    def test_I10_rules_that_say_so_are_in_the_log(self):
        self.start_logged()
        for family in harness.FAMILIES:
            for proto in ("tcp", "udp"):
                self.send(proto, family, 1000)
                self.send(proto, family, 1005)
        lines = harness.wait_until(lambda: len(self.flows_in_log()) >= 4 and self.flows_in_log(), "the log tells")
        self.assertEqual(len(lines), 4)
        self.assertRegex(lines[0], r"^info flow: drop tcp 192\.0\.2\.200:\d+ > 203\.0\.113\.5:1005 in lan0 by rule loud: "
                                   r"rule_drop, \d+ bytes$")
        self.assertEqual(self.events()["log_sent"], 4)

    def test_I10_a_flood_leaves_the_log_readable(self):
        self.start_logged()
        cpus = len(list(pathlib.Path("/sys/devices/system/cpu").glob("cpu[0-9]*")))
        allowed = os.sched_getaffinity(0)
        self.addCleanup(os.sched_setaffinity, 0, allowed)
        frames, count = [self.frame("udp", harness.V4, 1005) for _ in range(100)], 5000
        began = time.monotonic()
        for frame in itertools.islice(itertools.cycle(frames), count):
            self.wire.send(frame)
        harness.wait_until(lambda: sum(self.events()[k] for k in ("log_sent", "log_skipped", "log_lost")) >= count,
                           "all are counted")
        bound = cpus * (LOG_BURST + LOG_PER_SECOND * (time.monotonic() - began + 1))
        sent = self.events()["log_sent"]
        self.assertLessEqual(sent, bound)
        self.assertEqual(self.events()["log_lost"], 0)
        harness.wait_until(lambda: len(self.flows_in_log()) >= min(sent, 50), "they are written")
        time.sleep(1.2)
        # Each CPU counts what it left out itself, and a veth's receiver runs where its sender does.
        for cpu in allowed:
            os.sched_setaffinity(0, {cpu})
            self.send("udp", harness.V4, 1005)
        os.sched_setaffinity(0, allowed)
        harness.wait_until(lambda: any(re.search(r"; \d+ of this rule before it are left out", line)
                                       for line in self.flows_in_log()), "the log tells what it left out")

    def test_I10_many_rules_leave_the_log_to_others_too(self):
        """Each rule keeps to its share; all together are more than the proxy writes in a second."""
        ports = range(1000, 1030)
        self.tpx.start(product.config([product.udp_rule("drop", f"r{port}", {"dport": port}, log="sample")
                                       for port in ports]))
        frames = [self.frame("udp", harness.V4, port) for port in ports for _ in range(LOG_BURST)]
        began = time.monotonic()
        for frame in frames:
            self.wire.send(frame)
        harness.wait_until(lambda: self.events()["log_sent"] == len(frames), "all are sent")
        left_out = re.compile(r"^info flows: (\d+) more were logged by rules and are left out here$")

        def complete():
            lines = self.flows_in_log()
            more = sum(int(found[1]) for line in lines if (found := left_out.match(line)))
            written = sum(line.startswith("info flow: ") for line in lines)
            return written + more == len(frames) and (written,)
        written, = harness.wait_until(complete, "what is not written is said")
        self.assertLessEqual(written, 50 * (1 + int(time.monotonic() - began)))
        self.assertGreaterEqual(written, 50)

    def test_I10_without_a_proxy_they_are_counted_as_lost(self):
        self.start_logged()
        self.send("udp", harness.V4, 1005)
        harness.wait_until(lambda: len(self.flows_in_log()) == 1, "the log tells")
        self.tpx.stop()
        self.send("udp", harness.V4, 1005, 3)
        harness.wait_until(lambda: self.events()["log_lost"] == 3, "they are counted")
        self.tpx.start()
        self.send("udp", harness.V4, 1005)
        lines = harness.wait_until(lambda: len(self.flows_in_log()) == 2 and self.flows_in_log(), "the log goes on")
        self.assertRegex(lines[1], "rule_drop")


if __name__ == "__main__":
    harness.main()
