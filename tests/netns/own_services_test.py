# SPDX-License-Identifier: Apache-2.0
"""S1 to S4: the gateway's own services, the listening port, loops, and addresses no client may reach through us."""
import json
import os
import socket
import struct
import threading

import harness
import packets
import product

CONNECT_TIMEOUT = "60s"  # nobody waits for it
TCP_REPAIR = 19
METADATA = ((harness.V4, "169.254.169.254"), (harness.V4, "100.100.100.200"), (harness.V6, "fd00:ec2::254"))


class OwnServices(product.TestCase):
    def descriptors(self):
        return len(os.listdir(f"/proc/{self.tpx.pid}/fd"))

    def test_P12_service_on_the_gateway_is_not_intercepted(self):
        self.tpx.start(product.config([product.rule()], default="proxy"))
        for family in harness.FAMILIES:
            with self.lab.gateway.listen(family, 22) as listener:
                for address in (family.lan, family.wan):
                    with self.subTest(family=family.name, address=address):
                        with self.lab.client.connect(family, address, 22) as client:
                            service, caller = listener.accept()
                            with service:
                                self.assertEqual(caller[0], family.client)
                                self.assert_reason("own_address", caller[:2], (address, 22), chosen=False)
                                service.sendall(b"SSH-2.0-test\r\n")
                                self.assertEqual(product.receive(client, 14), b"SSH-2.0-test\r\n")
        self.assertEqual(self.tpx.totals()["sessions_total"], 0)
        self.assertGreater(self.tpx.reasons()["own_address"], 0)

    def refused(self, space, family, address, port):
        """Refused at once, or reset before anything else came.

        Explain is not asked: it says no more than that the gateway is meant."""
        try:
            with space.connect(family, address, port, timeout=5) as sock:
                sock.recv(1)
        except (ConnectionRefusedError, ConnectionResetError):
            return True
        return False

    def test_S1_listening_port_is_refused_on_every_address(self):
        self.lab.serve()
        self.tpx.start()
        for family in harness.FAMILIES:
            self.assert_proxied(family)
        harness.wait_until(lambda: self.tpx.sessions() == 0, "sessions end")
        port, before = self.tpx.listen_port(), self.descriptors()
        for family in harness.FAMILIES:
            for space, addresses in ((self.lab.client, (family.lan, family.wan)), (self.lab.server, (family.wan,)),
                                     (self.lab.gateway, (family.lan, family.wan, family.loopback))):
                for address in addresses:
                    for _ in range(5):
                        with self.subTest(space=space.name[-1], address=address):
                            self.assertTrue(self.refused(space, family, address, port))
        self.assertEqual(self.tpx.totals()["connect_failed"], 0)
        harness.wait_until(lambda: self.tpx.sessions() == 0, "sessions end")
        self.assertEqual(self.descriptors(), before)
        for family in harness.FAMILIES:
            self.assert_proxied(family)

    def test_S1_listening_port_of_another_host_is_proxied(self):
        self.tpx.start()
        port = self.tpx.listen_port()
        self.lab.serve(port)
        for family in harness.FAMILIES:
            self.assert_proxied(family, port)

    def test_S3_metadata_addresses_are_never_proxied(self):
        self.lab.gateway.ip("route add 100.100.100.200/32 via 198.51.100.2",
                            "route add 169.254.169.254/32 via 198.51.100.2",
                            "route add fd00:ec2::254 via 2001:db8:2::2")
        self.lab.server.ip("addr add 169.254.169.254/32 dev lo", "addr add 100.100.100.200/32 dev lo",
                           "addr add fd00:ec2::254/128 dev lo nodad")
        self.lab.serve()
        self.tpx.start(product.config(default="proxy"))
        for family, address in METADATA:
            with self.subTest(address=address):
                with self.lab.client.connect(family, address, 8080) as sock:
                    sock.sendall(b"W\n")
                    self.assertIn(f'"{family.client}"'.encode(), sock.recv(100), "not by the gateway's identity")
                self.assert_reason("special_address", (family.client, 50000), (address, 8080))
        self.assertEqual(self.tpx.totals()["sessions_total"], 0)
        self.assertGreaterEqual(self.tpx.reasons()["special_address"], 3)

    def frame(self, destination, port):
        """A SYN of the client to an address that its own stack would not send to."""
        source, target = socket.inet_aton(harness.V4.client), socket.inet_aton(destination)
        tcp = struct.pack("!HHIIBBHHH", 4444, port, 1, 0, 5 << 4, packets.SYN, 1000, 0, 0)
        pseudo = source + target + struct.pack("!HH", 6, 20)
        tcp = tcp[:16] + struct.pack("!H", packets.checksum(pseudo + tcp)) + tcp[18:]
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, 6, 0, source, target)
        ip = ip[:10] + struct.pack("!H", packets.checksum(ip)) + ip[12:]
        return self.mac(self.lab.gateway, "lan0") + self.mac(self.lab.client, "c0") + b"\x08\x00" + ip + tcp

    @staticmethod
    def mac(space, device):
        found = json.loads(space.run("ip", "-j", "link", "show", device).stdout)[0]["address"]
        return bytes.fromhex(found.replace(":", ""))

    def test_S3_loopback_is_out_of_reach(self):
        self.tpx.start(product.config(default="proxy"))
        with self.lab.gateway.listen(harness.V4, 8080) as listener, packets.Tap(self.lab.client, "c0") as tap:
            for destination in ("127.0.0.1", "127.1.2.3", "0.0.0.0", "255.255.255.255", "224.0.0.1"):
                tap.send(self.frame(destination, 8080))
                self.assert_reason("special_address", (harness.V4.client, 4444), (destination, 8080))
            harness.wait_until(lambda: self.tpx.reasons()["special_address"] >= 5, "they are counted")
            listener.settimeout(0.3)
            with self.assertRaises(TimeoutError):
                listener.accept()
        self.assertEqual(self.tpx.totals()["sessions_total"], 0)

    def test_P10_spoofed_sources_are_dropped(self):
        self.tpx.start()
        with packets.Tap(self.lab.client, "c0") as tap:
            frame = self.frame(harness.V4.server, 8080)
            for source in ("127.0.0.1", harness.V4.lan, harness.V4.server):
                tap.send(frame[:26] + socket.inet_aton(source) + frame[30:])
                self.assert_reason("martian", (source, 4444), (harness.V4.server, 8080))
            harness.wait_until(lambda: self.tpx.reasons()["martian"] >= 3, "they are counted")
        self.assertEqual(self.tpx.totals()["sessions_total"], 0)

    def test_S4_route_localnet_is_reported(self):
        self.lab.gateway.sysctl("net/ipv4/conf/lan0/route_localnet", 1)
        self.tpx.start()
        self.assertIn("route_localnet", self.tpx.log.read_text())
        self.assertEqual(self.lab.gateway.sysctl("net/ipv4/conf/lan0/route_localnet"), "1", "not ours to change")


class Loops(product.TestCase):
    """client -- gateway -- second: each gateway's way to the destination is the other one."""

    TARGETS = ((harness.V4, "203.0.113.9"), (harness.V6, "2001:db8:9::9"))

    def setUp(self):
        super().setUp()
        self.second = self.lab.server  # its device s0 is the link between the two
        for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            self.second.sysctl(key, 1)
        for net in ("203.0.113.0/24", "2001:db8:9::/64"):
            six = ":" in net
            self.lab.gateway.ip(f"route add {net} via {(harness.V6 if six else harness.V4).server}")
        self.other = self.instance(self.second)

    def check(self, source):
        """The client gets an error in time, the number of turns is bounded by the hop limit, nothing stays."""
        content = product.config(source=source, proxy={"connect_timeout": "5s"})
        self.tpx.start({**content, "interfaces": {"lan": ["lan0", "wan0"]}})
        self.other.start({**content, "interfaces": {"lan": ["s0"]}})
        for family, address in self.TARGETS:
            with self.subTest(source=source, family=family.name):
                before = [t.totals()["sessions_total"] for t in (self.tpx, self.other)]
                with self.assertRaises(OSError):
                    with self.lab.client.connect(family, address, 80, timeout=20) as sock:
                        sock.recv(1) or self.fail("a clean end for a connection that never was")
                for gateway, count in zip((self.tpx, self.other), before):
                    turns = gateway.totals()["sessions_total"] - count
                    self.assertGreater(turns, 0)
                    self.assertLessEqual(turns, 64)
                    harness.wait_until(lambda g=gateway: g.sessions() == 0, "the loop's sessions end", 20)
        for gateway in (self.tpx, self.other):
            self.assertEqual(gateway.stop(), 0)
            gateway.detach()

    def test_S2_two_gateways_that_point_at_each_other(self):
        self.check("masquerade")

    def test_S2_own_packets_come_back(self):
        """The WAN side sends the proxy's own packets back, without the mark: to us they are a client's."""
        self.other.close()
        self.tpx.start({**product.config(proxy={"connect_timeout": "5s"}),
                        "interfaces": {"lan": ["lan0", "wan0"]}})
        for family, address in self.TARGETS:
            with self.subTest(family=family.name), self.assertRaises(OSError):
                with self.lab.client.connect(family, address, 80, timeout=20) as sock:
                    sock.recv(1) or self.fail("a clean end for a connection that never was")
        self.assertLessEqual(self.tpx.totals()["sessions_total"], 128)
        harness.wait_until(lambda: self.tpx.sessions() == 0, "the loop's sessions end", 20)


class OwnConnection(product.TestCase):
    """What looks like our own connection coming back, and is not."""

    PORT = 4242

    def syn(self, family, like, hops):
        """The client's SYN once more, with another sequence number and hop limit."""
        ip, tcp = bytearray(like.ip), bytearray(like.segment)
        ip[8 if family is harness.V4 else 7] = hops
        tcp[4:8], tcp[16:18] = struct.pack("!I", like.seq ^ 0x40000000), b"\0\0"
        if family is harness.V4:
            ip[10:12] = b"\0\0"
            ip[10:12] = struct.pack("!H", packets.checksum(bytes(ip)))
        pseudo = like.src + like.dst + struct.pack("!HH", socket.IPPROTO_TCP, len(tcp))
        tcp[16:18] = struct.pack("!H", packets.checksum(pseudo + bytes(tcp)))
        return like.frame[:14] + bytes(ip) + bytes(tcp)

    def silent_session(self, family):
        """A preserved one whose server says nothing: its client's SYN, and both ends."""
        with packets.Tap(self.lab.client, "c0") as tap:
            client, server = self.pair(family, source_port=self.PORT)
            syns = tap.collect(lambda tcp: tcp.sport == self.PORT and tcp.flags & 0x3f == packets.SYN)
        return syns[0][1], client, server

    def test_S2_a_syn_like_the_clients_is_not_reset(self):
        """The challenge is the stack's; with fewer hops left the same SYN is our own connection."""
        self.tpx.start(product.config(source="preserve"))
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                before = self.tpx.reasons()["own_syn_returned"]
                first, client, server = self.silent_session(family)
                with packets.Tap(self.lab.client, "c0") as tap:
                    tap.send(self.syn(family, first, 64))
                    answers = [tcp for out, tcp in tap.collect(lambda tcp: tcp.dport == self.PORT) if not out]
                    self.assertTrue(answers)
                    self.assertFalse(any(tcp.flags & packets.RST for tcp in answers))
                    self.assertEqual(self.tpx.reasons()["own_syn_returned"], before)
                    tap.send(self.syn(family, first, 62))
                    harness.wait_until(lambda: self.tpx.reasons()["own_syn_returned"] == before + 1, "it is counted")
                client.sendall(b"still open")
                self.assertEqual(product.receive(server, 10), b"still open")
                server.sendall(b"as before")
                self.assertEqual(product.receive(client, 9), b"as before")

    def test_S2_a_client_may_use_its_port_again(self):
        """It lost its connection without a word, as in a crash: the challenge makes room for the new one."""
        self.tpx.start(product.config(source="preserve"))
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                _, lost, _ = self.silent_session(family)
                lost.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
                lost.close()
                client, server = self.pair(family, source_port=self.PORT)
                client.sendall(b"again")
                self.assertEqual(product.receive(server, 5), b"again")
                server.sendall(b"and back")
                self.assertEqual(product.receive(client, 8), b"and back")
        self.assertEqual(self.tpx.reasons()["own_syn_returned"], 0)


class Chain(product.TestCase):
    """client -- gateway -- second -- far, a proxy on both gateways; for one network each names the other as the way."""

    FAR = {harness.V4: "203.0.113.2", harness.V6: "2001:db8:3::2"}
    LOOP = {harness.V4: "203.0.113.129", harness.V6: "2001:db8:9::9"}
    LOOPING = 20  # connections at once into the loop, each family

    def setUp(self):
        super().setUp()
        self.second, self.far = self.lab.server, self.lab.namespace("f")
        for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            self.second.sysctl(key, 1)
        self.lab.link(self.far, "f0", self.second, "far0")
        for family, near in ((harness.V4, "203.0.113.1"), (harness.V6, "2001:db8:3::1")):
            self.lab.address(self.second, "far0", family, near)
            self.lab.address(self.far, "f0", family, self.FAR[family], near)
            for address in (self.FAR[family], self.LOOP[family]):
                self.lab.gateway.ip(f"route add {address} via {family.server}")
            self.second.ip(f"route add {self.LOOP[family]} via {family.wan}")
        self.lab.serve(space=self.far)
        self.other = self.instance(self.second)
        self.gateways = (self.tpx, self.other)

    def start(self, lan, wan):
        content = product.config(source="preserve", proxy={"connect_timeout": CONNECT_TIMEOUT})
        self.tpx.start({**content, "interfaces": {"lan": lan, **({"wan": wan} if wan else {})}})
        self.other.start({**content, "interfaces": {"lan": ["s0"], "wan": ["far0"]}})
        self.traffic()
        self.settle()

    def returned(self):
        return [gateway.reasons()["own_syn_returned"] for gateway in self.gateways]

    def settle(self):
        for gateway in self.gateways:
            harness.wait_until(lambda g=gateway: g.sessions() == 0, "sessions end", 20)

    def traffic(self):
        """Through both proxies, seen by the server as the client's."""
        for family in harness.FAMILIES:
            before = [gateway.totals()["sessions_total"] for gateway in self.gateways]
            peer = self.lab.peer(self.lab.client, "transfer", self.FAR[family], 8080, "--count", 4, "--bytes", 1 << 18)
            for result in peer.read(60):
                self.assertIsNone(result["error"])
                self.assertTrue(result["up_ok"] and result["down_ok"])
                self.assertEqual(result["seen"], [family.client, result["source"][1]])
            for gateway, count in zip(self.gateways, before):
                self.assertGreaterEqual(gateway.totals()["sessions_total"] - count, 4)

    def fate(self, family, ends):
        """Well before the connect timeout; a TimeoutError is none of the ends that are wanted."""
        try:
            with self.lab.client.connect(family, self.LOOP[family], 80, timeout=30) as sock:
                ends.append(sock.recv(1) and "data" or "eof")
        except OSError as error:
            ends.append(type(error).__name__)

    def sockets(self):
        """Of each proxy; the pipes of its pool stay."""
        folders = [f"/proc/{gateway.pid}/fd" for gateway in self.gateways]
        return [sum(os.readlink(f"{folder}/{fd}").startswith("socket:") for fd in os.listdir(folder))
                for folder in folders]

    def check(self, lan, wan):
        self.start(lan, wan)
        sockets, before = self.sockets(), [gateway.totals()["sessions_total"] for gateway in self.gateways]
        ends = []
        loops = [threading.Thread(target=self.fate, args=(family, ends))
                 for family in harness.FAMILIES for _ in range(self.LOOPING)]
        for loop in loops:
            loop.start()
        self.traffic()
        for loop in loops:
            loop.join()
        self.assertLessEqual(set(ends), {"ConnectionResetError", "ConnectionRefusedError", "OSError"})
        self.settle()
        for gateway, count in zip(self.gateways, before):
            # each gateway takes part once: the tuple that comes back is one of its own sockets'
            self.assertEqual(gateway.totals()["sessions_total"] - count, 2 * (self.LOOPING + 4))
        self.assertEqual(self.returned(), [2 * self.LOOPING, 0], "each ended where it came back")
        self.assertEqual(self.other.totals()["connect_refused"], 2 * self.LOOPING)
        self.assertEqual([gateway.totals()["connect_timeout"] for gateway in self.gateways], [0, 0])
        self.traffic()
        self.settle()
        harness.wait_until(lambda: self.sockets() == sockets, "sockets are closed")
        for gateway in self.gateways:
            self.assertEqual(gateway.stop(), 0)
            gateway.detach()

    def test_S2_two_gateways_with_preserve(self):
        self.check(["lan0"], ["wan0"])

    def test_S2_two_gateways_with_preserve_that_serve_each_other(self):
        self.check(["lan0", "wan0"], [])


if __name__ == "__main__":
    harness.main()
