# SPDX-License-Identifier: Apache-2.0
"""U6: datagrams that are too large for some part of the way."""
import harness
import udp_case
from udp_case import IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO, PMTUDISC_DONT, AsDirect, UdpCase, option


class TooBig(AsDirect):
    def probe(self, address, discover, size=1450):
        def run(family, number):
            sock = self.connected(family, address(family, number), udp_case.PORT)
            option(sock, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, discover)
            sock.send(b"S" * size)
            error, payload, _ = self.wait_error(sock)
            self.assertEqual(payload, b"S" * len(payload))
            with self.assertRaises(OSError) as failed:
                sock.send(b"S" * size)
            return (error, udp_case.mtu_of(sock), failed.exception.errno)
        return run

    def test_U6_too_big_for_the_way_out(self):
        self.lab.gateway.ip("link set wan0 mtu 1400")
        self.lab.server.ip("link set s0 mtu 1400")
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                net = family.server.removesuffix("2")

                def address(f, n, net=net):
                    self.lab.address(self.lab.server, "s0", f, net + str(n))
                    return net + str(n)

                error, mtu, _ = self.compare(self.probe(address, PMTUDISC_DO), family)
                self.assertEqual((error.errno, error.info, mtu, error.offender), ("EMSGSIZE", 1400, 1400, family.lan))

    def test_U6_too_big_further_on(self):
        far = self.add_far(mtu=1300)
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                error, mtu, _ = self.compare(
                    self.probe(lambda f, n: self.add_far_address(far, f, n), PMTUDISC_DO), family)
                self.assertEqual((error.errno, error.info, mtu, error.offender),
                                 ("EMSGSIZE", 1300, 1300, family.server))

    def test_U6_arrives_in_fragments_without_DF(self):
        self.lab.gateway.ip("link set wan0 mtu 1400")
        self.lab.server.ip("link set s0 mtu 1400")
        for source in ("masquerade", "preserve"):
            self.start_udp(source=source)
            sock = self.socket(harness.V4)
            option(sock, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DONT)
            for _ in range(3):
                data = b"E" * 1450
                self.assertEqual(self.ask(sock, harness.V4, data), data)
            self.assertEqual(self.total("udp_dropped"), 0)

    def test_U6_arrives_in_fragments_of_a_router_without_DF(self):
        """The first datagram may be lost: only then it is known that the way is narrow."""
        far = self.add_far(mtu=1300)
        for number, source in enumerate(("masquerade", "preserve"), 10):
            self.start_udp(source=source)
            address = self.add_far_address(far, harness.V4, number)
            there = self.socket(harness.V4, udp_case.PORT, address, far)
            sock = self.connected(harness.V4, address, udp_case.PORT)
            option(sock, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DONT)
            there.settimeout(0.5)
            got = []
            for n in range(6):
                sock.send(bytes([n]) * 1450)
                try:
                    got.append(there.recv(65536))
                except TimeoutError:
                    self.assertEqual(n, 0, "lost")
            self.assertEqual(got[-5:], [bytes([n]) * 1450 for n in range(1, 6)])
            self.assert_arrives("udp", sock.getsockname()[:2], sock.getpeername()[:2])
            self.assertIsNone(udp_case.take_error(sock), "an error about what may be fragmented")

    def test_U6_what_has_DF_is_not_fragmented_after_what_has_not(self):
        self.lab.gateway.ip("link set wan0 mtu 1400")
        self.lab.server.ip("link set s0 mtu 1400")
        self.start_udp()
        sock = self.connected(harness.V4, harness.V4.server, udp_case.PORT)
        for discover, arrives in ((PMTUDISC_DONT, True), (PMTUDISC_DO, False), (PMTUDISC_DONT, True)):
            option(sock, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, discover)
            sock.send(b"E" * 1450)
            if arrives:
                self.assertEqual(sock.recv(65536), b"E" * 1450)
                self.assert_arrives("udp", sock.getsockname()[:2], sock.getpeername()[:2])
            else:
                self.assertEqual(self.wait_error(sock)[0].errno, "EMSGSIZE")
                self.assert_silence(sock)

    def test_U6_a_usual_client_gets_large_datagrams_through(self):
        """Linux's default: DF until told otherwise, then fragments."""
        far = self.add_far(mtu=1300)
        for family, source, case in self.each_way():
            with case:
                address = self.add_far_address(far, family, 20 if source == "preserve" else 21)
                there = self.socket(family, udp_case.PORT, address, far)
                sock = self.socket(family)
                data = b"large" * 290

                def arrives():
                    sock.sendto(data, (address, udp_case.PORT))
                    there.settimeout(0.2)
                    try:
                        return there.recv(65536) == data
                    except TimeoutError:
                        return False

                harness.wait_until(arrives, "a datagram arrives")


class TowardsClient(UdpCase):
    """What lies between the gateway and the client."""

    def large_arrive(self, client, server, to, tries=10):
        """The first ones may be lost: only then it is known that the way is narrow."""
        client.settimeout(0.2)
        for _ in range(tries):
            server.sendto(b"large" * 290, to)
            try:
                if client.recv(65536) == b"large" * 290:
                    return
            except TimeoutError:
                pass
        self.fail("large answers are lost")

    def test_U6_large_answers_over_a_narrow_lan(self):
        self.lab.gateway.ip("link set lan0 mtu 1400")
        self.lab.client.ip("link set c0 mtu 1400")
        servers = {family: self.far_socket(family, 5310) for family in harness.FAMILIES}
        for family, _, case in self.each_way():
            with case:
                client = self.socket(family)
                client.sendto(b"hello", (family.server, 5310))
                _, seen = self.heard(servers[family], client, family)
                self.large_arrive(client, servers[family], seen)

    def test_U6_large_answers_over_a_narrow_link_behind_the_lan(self):
        inner = self.lab.namespace("i")
        self.lab.link(self.lab.client, "c1", inner, "i0")
        for family, net in zip(harness.FAMILIES, ("203.0.113.", "2001:db8:4::")):
            self.lab.address(self.lab.client, "c1", family, net + "1")
            self.lab.address(inner, "i0", family, net + "2", net + "1")
            for space, gateway in ((self.lab.gateway, family.client), (self.lab.server, family.wan)):
                space.ip(f"route add {net + '0/24' if family is harness.V4 else net + '/64'} via {gateway}")
        self.lab.client.ip("link set c1 mtu 1300")
        inner.ip("link set i0 mtu 1300")
        for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            self.lab.client.sysctl(key, 1)
        servers = {family: self.far_socket(family, 5310) for family in harness.FAMILIES}
        for family, _, case in self.each_way():
            with case:
                client = self.socket(family, space=inner)
                client.sendto(b"hello", (family.server, 5310))
                _, seen = servers[family].recvfrom(100)
                self.large_arrive(client, servers[family], seen)


if __name__ == "__main__":
    harness.main()
