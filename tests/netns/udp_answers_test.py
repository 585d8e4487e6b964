# SPDX-License-Identifier: Apache-2.0
"""Answers to UDP sessions that tc sends to the client itself, from the first one on; and those that it leaves to the worker."""
import time

import harness
import product
from udp_case import OTHER_PORT, PORT
from udp_translated_case import HEARD_PORT, TranslatedCase

TRIES = 3  # one answer to each client in 20 s goes by the worker


class Answers(TranslatedCase):
    def counts(self):
        return [self.translated(), *(self.total(name) for name in ("udp_datagrams_up", "udp_datagrams_down"))]

    def grown(self, do):
        """What tc forwarded, and the worker of each direction."""
        before = self.counts()
        do()
        return [now - then for now, then in zip(self.counts(), before)]

    def assert_grows(self, do, expected, tries=TRIES):
        for _ in range(tries):
            found = self.grown(do)
            if found == expected:
                return
        self.assertEqual(found, expected, "by tc, by the worker from the client, and from the server")

    def exchanges(self, family, port=PORT, count=5):
        """Of so many clients' ports, one each."""
        def do():
            for n in range(count):
                with self.socket(family) as sock:
                    self.assertEqual(self.ask(sock, family, b"E%d" % n, port), b"E%d" % n)
        return do

    def test_of_one_exchange_the_answer(self):
        self.start_udp()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                self.assert_grows(self.exchanges(family), [5, 5, 0])
                self.assertEqual(self.who(self.socket(family), family)[0], family.wan)

    def test_as_the_rule_says(self):
        for forward in ("stack", "fib"):
            self.start_udp(product.udp_rule(forward=forward))
            for family in harness.FAMILIES:
                self.assert_grows(self.exchanges(family), [0, 5, 5], tries=1)

    def test_of_each_server_that_a_client_asks(self):
        self.start_udp()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                sock = self.socket(family)
                seen = set()

                def both(sock=sock, family=family, seen=seen):
                    seen.update(self.who(sock, family, port) for port in (PORT, OTHER_PORT))

                self.assert_grows(both, [2, 2, 0])
                self.assertEqual(len(seen), 1, "full cone")

    def test_who_was_not_asked_is_the_workers(self):
        self.start_udp()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                client, stranger = self.socket(family), self.far_socket(family)
                seen = self.who(client, family)

                def unasked(client=client, stranger=stranger, seen=seen):
                    stranger.sendto(b"unasked", seen)
                    self.assertEqual(client.recv(100), b"unasked")

                self.assert_grows(unasked, [0, 0, 1], tries=1)

    def test_redirected(self):
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                self.start_udp(product.udp_rule({"redirect": product.end(family.server, OTHER_PORT)}, "elsewhere",
                                                {"dst": [family.server], "dport": [PORT]}))
                self.assert_grows(self.exchanges(family), [5, 5, 0])

    def test_redirected_to_the_other_family(self):
        """Which the worker serves: tc gives a datagram new addresses, not another header."""
        for family, other in (harness.FAMILIES, harness.FAMILIES[::-1]):
            with self.subTest(family=family.name):
                self.start_udp(product.udp_rule({"redirect": product.end(other.server, PORT)}, "elsewhere", {"dport": [PORT]}))
                self.assert_grows(self.exchanges(family), [0, 5, 5], tries=1)

    def test_a_socket_for_each_server(self):
        self.start_udp(product.udp_rule(mapping="address-and-port-dependent"))
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                client, seen = self.socket(family), []

                def both(client=client, family=family, seen=seen):
                    seen.extend(self.who(client, family, port) for port in (PORT, OTHER_PORT))

                self.assert_grows(both, [2, 2, 0])
                self.assertEqual(len(set(seen)), 2)
                stranger = self.far_socket(family)
                stranger.sendto(b"unasked", tuple(seen[0]))
                self.assert_silence(client)

    def test_a_clients_own_address_is_the_workers(self):
        self.start_udp(source="preserve")
        for family in harness.FAMILIES:
            self.assert_grows(self.exchanges(family), [0, 5, 5], tries=1)

    def heard_once(self, family):
        """A client and a server who have exchanged a datagram, and as whom the server sees it."""
        client, server = self.socket(family), self.far_socket(family, HEARD_PORT, family.server)
        self.exchange(client, server, family)
        self.exchange(client, server, family)
        return client, server, self.seen

    def test_a_silent_client_keeps_what_it_is_sent(self):
        """A second longer than anything but a stream would live, all of it by tc."""
        self.start_udp(proxy={"udp_one_way": "1s", "udp_answered": "1s", "udp_stream": "3s"})
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                client, server, seen = self.heard_once(family)
                worker = self.total("udp_datagrams_up")
                for n in range(12):
                    time.sleep(0.5)
                    server.sendto(b"%d" % n, seen)
                    self.assertEqual(client.recv(100), b"%d" % n)
                self.assertEqual(self.total("udp_datagrams_up"), worker)
                self.assertEqual(self.total("udp_sessions"), 1)
                harness.wait_until(lambda: self.total("udp_sessions") == 0, "the session ends", 10)
                server.sendto(b"too late", seen)
                self.assert_silence(client)
                server.close()

    def test_a_client_that_is_gone(self):
        """Its ICMP error ends the session, as if the worker had sent what it answers."""
        self.start_udp()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                client, server, seen = self.heard_once(family)
                client.close()

                def is_over(server=server, seen=seen):
                    try:
                        server.sendto(b"anybody there?", seen)
                    except ConnectionRefusedError:
                        pass
                    return self.total("udp_sessions") == 0

                harness.wait_until(is_over, "the session ends")
                server.close()

    def test_a_flow_that_the_policy_ended(self):
        self.start_udp()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                client, server, seen = self.heard_once(family)
                self.tpx.reload(product.config([product.udp_rule("drop")]), extra=["--existing", "abort"])
                before = self.translated()
                server.sendto(b"to nobody", seen)
                self.assert_silence(client)
                self.assertEqual(self.translated(), before)
                self.tpx.reload(product.config([product.udp_rule()]))
                server.close()

    def test_a_port_that_serves_another_session(self):
        """Far more sessions than there is room for: none gets what was another's."""
        self.start_udp(proxy={"max_udp_sessions": 320, "max_udp_sessions_per_client": 160})
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                socks = [self.socket(family) for _ in range(15)]
                for turn in range(40):
                    for n, sock in enumerate(socks):
                        sock.sendto(b"E%d %d" % (n, turn), (family.server, PORT))
                    for n, sock in enumerate(socks):
                        self.assertEqual(sock.recv(100), b"E%d %d" % (n, turn))
                    for sock in socks:
                        sock.close()
                    socks = [self.socket(family) for _ in range(15)]
                self.assertGreater(self.total("udp_sessions_replaced"), 0)
                self.assertGreater(self.translated(), 0)

    def test_what_is_left_after_a_restart(self):
        """Whose a port was before is nobody's."""
        self.start_udp()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                client, server, seen = self.heard_once(family)
                self.tpx.crash()
                self.tpx.start()
                server.sendto(b"to whom?", seen)
                self.assert_silence(client)
                self.exchange(client, server, family)
                server.close()


if __name__ == "__main__":
    harness.main()
