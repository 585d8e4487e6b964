# SPDX-License-Identifier: Apache-2.0
"""Sockets of UDP sessions that have ended serve later ones: as new ones would, and nobody gets what was another's."""
import signal
import time

import harness
import product
import udp_case
import udp_lab
from udp_case import OTHER_PORT, PORT

SERVER_PORT = 5310


class Spare(udp_lab.Case):
    LIMIT = 4

    def reused(self):
        return self.total("udp_sockets_reused")

    def limited(self, *rules, **proxy):
        """Each further session takes the place of an earlier one."""
        self.start_udp(*rules, proxy={"workers": 1, "max_udp_sessions": self.LIMIT,
                                      "max_udp_sessions_per_client": self.LIMIT, **proxy})

    def end_of(self, server, client, family):
        """Lets the client's socket send, and returns as whom the server sees it."""
        client.sendto(b"question", (family.server, SERVER_PORT))
        data, seen = server.recvfrom(100)
        self.assertEqual(data, b"question")
        return seen

    def server_socket(self, family):
        return self.socket(family, SERVER_PORT, family.server, self.lab.server)

    def all_are_spare(self):
        totals = self.tpx.totals()
        return totals["udp_sessions"] == 0 and totals["udp_sockets_spare"] > 180

    def newcomer(self, server, family):
        """One that ends a session while answers wait for all there are; and as whom the server sees it."""
        ends = [self.end_of(server, self.socket(family), family) for _ in range(self.LIMIT)]
        harness.wait_until(lambda: self.total("udp_sockets_spare") > 0, "a socket is spare")
        time.sleep(0.03)
        before = self.reused()
        new = self.socket(family)
        self.tpx.kill(signal.SIGSTOP)
        for end in ends * 5:
            server.sendto(b"late", end)
        new.sendto(b"question", (family.server, SERVER_PORT))
        for end in ends * 5:
            server.sendto(b"late", end)
        self.tpx.kill(signal.SIGCONT)
        end = server.recvfrom(100)[1]
        self.assertEqual(self.reused() - before, 1, "it was not given the socket of another")
        for gone in set(ends) - {end}:
            server.sendto(b"late", gone)
        return new, end

    def test_answers_to_an_earlier_session_reach_nobody(self):
        self.limited()
        for family in harness.FAMILIES:
            server = self.server_socket(family)
            for _ in range(2 * self.LIMIT):
                self.end_of(server, self.socket(family), family)
            for number in range(25):
                with self.subTest(family=family.name, number=number):
                    sock, end = self.newcomer(server, family)
                    server.sendto(b"%d" % number, end)
                    self.assertEqual(sock.recv(100), b"%d" % number)
                    self.assert_silence(sock, 0.02)
            self.assert_sum()

    def test_an_ended_session_has_no_port(self):
        """Who sends there is told so, as by any closed port, although the socket is kept."""
        self.limited()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                server = self.server_socket(family)
                gone = self.end_of(server, self.socket(family), family)
                for _ in range(self.LIMIT):
                    self.end_of(server, self.socket(family), family)
                self.assertGreater(self.total("udp_sockets_spare"), 0)
                server.connect(gone)
                self.assertTrue(udp_case.is_refused(server) or udp_case.is_refused(server))

    SECOND = {harness.V4: "198.51.100.9", harness.V6: "2001:db8:2::9"}

    def test_kinds_of_sessions_take_turns(self):
        """Redirected, endpoint-dependent, and plain: one whose socket was connected is nobody else's hindrance."""
        pairs = product.udp_rule(name="pairs", match={"dport": OTHER_PORT}, mapping="address-and-port-dependent")
        to = [product.udp_rule({"redirect": product.end(family.server, PORT)}, f"elsewhere-{family.name}",
                               {"dst": family.server, "dport": 53}) for family in harness.FAMILIES]
        second = {}
        for family, address in self.SECOND.items():
            # not to be the source of what the server says from all its addresses
            how = "/24 dev s0" if family is harness.V4 else "/64 dev s0 nodad preferred_lft 0"
            self.lab.server.ip(f"address add {address}{how}")
            second[family] = self.socket(family, SERVER_PORT, address, self.lab.server)
        self.serve_udp()
        self.limited(*to, pairs, product.udp_rule())
        for turn in range(30):
            for family in harness.FAMILIES:
                for port in (53, OTHER_PORT, PORT):
                    with self.subTest(turn=turn, family=family.name, port=port):
                        sock = self.socket(family)
                        self.assertEqual(self.ask(sock, family, b"turn %d" % turn, port), b"turn %d" % turn)
                        if port == PORT:
                            sock.sendto(b"second", (self.SECOND[family], SERVER_PORT))
                            second[family].sendto(b"answer", second[family].recvfrom(100)[1])
                            self.assertEqual(sock.recvfrom(100)[1][:2], (self.SECOND[family], SERVER_PORT))
                        self.clients.discard(sock)
                        sock.close()
            time.sleep(0.02)
        self.assertGreater(self.reused(), 60)
        self.assert_sum()

    def test_what_a_session_learned_is_forgotten(self):
        """A client whose datagrams may be fragmented, then one that wants to be told."""
        self.serve_udp()
        self.limited()
        for space in (self.lab.gateway, self.lab.client):
            space.sysctl("net/ipv4/ip_no_pmtu_disc", 0)
        family = harness.V4
        self.lab.gateway.ip("link set wan0 mtu 1280")
        for turn in range(10):
            with self.subTest(turn=turn):
                loose = [self.socket(family) for _ in range(self.LIMIT)]
                for sock in loose:
                    udp_case.option(sock, udp_case.IP_MTU_DISCOVER, udp_case.IPV6_MTU_DISCOVER, udp_case.PMTUDISC_DONT)
                    self.ask(sock, family, b"W" + b"x" * 1399)  # the answer is short
                time.sleep(0.05)
                strict = [self.socket(family) for _ in range(self.LIMIT)]
                for sock in strict:
                    udp_case.option(sock, udp_case.IP_MTU_DISCOVER, udp_case.IPV6_MTU_DISCOVER, udp_case.PMTUDISC_PROBE)
                    udp_case.option(sock, udp_case.IP_RECVERR, udp_case.IPV6_RECVERR)
                    sock.connect((family.server, PORT))
                    sock.send(b"x" * 1400)
                    error, _, _ = harness.wait_until(lambda s=sock: udp_case.take_error(s), "it is told")
                    self.assertEqual((error.errno, error.info), ("EMSGSIZE", 1280))
        self.assertGreater(self.reused(), self.LIMIT)

    def test_they_leave_room_for_tcp(self):
        """Where descriptors are few, those of spare sockets are for whoever needs them."""
        self.serve_udp()
        self.lab.serve()
        self.tpx.start(product.config([product.rule(), product.udp_rule()],
                                      proxy={"workers": 1, "udp_one_way": "1s", "udp_stream": "1s",
                                             "max_udp_sessions_per_client": 1000}),
                       wrapper=("prlimit", "--nofile=1500:1500", "--"))
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                crowd = self.crowd()
                crowd.do("open", addresses=["203.0.113.9" if family is harness.V4 else "2001:db8:1:1::9"], ports=1000)
                self.assertEqual(crowd.do("ask", to=[family.server, PORT])["answered"], 1000)
                harness.wait_until(self.all_are_spare, "sessions end, sockets are spare")
                holder = self.lab.peer(self.lab.client, "hold", family.server, 8080, "--count", 510)
                opened = holder.read(60)
                self.assertEqual((opened["failures"], opened["sources"]), ({}, {family.wan: 510}))
                holder.ask("close")
                harness.wait_until(lambda: self.tpx.sessions() == 0, "sessions end")
                crowd.do("close")


if __name__ == "__main__":
    harness.main()
