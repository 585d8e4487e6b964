# SPDX-License-Identifier: Apache-2.0
"""`source: preserve` where the client's port is taken on the gateway: another port, the same address."""
import json
import socket

import harness
import product

IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75
PORT = 4242


class Preserve(product.TestCase):
    def setUp(self):
        super().setUp()
        self.lab.serve()
        self.tpx.start(product.config(source="preserve"))

    def foreign(self, family):
        """A socket of somebody else's on the gateway, at the client's address and port."""
        sock = self.lab.gateway.socket(family.af)
        self.addCleanup(sock.close)
        if family is harness.V4:
            sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.settimeout(10)
        sock.bind((family.client, PORT))
        return sock

    def who(self, sock):
        sock.sendall(b"W\n")
        return tuple(json.loads(sock.makefile().readline()))

    def check(self, family, changed):
        """One connection from PORT; whether the server sees another port."""
        before = self.tpx.totals()
        with self.lab.client.connect(family, family.server, 8080, source_port=PORT) as client:
            self.assertEqual(client.getsockname()[1], PORT)
            address, port = self.who(client)
            self.assertEqual(address, family.client)
            self.lab.on_seen("tcp", (family.client, PORT), True, (family.server, 8080), address)
            self.assertEqual(port != PORT, changed, port)
            client.settimeout(10)
            for _ in range(3):  # and it stays that way
                self.assertEqual(self.who(client), (address, port))
            # without TIME_WAIT: the port is to be free for the next one
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        harness.wait_until(lambda: self.tpx.sessions() == 0, "the session ends")
        after = self.tpx.totals()
        self.assertEqual(after["port_changed"] - before["port_changed"], changed)
        self.assertEqual(after["sessions_total"] - before["sessions_total"], 1)
        self.assertEqual(after["connect_failed"], 0)

    def check_taken(self, take):
        """The client's port while nobody has it, while somebody has, and after that."""
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                self.check(family, changed=False)
                sock = self.foreign(family)
                take(family, sock)
                self.check(family, changed=True)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.close()
                self.check(family, changed=False)

    def test_listener_has_the_port(self):
        """bind(2) says EADDRINUSE."""
        self.check_taken(lambda family, sock: sock.listen())

    def test_connection_has_the_tuple(self):
        """connect(2) says EADDRNOTAVAIL."""
        def connect(family, sock):
            sock.connect((family.server, 8080))
            self.assertEqual(self.who(sock), (family.client, PORT))
        self.check_taken(connect)


if __name__ == "__main__":
    harness.main()
