# SPDX-License-Identifier: Apache-2.0
"""What the tests of translated UDP sessions share: how one gets there, and how it is seen."""
import harness
import product
from udp_case import PORT, UdpCase

HEARD_PORT = 5400  # of a socket of the test's own at the server
ENOUGH = 12  # exchanges, after which a session is worth while


def fib_rule(**more):
    return product.udp_rule(forward="fib", **more)


class TranslatedCase(UdpCase):
    def start_fib(self, *rules, **options):
        self.start_udp(*(rules or [fib_rule()]), **options)

    def translated(self):
        return self.tpx.reasons().get("translated", 0)

    def hand_over(self, sock, family, port=PORT):
        """Until tc forwards both directions; what the server saw of the client all the time."""
        seen = {self.who(sock, family, port) for _ in range(ENOUGH)}

        def goes_both_ways():
            seen.add(self.who(sock, family, port))
            there = self.translated()
            seen.add(self.who(sock, family, port))
            return self.translated() - there == 2

        harness.wait_until(goes_both_ways, "tc forwards the session")
        self.assertEqual(len(seen), 1, f"the server saw it change: {seen}")
        return seen.pop()

    def check_translated(self, sock, family, port=PORT, count=4):
        """All that is asked goes by tc; but the worker gets one datagram of each direction in 20 s."""
        for _ in range(3):
            worker, before = self.total("udp_datagrams_up"), self.translated()
            for n in range(count):
                self.assertEqual(self.ask(sock, family, b"E%d" % n, port), b"E%d" % n)
            by_tc, by_worker = self.translated() - before, self.total("udp_datagrams_up") - worker
            if (by_tc, by_worker) == (2 * count, 0):
                return
        self.fail(f"{by_tc} of {2 * count} datagrams by tc, {by_worker} of the client's by the worker")

    def session_with(self, family):
        """A client's socket and a server's, whose datagrams tc forwards; self.seen: as whom the server sees it."""
        client, server = self.socket(family), self.far_socket(family, HEARD_PORT, family.server)
        for _ in range(ENOUGH):
            self.exchange(client, server, family)
        harness.wait_until(lambda: self.count_exchange(client, server, family) == 2, "tc forwards the session")
        return client, server

    def exchange(self, client, server, family):
        client.sendto(b"question", (family.server, HEARD_PORT))
        self.seen = self.heard(server, client, family)[1]
        server.sendto(b"answer", self.seen)
        self.assertEqual(client.recv(100), b"answer")

    def count_exchange(self, client, server, family):
        """How many of a question and its answer were forwarded by tc."""
        before = self.translated()
        self.exchange(client, server, family)
        return self.translated() - before
