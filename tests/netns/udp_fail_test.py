# SPDX-License-Identifier: Apache-2.0
"""L1 to L7, U11: UDP flows while the proxy is killed, hangs, drains, starts again or gets another policy."""
import contextlib
import json
import signal
import threading
import time

import harness
import product
from udp_case import OTHER_PORT, PORT, UdpCase, drain, own_end

LEASE = 1.0
MARGIN = 1.0  # for a loaded machine, on top of the lease
STEP = 0.02
RULES = {"proxy": [product.udp_rule()], "bypass": [product.udp_rule("bypass")]}
# How long an answer may take that the mode lets come; silence is waited for in full.
ANSWER_S = {"open": 2.0, "reset": 2.0, "closed": 0.1}


@contextlib.contextmanager
def keep_busy(socks):
    """Each sends all the time what nobody waits for: a flow that is idle for a second ends with a draining proxy."""
    done = threading.Event()

    def send():
        while not done.wait(STEP):
            for sock in socks:
                with contextlib.suppress(ConnectionRefusedError):
                    sock.send(b"W")

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        done.set()
        sender.join()


class FailCase(UdpCase):
    def setUp(self):
        super().setUp()
        self.begun = set()

    def flow(self, family, port=PORT):
        sock = self.socket(family)
        sock.connect((family.server, port))
        return sock

    def seen(self, sock, seconds=2.0):
        """Asks once: the address that the server saw, the error, or None for silence. Old answers do not count.

        Explain is asked about new flows."""
        is_new = sock not in self.begun
        self.begun.add(sock)
        found = self.seen_quietly(sock, seconds)
        if is_new:
            self.compare(sock, found)
        return found

    def compare(self, sock, found):
        family = next(f for f in harness.FAMILIES if f.af == sock.family)
        ends = own_end(sock, family), sock.getpeername()[:2]
        if isinstance(found, tuple):
            self.lab.on_seen("udp", ends[0], False, ends[1], found[0])
        else:
            self.assert_explained("drop" if found is None else "reject", *ends, "udp", chosen=False)

    @staticmethod
    def seen_quietly(sock, seconds):
        question = b"W" + str(time.monotonic_ns()).encode()
        drain(sock)
        sock.settimeout(seconds)
        try:
            sock.send(question)
            return tuple(json.loads(sock.recv(65536)))
        except TimeoutError:
            return None
        except ConnectionRefusedError:
            return "ECONNREFUSED"

    def watch(self, socks, seconds, wait=1.0):
        """Asks in turn for a while: [(when, socket, what was seen)]."""
        found, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            for sock in socks:
                began = time.monotonic()
                found.append((began, sock, self.seen(sock, wait)))
            time.sleep(STEP)
        return found

    def both(self, port=PORT):
        return {family: self.flow(family, port) for family in harness.FAMILIES}

    def address(self, sock):
        seen = self.seen(sock, 2)
        return seen[0] if isinstance(seen, tuple) else seen

    def received(self):
        """Datagrams that reached the server."""
        return sum(count for *_, count in self.server.ask("stats")["senders"])

    def expected(self, mode, family):
        """What a client sees with this fail mode while nobody is there."""
        return {"open": family.client, "closed": None, "reset": "ECONNREFUSED"}[mode]

    def assert_failing(self, mode, flows, found, since):
        """From then on each flow fares as the mode says, and at once."""
        for family, sock in flows.items():
            after = {seen[0] if isinstance(seen, tuple) else seen
                     for began, s, seen in found if s is sock and began > since}
            self.assertEqual(after, {self.expected(mode, family)}, family.name)
            self.assert_explained(product.WHILE_DOWN[mode], (family.client, 50000), (family.server, PORT), "udp")


class Killed(FailCase):
    def kill(self, mode, source="masquerade"):
        self.start_udp(on_proxy_down=mode, source=source)
        flows = self.both()
        for family, sock in flows.items():
            self.assertEqual(self.address(sock), family.client if source == "preserve" else family.wan)
        self.watch(flows.values(), 0.3)
        self.tpx.crash()
        return flows

    def settled(self):
        """The listeners of a killed process go some time later, sessions that tc translates go on; at the latest the lease ends."""
        time.sleep(LEASE)

    def test_L1_kill_open(self):
        for source in ("masquerade", "preserve"):
            with self.subTest(source=source):
                flows = self.kill("open", source)
                killed = time.monotonic()
                found = self.watch(flows.values(), LEASE + 3, wait=ANSWER_S["open"])
                self.assert_failing("open", flows, found, killed + LEASE)
                found = self.watch(self.both().values(), 0.2)
                self.assertTrue(all(seen for _, _, seen in found), "new flows go direct too")
        self.assertGreater(self.tpx.reasons()["down_open"], 0)

    def test_L2_kill_closed(self):
        flows = self.kill("closed")
        self.settled()
        before = self.received()
        for family, sock in [*flows.items(), *self.both().items()]:
            self.assertEqual({seen for *_, seen in self.watch([sock], 0.5, wait=0.1)}, {None}, family.name)
        self.assertEqual(self.received(), before, "datagrams of a closed class reached the server")
        self.assertGreater(self.tpx.reasons()["down_closed"], 0)

    def test_L2_kill_reset(self):
        flows = self.kill("reset")
        self.settled()
        before = self.received()
        for family, sock in [*flows.items(), *self.both().items()]:
            with self.subTest(family=family.name):
                found = self.watch([sock], 0.5)
                self.assertEqual({seen for *_, seen in found}, {"ECONNREFUSED"})
        self.assertEqual(self.received(), before, "datagrams of a closed class reached the server")
        self.assertGreater(self.tpx.reasons()["down_reset"], 0)

    def test_L1_what_went_direct_stays_direct(self):
        """The proxy comes back; a flow that began or went on without it is not cut."""
        flows = self.kill("open")
        self.settled()
        direct = self.both()
        for family, sock in [*flows.items(), *direct.items()]:
            self.assertEqual(self.address(sock), family.client)
        self.tpx.start()
        for family, sock in [*flows.items(), *direct.items()]:
            self.assertEqual({seen[0] for *_, seen in self.watch([sock], 0.3)}, {family.client})
        for family, sock in self.both().items():
            self.assertEqual(self.address(sock), family.wan)

    def test_L1_what_was_refused_is_proxied_again(self):
        for mode in ("closed", "reset"):
            flows = self.kill(mode)
            self.settled()
            for family, sock in flows.items():
                self.assertEqual(self.seen(sock, ANSWER_S[mode]), self.expected(mode, family))
            self.tpx.start()
            for family, sock in flows.items():
                self.assertEqual(self.address(sock), family.wan)
            self.assertEqual(self.tpx.stop(), 0)

    def test_L1_flows_begun_before_the_proxy_stay_direct(self):
        self.tpx.write(product.config(RULES["proxy"]))
        self.tpx.load()
        flows = self.both()
        for family, sock in flows.items():
            self.assertEqual(self.address(sock), family.client)
        self.tpx.start()
        for family, sock in flows.items():
            self.assertEqual({seen[0] for *_, seen in self.watch([sock], 0.3)}, {family.client})
        for family, sock in self.both().items():
            self.assertEqual(self.address(sock), family.wan)


class Hung(FailCase):
    def hang(self, mode):
        """The found of flows that were there before, and of some made while it hung."""
        self.start_udp(on_proxy_down=mode, proxy={"lease": "1s"})
        flows = self.both()
        for family, sock in flows.items():
            self.assertEqual(self.address(sock), family.wan)
        self.tpx.kill(signal.SIGSTOP)
        stopped = time.monotonic()
        found = self.watch(flows.values(), LEASE + MARGIN + 2, wait=ANSWER_S[mode])
        late = self.both()
        before = self.received()
        found_late = self.watch(late.values(), 0.5, wait=ANSWER_S[mode])
        got = self.received() - before
        self.assert_failing(mode, flows, found, stopped + LEASE + MARGIN)
        self.assert_failing(mode, late, found_late, 0)
        if mode != "open":
            self.assertEqual(got, 0, "datagrams of a closed class reached the server")
        self.tpx.kill(signal.SIGCONT)
        harness.wait_until(lambda: min(w["lease_ms_left"] for w in self.tpx.status()["proxy"]["workers"]) > 0,
                           "the leases are renewed")
        return flows, late

    def test_L3_hang_open(self):
        flows, late = self.hang("open")
        for family, sock in [*flows.items(), *late.items()]:
            self.assertEqual(self.address(sock), family.client, "a flow that went direct stays direct")
        for family, sock in self.both().items():
            self.assertEqual(self.address(sock), family.wan)

    def test_L3_hang_closed(self):
        flows, late = self.hang("closed")
        for family, sock in [*flows.items(), *late.items()]:
            self.assertEqual(self.address(sock), family.wan)

    def test_L3_hang_reset(self):
        flows, late = self.hang("reset")
        for family, sock in [*flows.items(), *late.items()]:
            self.assertEqual(self.address(sock), family.wan)


class Draining(FailCase):
    def test_L7_drain_keeps_known_flows(self):
        for mode in ("open", "closed", "reset"):
            with self.subTest(mode=mode):
                self.start_udp(on_proxy_down=mode, proxy={"drain_timeout": "60s"})
                flows = self.both()
                before = {family: self.seen(sock, ANSWER_S["open"]) for family, sock in flows.items()}
                with keep_busy(flows.values()):
                    self.drain()
                    self.check_draining(mode, flows, before)
                self.assertIsNone(self.tpx.daemon.poll())
                self.assertEqual(self.tpx.daemon.wait(20), 0, "it ends when nothing comes any more")
                self.tpx.daemon = None

    def drain(self):
        self.tpx.kill(signal.SIGTERM)
        harness.wait_until(lambda: {w["state"] for w in self.tpx.status()["proxy"]["workers"]
                                    if w["state"] != "absent"} == {"draining"}, "the workers drain")

    def check_draining(self, mode, flows, before):
        for n in range(5):
            for family, sock in flows.items():
                self.assertEqual(self.seen(sock, ANSWER_S["open"]), before[family], "a known flow goes on")
            asked = harness.FAMILIES[n % 2]
            self.assert_explained(product.WHILE_DOWN[mode], (asked.client, 50000), (asked.server, PORT), "udp")
            for family, sock in self.both().items():
                seen = self.seen_quietly(sock, ANSWER_S[mode])
                self.assertEqual(seen[0] if isinstance(seen, tuple) else seen, self.expected(mode, family))

    def test_L7_drain_ends_at_its_timeout(self):
        self.start_udp(proxy={"drain_timeout": "1s"})
        flows = self.both()
        for family, sock in flows.items():
            self.assertEqual(self.address(sock), family.wan)
        self.tpx.kill(signal.SIGTERM)
        harness.wait_until(lambda: self.watch(flows.values(), 0.1) and self.tpx.daemon.poll() is not None, "it ends")
        self.assertEqual(self.tpx.daemon.wait(), 0)
        self.tpx.daemon = None
        for family, sock in flows.items():
            self.assertEqual(self.address(sock), family.client)


class Again(FailCase):
    def test_U11_restart_preserve_flow_continues(self):
        """The server sees one and the same client all the time, with or without datagrams meanwhile."""
        for end in (self.tpx.stop, self.tpx.crash):
            for meanwhile in (False, True):
                self.start_udp(source="preserve")
                flows = self.both()
                for family, sock in flows.items():
                    self.assertEqual(self.seen(sock), (family.client, sock.getsockname()[1]))
                end()
                if meanwhile:
                    time.sleep(LEASE)
                    for family, sock in flows.items():
                        self.assertEqual(self.seen(sock), (family.client, sock.getsockname()[1]), "while it is away")
                self.tpx.start()
                for family, sock in flows.items():
                    self.assertEqual(self.seen(sock), (family.client, sock.getsockname()[1]), end.__name__)

    def test_U11_restart_masquerade_flow_goes_on_with_another_port(self):
        """Its old port went with the process; what the client sends is proxied from the first datagram on."""
        for end in (self.tpx.stop, self.tpx.crash):
            self.start_udp()
            flows = self.both()
            for family, sock in flows.items():
                self.assertEqual(self.address(sock), family.wan)
            end()
            self.tpx.start()
            for family, sock in flows.items():
                self.assertEqual(self.address(sock), family.wan, end.__name__)

    def test_U11_reload_does_not_cut_a_flow(self):
        for first, second in (("proxy", "bypass"), ("bypass", "proxy")):
            with self.subTest(first=first, second=second):
                self.start_udp(*RULES[first])
                flows = self.both()
                before = {family: self.seen(sock) for family, sock in flows.items()}
                self.tpx.reload(product.config(RULES[second]))
                for family, sock in flows.items():
                    self.assertEqual({seen for *_, seen in self.watch([sock], 0.3)}, {before[family]})
                for family, sock in self.both().items():
                    self.assertEqual(self.address(sock), family.wan if second == "proxy" else family.client)

    def test_U11_reload_of_the_source_mode_does_not_cut_a_flow(self):
        for first, second in (("masquerade", "preserve"), ("preserve", "masquerade")):
            self.start_udp(source=first)
            flows = self.both()
            before = {family: self.seen(sock) for family, sock in flows.items()}
            self.tpx.reload(product.config(RULES["proxy"], source=second))
            for family, sock in flows.items():
                self.assertEqual({seen for *_, seen in self.watch([sock], 0.2)}, {before[family]})
            for family, sock in self.both(OTHER_PORT).items():
                self.assertEqual(self.address(sock), family.client if second == "preserve" else family.wan)

    def test_U11_a_silent_flow_is_decided_anew(self):
        """Silent for as long as a session lives."""
        self.start_udp(*RULES["bypass"], proxy={"udp_one_way": "1s", "udp_answered": "1s", "udp_stream": "2s"})
        flows = self.both()
        for family, sock in flows.items():
            self.assertEqual(self.address(sock), family.client)
        self.tpx.reload(product.config(RULES["proxy"], proxy={"udp_one_way": "1s", "udp_answered": "1s",
                                                              "udp_stream": "2s"}))
        for family, sock in flows.items():
            self.assertEqual(self.address(sock), family.client)
        time.sleep(5)
        for family, sock in flows.items():
            self.assertEqual(self.address(sock), family.wan)


if __name__ == "__main__":
    harness.main()
