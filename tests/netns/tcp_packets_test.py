# SPDX-License-Identifier: Apache-2.0
"""T4 to T8 and T11: odd options, path MTU, ICMP errors, repeated SYNs, ports used again and again."""
import socket
import struct

import harness
import packets
import product

BULK = 4 << 20


class Packets(product.TestCase):
    def exchange(self, family, port=8080, count=4):
        peer = self.lab.peer(self.lab.client, "transfer", family.server, port, "--count", count, "--bytes", BULK)
        for result in peer.read():
            self.assertIsNone(result["error"])
            self.assertTrue(result["up_ok"] and result["down_ok"])

    def test_T4_options_switched_off(self):
        self.lab.serve()
        self.tpx.start()
        for settings in (("tcp_timestamps", 0), ("tcp_sack", 0), ("tcp_window_scaling", 0), ("tcp_ecn", 1)):
            self.lab.client.sysctl("net/ipv4/" + settings[0], settings[1])
            for family in harness.FAMILIES:
                with self.subTest(setting=settings, family=family.name):
                    self.exchange(family)

    def test_T4_tiny_segments(self):
        self.tpx.start()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                client, server = self.pair(
                    family, prepare=lambda s: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 88))
                for sender, receiver in ((client, server), (server, client)):
                    data = bytes(range(250)) * 400
                    sender.sendall(data)
                    self.assertEqual(product.receive(receiver, len(data)), data)

    def test_T4_urgent_data_stays_in_the_stream(self):
        """The mark is lost, the byte is not, nor its place; or the byte is out of band as it was sent."""
        self.tpx.start()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                client, server = self.pair(family)
                client.sendall(b"before")
                client.send(b"!", socket.MSG_OOB)
                client.sendall(b"after")
                client.shutdown(socket.SHUT_WR)
                got = b""
                while more := server.recv(100):
                    got += more
                self.assertIn(got, (b"before!after", b"beforeafter"))

    def test_T5_smaller_mtu_towards_the_server(self):
        self.lab.server.ip("link set s0 mtu 1400")
        self.lab.gateway.ip("link set wan0 mtu 1400")
        self.lab.serve()
        for source in ("masquerade", "preserve"):
            self.tpx.start(product.config(source=source))
            for family in harness.FAMILIES:
                with self.subTest(source=source, family=family.name):
                    self.exchange(family)
            self.assertEqual(self.tpx.stop(), 0)
            self.tpx.detach()

    def shrink_path(self, family):
        client, server = self.pair(family)
        with packets.Tap(self.lab.client, "c0") as tap:
            server.sendall(b"x" * 100)
            self.assertEqual(len(product.receive(client, 100)), 100)
            last = [p for outgoing, p in tap.collect(lambda p: p.sport == 9000) if not outgoing][-1]
            # an error about a segment that is acknowledged would be ignored: quote the next one
            quoted = struct.pack("!I", last.next_seq())
            last.segment = last.segment[:4] + quoted + last.segment[8:]
            packets.send_too_big(self.lab.client, family, last, 1300)
            harness.wait_until(lambda: self.tpx.reasons()["icmp_error"] > 0, "the error is steered to the proxy")
            server.sendall(b"y" * 200_000)
            got = 0
            while got < 200_000:
                got += len(client.recv(65536))
            sockets = self.lab.gateway.run("ss", "-Htni", "sport", "=", ":9000").stdout
            self.assertIn("pmtu:1300", sockets)

    def test_T6_icmp_error_reaches_the_proxied_socket(self):
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                self.tpx.start()
                self.shrink_path(family)
                self.assertEqual(self.tpx.stop(), 0)
                self.tpx.detach()

    def test_T7_repeated_syn_makes_one_connection(self):
        self.tpx.start()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name), packets.Tap(self.lab.client, "c0") as tap:
                before = self.tpx.totals()["sessions_total"]
                client, server = self.pair(family)
                syn = tap.collect(lambda p: p.dport == 9000 and p.flags == packets.SYN)[0][1]
                for _ in range(5):
                    tap.send(syn.frame)
                client.sendall(b"question")
                self.assertEqual(product.receive(server, 8), b"question")
                self.assertEqual(self.tpx.totals()["sessions_total"] - before, 1)

    def test_T7_syn_in_time_wait_starts_anew(self):
        self.tpx.start()
        for family in harness.FAMILIES:
            for _ in range(3):
                with self.subTest(family=family.name):
                    client, server = self.pair(family, source_port=5555)
                    server.close()  # first: TIME_WAIT stays on the gateway and the server, not on the client
                    self.assertEqual(client.recv(1), b"")
                    client.close()
                    harness.wait_until(lambda: self.tpx.sessions() == 0, "the session ends")

    def test_T8_ports_used_again_and_again(self):
        self.lab.serve()
        for source in ("masquerade", "preserve"):
            self.tpx.start(product.config(source=source))
            self.lab.client.sysctl("net/ipv4/ip_local_port_range", "40000 40999")
            for family in harness.FAMILIES:
                with self.subTest(source=source, family=family.name):
                    count = harness.scaled(5000)
                    peer = self.lab.peer(self.lab.client, "storm", family.server, 8080, "--count", count)
                    self.assertEqual(peer.read(120)["failures"], {})
            self.assertEqual(self.tpx.stop(), 0)
            self.tpx.detach()

    def test_T11_same_tuple_proxied_then_direct_then_proxied(self):
        self.lab.serve()
        direct = product.config([product.rule("bypass")])
        for family in harness.FAMILIES:
            self.tpx.start(product.config())
            for content, source in ((None, family.wan), (direct, family.client), (product.config(), family.wan)):
                with self.subTest(family=family.name, source=source):
                    if content:
                        self.tpx.reload(content)
                    with self.lab.client.connect(family, family.server, 8080, source_port=6666) as sock:
                        sock.sendall(b"W\n")
                        self.assertIn(f'"{source}"'.encode(), sock.recv(100))
                        self.lab.on_seen("tcp", (family.client, 6666), True, (family.server, 8080), source)
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.assertEqual(self.tpx.stop(), 0)
            self.tpx.detach()

    def test_T11_direct_over_a_dead_socket_in_time_wait(self):
        for family in harness.FAMILIES:
            with self.subTest(family=family.name), self.lab.server.listen(family, 8090) as listener:
                self.tpx.start(product.config(on_proxy_down="open"))
                for proxied in (True, False):
                    sock = self.lab.client.connect(family, family.server, 8090, timeout=0.9, source_port=7777)
                    served, address = listener.accept()
                    self.assertEqual(address[0], family.wan if proxied else family.client)
                    self.lab.on_seen("tcp", (family.client, 7777), True, (family.server, 8090), address[0])
                    served.close()  # first, so the gateway's socket towards the client waits
                    self.assertEqual(sock.recv(1), b"")
                    sock.close()
                    if proxied:
                        harness.wait_until(self.has_time_wait, "the gateway's socket in TIME_WAIT")
                        self.tpx.crash()
                self.tpx.detach()

    def has_time_wait(self):
        return ":7777" in self.lab.gateway.run("ss", "-Htan", "state", "time-wait").stdout


if __name__ == "__main__":
    harness.main()
