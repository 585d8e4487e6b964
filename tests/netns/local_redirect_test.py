# SPDX-License-Identifier: Apache-2.0
"""Redirected flows of the gateway's own processes, and SO_ORIGINAL_DST for proxies of others."""
import json
import shutil
import socket
import struct
import subprocess
import threading
import unittest

import harness
import product
import udp_dns_test
from local_case import ANY, LocalCase

SO_ORIGINAL_DST = 80
LEVEL = {harness.V4: 0, harness.V6: 41}


def redirects(port, match=ANY, targets=("127.0.0.1", "[::1]")):
    return [product.rule({"redirect": f"{target}:{port}"}, f"to-{family.name}", {**match, "dst": family.server_net})
            for family, target in zip(harness.FAMILIES, targets)]


class Redirected(LocalCase):
    def test_the_process_sees_the_name_that_it_gave(self):
        target = self.lab.serve(9000, self.lab.gateway)
        datagrams = harness.Peer(self.lab.gateway, 9000, script="udp_peer.py")
        self.addCleanup(datagrams.close)
        datagrams.read()
        self.run_rules(*redirects(9000))
        for kind, family in self.each():
            said = self.ask(kind, family)
            self.assertEqual(said.get("peer"), [family.server, 8080 if kind == "tcp" else 5300], said)
        self.assertEqual(target.ask("stats")["total"], 2)
        self.assertEqual(sum(count for *_, count in datagrams.ask("stats")["senders"]), 4)
        self.assertEqual(self.tpx.reasons()["lo_redirect"], 6)

    def test_the_name_on_a_dual_stack_socket(self):
        self.lab.serve(9000, self.lab.gateway)
        datagrams = harness.Peer(self.lab.gateway, 9000, script="udp_peer.py")
        self.addCleanup(datagrams.close)
        datagrams.read()
        self.run_rules(*redirects(9000)[:1])
        for kind in ("tcp", "connected", "datagram"):
            with self.subTest(kind=kind):
                said = self.ask(kind, harness.V4, address=f"::ffff:{harness.V4.server}")
                self.assertEqual(said.get("peer", [None])[0], f"::ffff:{harness.V4.server}", said)

    def test_a_target_of_the_other_family_cannot_be_had(self):
        self.run_rules(*[product.rule({"redirect": target}, name, {**ANY, "dst": family.server_net},
                                      on_proxy_down=mode)
                         for name, family, target, mode in (("a", harness.V4, "[::1]:9000", "reset"),
                                                            ("b", harness.V6, "127.0.0.1:9000", "open"))])
        self.assertEqual(self.ask("tcp", harness.V4).get("error"), "ConnectionRefusedError")
        self.assert_direct("tcp", harness.V6)
        reasons = self.tpx.reasons()
        self.assertEqual((reasons["lo_unable_reset"], reasons["lo_unable_open"]), (1, 1))

    def targets(self):
        """Of redirects: one that no rule is asked about, and one that the rules bypass, with a server at each.

        Yields the family, where the redirects go, and the subtest to be in."""
        self.cgroup.join()
        self.addCleanup(self.cgroup.leave)
        for space in (self.lab.gateway, self.lab.server):
            datagrams = harness.Peer(space, 9000, script="udp_peer.py")
            self.addCleanup(datagrams.close)
            datagrams.read()
        for of in ("loopback", "server"):
            ends = [product.end(getattr(family, of), 9000).rpartition(":")[0] for family in harness.FAMILIES]
            self.tpx.reload(self.settings(product.rule("bypass", "around", {**ANY, "dport": 9000}),
                                          *redirects(9000, targets=ends)))
            for family in harness.FAMILIES:
                yield family, (getattr(family, of), 9000), self.subTest(target=of, family=family.name)

    def udp_socket(self, family):
        sock = self.lab.gateway.socket(family.af, socket.SOCK_DGRAM)
        self.addCleanup(sock.close)
        sock.settimeout(5)
        return sock

    def test_a_udp_socket_that_connects_again_sees_the_true_name(self):
        self.run_rules()
        for family, target, subtest in self.targets():
            with subtest:
                sock, name = self.udp_socket(family), (family.server, 5300)
                for peer in (name, target, name, target, (family.server, 5301), target):
                    sock.connect(peer)
                    self.assertEqual(sock.getpeername()[:2], peer)
                    sock.send(b"hello")
                    self.assertEqual(sock.recvfrom(100)[1][:2], peer)
                sock.sendto(b"hello", name)  # beside what it is connected to
                self.assertEqual(sock.recvfrom(100)[1][:2], name)
        self.assertEqual(self.tpx.reasons()["lo_redirect"], 4 * 4)

    def test_a_udp_socket_sees_the_name_that_it_gave_last(self):
        self.run_rules()
        for family, target, subtest in self.targets():
            with subtest:
                sock, name = self.udp_socket(family), (family.server, 5300)
                for peer in (name, target, name, target, target, (family.server, 5301), target):
                    sock.sendto(b"hello", peer)
                    self.assertEqual(sock.recvfrom(100)[1][:2], peer)
        self.assertEqual(self.tpx.reasons()["lo_redirect"], 4 * 3)

    def test_a_tcp_socket_that_was_refused_and_connects_again_sees_the_true_name(self):
        self.run_rules()
        for family, target, subtest in self.targets():
            with subtest, self.lab.gateway.socket(family.af) as sock:  # one that waits: it may connect again
                self.assertRaises(ConnectionRefusedError, sock.connect, (family.server, 8080))
                space = self.lab.gateway if target[0] == family.loopback else self.lab.server
                with space.listen(family, target[1], target[0]) as listener:
                    sock.connect(target)
                    listener.accept()[0].close()
                    self.assertEqual(sock.getpeername()[:2], target)
        self.assertEqual(self.tpx.reasons()["lo_redirect"], 4)

    @unittest.skipUnless(shutil.which("dig") and shutil.which("unbound"), "no dig or no unbound")
    def test_dig_and_curl(self):
        config = self.tpx.folder / "unbound.conf"
        config.write_text(udp_dns_test.CONFIG.format(
            folder=self.tpx.folder, data=udp_dns_test.DATA, forward="",
            interfaces="\n  ".join(f"interface: {family.server}@53" for family in harness.FAMILIES)))
        process = self.lab.server.popen("unbound", "-d", "-c", config, stderr=subprocess.DEVNULL)
        self.addCleanup(harness.end, process)
        self.run_rules(product.rule(match=ANY))
        enter = ["sh", "-c", f'echo $$ > {self.cgroup.folder}/cgroup.procs && exec "$@"', "sh"]
        for family in harness.FAMILIES:
            for how in ("+notcp", "+tcp"):
                with self.subTest(family=family.name, how=how):
                    dig = [*enter, "dig", how, "+short", "+tries=1", "+timeout=5", f"@{family.server}", "x.example.test"]
                    harness.wait_until(lambda d=dig: self.lab.gateway.run(*d, check=False).stdout == "192.0.2.80\n", "dig")
            url = f"http://{family.server if family is harness.V4 else f'[{family.server}]'}:8081/"
            with self.lab.server.listen(family, 8081) as listener:
                curl = self.lab.gateway.popen(*enter, "curl", "-sS", "--max-time", "10", url, stdout=subprocess.PIPE)
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello")
                self.assertEqual(curl.communicate(timeout=20)[0], b"hello")
        reasons = self.tpx.reasons()
        self.assertGreaterEqual(reasons["lo_proxy"], 6)


class OriginalDestination(LocalCase):
    """What a transparent proxy of somebody else learns from its accepted sockets."""

    def listener(self, family, port=12345):
        self.cgroup.join()
        self.addCleanup(self.cgroup.leave)
        sock = self.lab.gateway.listen(family, port, family.loopback)
        self.addCleanup(sock.close)
        return sock

    @staticmethod
    def original(family, sock):
        layout = struct.Struct("!2xH4s8x" if family is harness.V4 else "!2xH4x16s4x")
        port, address = layout.unpack(sock.getsockopt(LEVEL[family], SO_ORIGINAL_DST, layout.size))
        return socket.inet_ntop(family.af, address), port

    def test_of_the_lan_and_of_local_processes(self):
        listeners = {family: self.listener(family) for family in harness.FAMILIES}
        self.run_rules(*redirects(12345, {"proto": "tcp"}))
        for family, listener in listeners.items():
            for space in (self.lab.client, self.lab.gateway):
                if space is self.lab.client:  # of its own processes local_case asks
                    self.assert_explained("redirect", (family.client, 50000), (family.server, 8443))
                with self.subTest(family=family.name, space=space.name), space.connect(family, family.server, 8443):
                    accepted, _ = listener.accept()
                    with accepted:
                        self.assertEqual(self.original(family, accepted), (family.server, 8443))
            # Who dials the proxy itself had no other destination.
            with self.lab.gateway.connect(family, family.loopback, 12345):
                accepted, _ = listener.accept()
                with accepted:
                    self.assertRaises(OSError, self.original, family, accepted)

    def test_it_is_not_that_of_an_earlier_connection(self):
        """From the same address and port: the accepted socket has the same pair of names."""
        listeners = {family: self.listener(family) for family in harness.FAMILIES}
        self.run_rules(*redirects(12345, {"proto": "tcp"}))
        for family, listener in listeners.items():
            own = (family.loopback, 12345)

            def dials(to, port, space=self.lab.gateway, f=family, listener=listener):
                """The original destination, or None; and the client's port. No end waits for what is late."""
                def prepare(sock):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    if port:
                        sock.bind((f.loopback, port))
                with space.connect(f, *to, prepare=prepare):
                    accepted, seen = listener.accept()
                    with accepted:
                        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        try:
                            return self.original(f, accepted), seen[1]
                        except FileNotFoundError:
                            return None, seen[1]
            with self.subTest(family=family.name):
                for to, original in (((family.server, 8443), True), (own, False), ((family.server, 8444), True),
                                     ((family.server, 8445), True), (own, False), (own, False)):
                    self.assertEqual(dials(to, 40404), (to if original else None, 40404))
                # A worker is the client of what it redirects; its port is free after it.
                found, port = dials((family.server, 8446), None, self.lab.client)
                self.assertEqual(found, (family.server, 8446))
                harness.wait_until(lambda: self.tpx.sessions() == 0, "the worker's connection is gone")
                self.assertEqual(dials(own, port), (None, port))

    @unittest.skipUnless(shutil.which("redsocks"), "no redsocks")
    def test_redsocks(self):
        """A real one, which hands every connection to a SOCKS5 server with the name that it learnt."""
        self.cgroup.join()
        self.addCleanup(self.cgroup.leave)
        asked = self.socks_server()
        config = self.tpx.folder / "redsocks.conf"
        config.write_text("base { log_info = off; daemon = off; redirector = iptables; }\n"
                          "redsocks { local_ip = 127.0.0.1; local_port = 12345; ip = 127.0.0.1; port = 1080; type = socks5; }\n")
        process = self.lab.gateway.popen("redsocks", "-c", config, stderr=subprocess.DEVNULL)
        self.addCleanup(harness.end, process)
        harness.wait_until(lambda: ":12345" in self.lab.gateway.run("ss", "-Hltn").stdout, "redsocks listens")
        self.run_rules(*redirects(12345, {"proto": "tcp"})[:1])
        for space in (self.lab.client, self.lab.gateway):
            with space.connect(harness.V4, harness.V4.server, 8080) as sock:
                sock.sendall(b"W\n")
                self.assertEqual(json.loads(sock.recv(100))[0], harness.V4.wan)
        self.assertEqual(asked, [(harness.V4.server, 8080)] * 2)

    def socks_server(self):
        """One question and one answer for each of two connections. Returns the list of where they went."""
        asked = []
        listener = self.lab.gateway.listen(harness.V4, 1080, "127.0.0.1")
        self.addCleanup(listener.close)

        def serve():
            for _ in range(2):
                with listener.accept()[0] as client, self.lab.gateway.socket(socket.AF_INET) as server:
                    client.recv(64)
                    client.sendall(b"\x05\x00")
                    request = client.recv(64)
                    asked.append((socket.inet_ntoa(request[4:8]), struct.unpack("!H", request[8:10])[0]))
                    server.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x40000000)  # not redirected again
                    server.connect(asked[-1])
                    client.sendall(b"\x05\x00\x00\x01" + bytes(6))
                    server.sendall(client.recv(64))
                    client.sendall(server.recv(100))

        threading.Thread(target=serve, daemon=True).start()
        return asked


if __name__ == "__main__":
    harness.main()
