# SPDX-License-Identifier: Apache-2.0
"""T2, T9 and T10: servers that are not there, peers that die, readers that do not read for a while."""
import errno
import socket

import harness
import product

ENDED = (errno.ECONNRESET, errno.ECONNREFUSED)


class Faults(product.TestCase):
    def fate(self, family, address, port, timeout=10):
        """The error that ends a connection on which the client only waits: one that the proxy could not make."""
        self.assert_explained("proxy", (family.client, 50000), (address, port))
        try:
            with self.lab.client.connect(family, address, port, timeout) as sock:
                return sock.recv(1) and "data" or "eof"
        except OSError as error:
            return error.errno

    def assert_counted(self, name, number):
        self.assertEqual(self.tpx.totals()[name], number)

    def test_T2_refused_port_is_a_reset(self):
        self.tpx.start()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                self.assertIn(self.fate(family, family.server, 1), ENDED)
        self.assert_counted("connect_refused", 2)

    def test_T2_unreachable_server_is_a_reset(self):
        self.lab.gateway.ip("route add unreachable 203.0.113.0/24", "route add unreachable 2001:db8:9::/64")
        self.tpx.start()
        for family, address in ((harness.V4, "203.0.113.9"), (harness.V6, "2001:db8:9::9")):
            with self.subTest(family=family.name):
                self.assertIn(self.fate(family, address, 80), ENDED)

    def test_T2_icmp_unreachable_is_a_reset(self):
        self.lab.server.nft("""table inet t { chain in { type filter hook input priority 0;
                            tcp dport 81 reject with icmpx type host-unreachable } }""")
        self.tpx.start()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                self.assertIn(self.fate(family, family.server, 81, timeout=20), ENDED)
        self.assert_counted("connect_unreachable", 2)

    def test_T2_connect_timeout_is_a_reset(self):
        self.lab.server.nft("table inet t { chain in { type filter hook input priority 0; tcp dport 81 drop } }")
        self.tpx.start(product.config(proxy={"connect_timeout": "500ms"}))
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                self.assertIn(self.fate(family, family.server, 81), ENDED)
        self.assert_counted("connect_timeout", 2)

    def test_idle_timeout_resets_both(self):
        self.tpx.start(product.config(proxy={"idle_timeout": "1s"}))
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                for sock in self.pair(family):
                    with self.assertRaises(ConnectionResetError):
                        sock.recv(1)
        self.assert_counted("closed_idle", 2)

    def test_half_closed_timeout_resets_both(self):
        self.tpx.start(product.config(proxy={"half_closed_timeout": "1s"}))
        client, server = self.pair(harness.V4)
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(server.recv(1), b"")
        with self.assertRaises(ConnectionResetError):
            client.recv(1)
        self.assert_counted("closed_half_idle", 1)

    @staticmethod
    def fill(sock, most):
        """Sends until the other side takes no more for a second."""
        sock.settimeout(1)
        sent, block = 0, bytes(65536)
        try:
            while sent < most:
                sent += sock.send(block)
        except TimeoutError:
            pass
        sock.settimeout(10)
        return sent

    def swallow(self, sock, number):
        while number:
            got = len(sock.recv(min(number, 1 << 18)))
            self.assertTrue(got, f"end of stream with {number} bytes to come")
            number -= got

    def test_T10_backpressure_both_ways_while_half_closed(self):
        self.tpx.start()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                client, server = self.pair(family)
                up = self.fill(client, 256 << 20)
                client.shutdown(socket.SHUT_WR)
                down = self.fill(server, 256 << 20)
                server.shutdown(socket.SHUT_WR)
                self.swallow(client, down)
                self.assertEqual(client.recv(1), b"")
                self.swallow(server, up)
                self.assertEqual(server.recv(1), b"")

    def test_T9_dead_client_is_found_by_keepalive(self):
        keepalive = {"idle": "1s", "interval": "1s", "count": 2}
        self.tpx.start(product.config(proxy={"keepalive": keepalive}))
        pairs = [self.pair(family) for family in harness.FAMILIES]
        self.lab.client.ip("link set c0 down")
        for _, server in pairs:
            server.settimeout(30)
            with self.assertRaises(ConnectionResetError):
                server.recv(1)
        harness.wait_until(lambda: self.tpx.sessions() == 0, "sessions of the dead client end")

    def test_T9_dead_server_is_found_by_keepalive(self):
        keepalive = {"idle": "1s", "interval": "1s", "count": 2}
        self.tpx.start(product.config(proxy={"keepalive": keepalive}))
        pairs = [self.pair(family) for family in harness.FAMILIES]
        self.lab.server.ip("link set s0 down")
        for client, _ in pairs:
            client.settimeout(30)
            with self.assertRaises(ConnectionResetError):
                client.recv(1)


if __name__ == "__main__":
    harness.main()
