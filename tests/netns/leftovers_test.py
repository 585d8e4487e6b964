#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""T11: what finished connections leave in the gateway's socket table, and a detach."""
import socket

import harness
import product
from space import V4

MARK = {"steer": 0x20000000, "own": 0x40000000}
ELSEWHERE = {"v4": "203.0.113.5", "v6": "2001:db8:77::5"}
IPV6_TRANSPARENT = 75


class Leftovers(product.TestCase):
    def setUp(self):
        super().setUp()
        # what is slow must be the gateway's doing
        for end in (self.lab.client, self.lab.server):
            end.sysctl("net/ipv4/tcp_max_tw_buckets", 0)

    def converse(self, family, source_port, server_first, listener):
        """One connection; the source that the server saw."""
        client = self.lab.client.connect(family, family.server, listener.getsockname()[1], source_port=source_port)
        with client:
            server, address = listener.accept()
            server.settimeout(10)
            with server:
                client.sendall(b"question")
                self.assertEqual(product.receive(server, 8), b"question")
                server.sendall(b"answer")
                self.assertEqual(product.receive(client, 6), b"answer")
                first, second = (server, client) if server_first else (client, server)
                first.close()
                self.assertEqual(second.recv(1), b"")
        self.lab.on_seen("tcp", (family.client, source_port), False, (family.server, 8090), address[0])
        return address[0]

    def rounds(self, direct):
        count = harness.scaled(40, 4)
        for family in harness.FAMILIES:
            with self.lab.server.listen(family, 8090) as listener:
                for number in range(count):
                    seen = self.converse(family, 7000 + number, number % 2 == 0, listener)
                    if direct:
                        self.assertEqual(seen, family.client)
        return count

    def closed(self):
        """Local and remote end of each socket of the gateway that has no process."""
        table = self.lab.gateway.run("ss", "-Htane", "state", "time-wait", "state", "fin-wait-1", "state", "fin-wait-2",
                                     "state", "last-ack", "state", "closing").stdout
        ends = []
        for line in table.splitlines():
            if "ino:" not in line or "ino:0 " in line:
                words = [word.replace("::ffff:", "") for word in line.split()]
                ends.append(tuple(tuple(end.replace("[", "").replace("]", "").rsplit(":", 1)) for end in words[3:5]))
        return ends

    def foreign(self):
        own = [address for family in harness.FAMILIES for address in (family.lan, family.wan, family.loopback)]
        return [ends for ends in self.closed() if ends[0][0] not in own]

    def repeated_syns(self):
        """Of either end; the one that accepts repeats its SYN-ACK."""
        return sum(int(space.run("nstat", "-asz", "TcpExtTCPSynRetrans").stdout.split()[-2])
                   for space in (self.lab.client, self.lab.server))

    def detach_and_reuse(self, source, end):
        self.tpx.start(product.config(source=source))
        count = self.rounds(direct=False)
        harness.wait_until(lambda: self.tpx.sessions() == 0, "all sessions end")
        legs = 2 if source == "preserve" else 1
        self.assertGreaterEqual(len(self.foreign()), count * legs, "the proxy left sockets that would be in the way")
        end()
        report = self.tpx.detach().stdout
        self.assertRegex(report, r"destroyed \d+ closed sockets of the proxy")
        self.assertEqual(self.foreign(), [])
        before = self.repeated_syns()
        self.rounds(direct=True)
        self.assertEqual(self.repeated_syns(), before)

    def test_T11_direct_after_a_detach_of_a_stopped_proxy(self):
        for source in ("masquerade", "preserve"):
            with self.subTest(source=source):
                self.detach_and_reuse(source, lambda: self.assertEqual(self.tpx.stop(), 0))

    def test_T11_direct_after_a_detach_of_a_killed_proxy(self):
        for source in ("masquerade", "preserve"):
            with self.subTest(source=source):
                self.detach_and_reuse(source, self.tpx.crash)

    def test_T11_direct_after_a_detach_beside_a_running_proxy(self):
        self.detach_and_reuse("preserve", lambda: None)

    def transparent(self, family, mark, port):
        """As another transparent proxy leaves them: one in TIME_WAIT, one that waits for a FIN. Returns what
        has to stay open for the latter."""
        self.lab.gateway.run("ip", family.ip, "route", "replace", "local", ELSEWHERE[family.name], "dev", "lo")
        listener = self.lab.gateway.socket(family.af)
        with listener:
            level, option = (socket.SOL_IP, socket.IP_TRANSPARENT) if family is V4 else (
                socket.IPPROTO_IPV6, IPV6_TRANSPARENT)
            listener.setsockopt(level, option, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            listener.bind((ELSEWHERE[family.name], port))
            listener.listen()
            for waits_for_fin in (False, True):
                client = self.lab.gateway.connect(family, ELSEWHERE[family.name], port)
                listener.accept()[0].close()
                self.assertEqual(client.recv(1), b"")
                if not waits_for_fin:
                    client.close()
        self.addCleanup(client.close)

    def test_T11_sockets_of_others_are_left_alone(self):
        """Neither those of another mark nor, whatever their mark, those under an address of the machine."""
        for family in harness.FAMILIES:
            self.transparent(family, 1, 7001)
            # the proxy's mark with a bit of somebody else's
            self.transparent(family, MARK["steer"] | 1, 7002)
            self.transparent(family, MARK["own"] | 1, 7003)
        others = sorted(self.foreign())
        self.assertEqual(len(others), 12)
        self.tpx.start()
        for family in harness.FAMILIES:
            with self.lab.server.listen(family, 8090) as listener:
                self.converse(family, 7777, False, listener)  # client first: the gateway's own address waits
                self.converse(family, 7778, True, listener)
        harness.wait_until(lambda: self.tpx.sessions() == 0, "all sessions end")
        self.assertEqual(len(self.foreign()), 14)
        own = sorted(set(self.closed()) - set(self.foreign()))
        self.assertIn("8090", [remote[1] for _, remote in own])
        self.tpx.crash()
        self.assertIn("destroyed 2 closed sockets", self.tpx.detach().stdout)
        self.assertEqual(sorted(self.foreign()), others)
        self.assertEqual(sorted(set(self.closed()) - set(self.foreign())), own)

    def test_T11_what_a_client_did_not_take_in_time_is_reset(self):
        """The end of a download is still under way on a closed socket, whose acknowledgements no longer arrive."""
        self.tpx.start()
        for family in harness.FAMILIES:
            client, server = self.pair(
                family, prepare=lambda s: s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096))
            client.shutdown(socket.SHUT_WR)
            server.sendall(b"x" * 20_000)
            server.close()
            harness.wait_until(lambda: self.tpx.sessions() == 0, "the session ends")
            self.assertEqual(len(self.foreign()), 1)
            self.tpx.crash()
            self.tpx.detach()
            self.assertEqual(self.foreign(), [])
            with self.assertRaises(ConnectionResetError):
                while client.recv(65536):
                    pass
            self.tpx.start()


if __name__ == "__main__":
    harness.main()
