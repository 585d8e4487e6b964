# SPDX-License-Identifier: Apache-2.0
"""forward: fib. Flows that a rule bypasses go past netfilter from their second packet on, and else as the stack forwards them."""
import json
import socket
import struct

import harness
import packets
import product
import udp_case
from udp_case import IP_MTU_DISCOVER, IP_TOS, IP_TTL, IPV6_MTU_DISCOVER, PMTUDISC_DO, PORT, UdpCase, option

HEARD_PORT = 5400  # of a socket of the test's own at the server
SOL_PACKET, PACKET_AUXDATA, TP_STATUS_VLAN_VALID = 263, 8, 0x10
IPV6_UNICAST_HOPS, IPV6_RECVHOPLIMIT, IPV6_HOPLIMIT, IPV6_RECVTCLASS, IPV6_TCLASS = 16, 51, 52, 66, 67


def around(forward="fib"):
    return product.rule("bypass", "around", {"proto": ["tcp", "udp"]}, forward=forward)


class Forward(UdpCase):
    def setUp(self):
        super().setUp()
        self.lab.serve()
        self.lab.gateway.nft("""table inet seen { counter c {} chain f { type filter hook forward priority 0;
            iifname "lan0" counter name c }}""")

    def in_netfilter(self):
        listed = json.loads(self.lab.gateway.run("nft", "-j", "list", "counters").stdout)["nftables"]
        return sum(entry["counter"]["packets"] for entry in listed if "counter" in entry)

    def forwarded(self):
        return self.tpx.reasons().get("forwarded", 0)

    def start(self, *rules, **options):
        self.tpx.start(product.config(list(rules) or [around()], **options))

    def check_forwarded(self, sock, family, least=3):
        before = self.forwarded()
        for n in range(least):
            self.assertEqual(self.ask(sock, family, b"E%d" % n), b"E%d" % n)
        self.assertGreaterEqual(self.forwarded() - before, least)

    def known(self, family):
        """A client's socket whose flow is known."""
        sock = self.socket(family)
        self.ask(sock, family, b"E first")
        return sock

    def test_netfilter_sees_the_first_packet_of_each_flow(self):
        for attach in ("tcx", "clsact"):
            self.start(steering={"attach": attach})
            for family in harness.FAMILIES:
                with self.subTest(attach=attach, family=family.name):
                    seen, before = self.in_netfilter(), self.forwarded()
                    sock = self.socket(family)
                    for n in range(5):
                        self.assertEqual(self.ask(sock, family, b"E%d" % n), b"E%d" % n)
                    self.assertEqual(self.in_netfilter() - seen, 1)
                    self.assertEqual(self.forwarded() - before, 4)
            for family in harness.FAMILIES:
                with self.subTest(attach=attach, family=family.name):
                    seen = self.in_netfilter()
                    client, server = self.pair(family)
                    for end, other in ((client, server), (server, client)) * 3:
                        end.sendall(b"x" * 100)
                        self.assertEqual(product.receive(other, 100), b"x" * 100)
                    self.assertEqual(self.in_netfilter() - seen, 1, "more than the SYN")
            self.assertEqual(self.tpx.stop(), 0)
            self.tpx.detach()

    def test_is_off_by_default(self):
        self.start(around("stack"))
        for family in harness.FAMILIES:
            seen, sock = self.in_netfilter(), self.socket(family)
            for _ in range(5):
                self.ask(sock, family, b"E")
            self.assertEqual(self.in_netfilter() - seen, 5)
        self.assertEqual(self.forwarded(), 0)

    def test_bytes(self):
        self.start()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                seen, before = self.in_netfilter(), self.forwarded()
                peer = self.lab.peer(self.lab.client, "transfer", family.server, 8080, "--count", 4,
                                     "--bytes", harness.scaled(16 << 20))
                for result in peer.read():
                    self.assertIsNone(result["error"])
                    self.assertTrue(result["up_ok"] and result["down_ok"], "bytes differ")
                    self.assertEqual(result["seen"], result["source"])
                self.assertGreater(self.forwarded(), before)
                self.assertEqual(self.in_netfilter() - seen, 4)

    def test_trains_and_fragments(self):
        self.start()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                sock, there = self.known(family), self.far_socket(family, HEARD_PORT)
                sock.sendto(b"first", (family.server, HEARD_PORT))
                self.heard(there, sock, family)
                before = self.forwarded()
                train = b"".join(bytes([n]) * 1200 for n in range(20))
                sock.sendmsg([train], [(socket.IPPROTO_UDP, udp_case.UDP_SEGMENT, struct.pack("=H", 1200))], 0,
                             (family.server, HEARD_PORT))
                self.assertEqual([there.recv(65536) for _ in range(20)], [bytes([n]) * 1200 for n in range(20)])
                self.assertGreater(self.forwarded(), before)
                for size in (4000, 65507):
                    sock.sendto(b"f" * size, (family.server, HEARD_PORT))
                    self.assertEqual(there.recv(65536), b"f" * size)
                self.check_forwarded(sock, family)

    def test_one_hop_less_and_the_traffic_class_kept(self):
        self.start()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                there, sock = self.far_socket(family, HEARD_PORT), self.socket(family)
                option(there, udp_case.IP_RECVTTL, IPV6_RECVHOPLIMIT)
                option(there, udp_case.IP_RECVTOS, IPV6_RECVTCLASS)
                option(sock, IP_TTL, IPV6_UNICAST_HOPS, 33)
                option(sock, IP_TOS, IPV6_TCLASS, 0xb9)
                for _ in range(3):
                    sock.sendto(b"x", (family.server, HEARD_PORT))
                    controls = {(level, kind): data[0] for level, kind, data in there.recvmsg(100, 200)[1]}
                    v4 = {(socket.IPPROTO_IP, IP_TTL): 32, (socket.IPPROTO_IP, IP_TOS): 0xb9}
                    v6 = {(socket.IPPROTO_IPV6, IPV6_HOPLIMIT): 32, (socket.IPPROTO_IPV6, IPV6_TCLASS): 0xb9}
                    self.assertEqual(controls, v4 if family is harness.V4 else v6)
                self.assert_arrives("udp", udp_case.own_end(sock, family), (family.server, HEARD_PORT))
        self.assertEqual(self.forwarded(), 4)

    def test_a_priority_tag_goes_no_further(self):
        """802.1p: VLAN 0 with a priority is of one link."""
        self.lab.client.run("ethtool", "-K", "c0", "tx", "off")  # so that what is captured has its checksum
        self.start()
        with self.lab.server.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap:
            tap.bind(("s0", 3))
            tap.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            tap.settimeout(5)
            for family in harness.FAMILIES:
                with self.subTest(family=family.name):
                    sock, there = self.known(family), self.far_socket(family, HEARD_PORT)
                    with packets.Tap(self.lab.client, "c0") as own:
                        for _ in range(2):
                            sock.sendto(b"tagged", (family.server, HEARD_PORT))
                            self.heard(there, sock, family)
                        while b"tagged" not in (frame := own.sock.recv(2048)):
                            pass
                        own.send(frame[:12] + b"\x81\x00\xa0\x00" + frame[12:])
                    self.assertEqual(there.recv(100), b"tagged")
                    self.assertEqual(self.tags_of(tap, b"tagged", 3), [False] * 3)

    @staticmethod
    def tags_of(tap, content, count):
        """Whether each of so many frames with the content came with a VLAN tag."""
        tags = []
        while len(tags) < count:
            frame, controls, *_ = tap.recvmsg(2048, 64)
            status = struct.unpack("=I", controls[0][2][:4])[0]
            if content in frame:
                tags.append(bool(status & TP_STATUS_VLAN_VALID) or frame[12:14] == b"\x81\x00")
        return tags

    def test_errors_are_the_stacks(self):
        self.lab.gateway.ip("link set wan0 mtu 1400")
        self.start()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                sock = self.connected(family, family.server, PORT)
                option(sock, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO)
                self.ask(sock, family, b"E first")
                self.check_forwarded(sock, family)
                sock.send(b"S" * 1450)
                error, payload, _ = self.wait_error(sock)
                self.assertEqual((error.errno, error.info, error.offender), ("EMSGSIZE", 1400, family.lan))
                self.assertEqual(payload, b"S" * len(payload))
                option(sock, IP_TTL, IPV6_UNICAST_HOPS, 1)
                sock.send(b"S last")
                error, payload, _ = self.wait_error(sock)
                self.assertEqual((error.errno, error.offender), ("EHOSTUNREACH", family.lan))

    def test_routes_and_neighbours_change(self):
        far = self.add_far()
        self.start()
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                address = self.add_far_address(far, family, 7)
                there = self.socket(family, PORT, address, far)
                sock = self.connected(family, address, PORT)

                def arrives(sock=sock, there=there):
                    sock.send(b"hello")
                    self.assertEqual(there.recv(100), b"hello")

                arrives()
                before = self.forwarded()
                arrives()
                self.assertEqual(self.forwarded() - before, 1)
                self.lab.gateway.ip("neigh flush dev wan0")
                arrives()  # the stack asks for the neighbour
                before = self.forwarded()
                arrives()
                self.assertEqual(self.forwarded() - before, 1)
                self.lab.gateway.ip(f"route replace unreachable {address}")
                sock.send(b"lost")
                self.assertEqual(self.wait_error(sock)[0].offender, family.lan)
                self.assertEqual(self.forwarded() - before, 1)
                self.lab.gateway.ip(f"route del unreachable {address}")
                udp_case.take_error(sock)
                arrives()
                self.assertEqual(self.forwarded() - before, 2)
                self.assert_arrives("udp", sock.getsockname()[:2], (address, PORT))

    def test_reload_and_detach_cut_nothing(self):
        self.start(around("stack"))
        pairs = [self.pair(family) for family in harness.FAMILIES]
        socks = [(self.known(family), family) for family in harness.FAMILIES]

        def go_on():
            before = self.forwarded()
            for client, server in pairs:
                client.sendall(b"more")
                self.assertEqual(product.receive(server, 4), b"more")
            tcp = self.forwarded() - before
            for sock, family in socks:
                self.ask(sock, family, b"E")
            return tcp, self.forwarded() - before - tcp

        self.assertEqual(go_on(), (0, 0))
        self.tpx.reload(product.config([around()]))
        tcp, udp = go_on()
        self.assertGreaterEqual(tcp, 2)
        self.assertEqual(udp, 0, "a UDP flow keeps what was decided")
        self.tpx.reload(product.config([around("stack")]))
        self.assertEqual(go_on(), (0, 0))
        self.tpx.reload(product.config([around()]))
        self.assertEqual(self.tpx.stop(), 0)
        for sock, family in socks:  # needs no proxy
            self.check_forwarded(self.known(family), family)
        self.tpx.detach()
        for client, server in pairs:
            client.sendall(b"more")
            self.assertEqual(product.receive(server, 4), b"more")

    def test_explain_says_so(self):
        self.start(product.rule("proxy", "web", {"dport": 8080}), around())
        for family in harness.FAMILIES:
            for port, said in ((PORT, True), (8080, False)):
                notes = self.explained("tcp", (family.client, 50000), (family.server, port))["notes"]
                self.assertEqual(any("forward: fib" in note for note in notes), said, notes)

    def test_beside_what_is_proxied(self):
        self.start(product.rule("proxy", "web", {"dport": 8080}), around())
        for family in harness.FAMILIES:
            self.assert_proxied(family)
            self.check_forwarded(self.known(family), family)
        self.assertIn("known flows forwarded by fib", self.tpx.command("status").stdout)
        rules = {rule["name"]: rule for rule in self.tpx.status()["rules"]}
        self.assertEqual(rules["around"].get("forward"), "fib")
        self.assertNotIn("forward", rules["web"])


if __name__ == "__main__":
    harness.main()
