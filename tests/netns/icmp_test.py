# SPDX-License-Identifier: Apache-2.0
"""ICMP beside UDP: pings go by the rules, and what a router says of a TCP flow reaches the socket that sent."""
import concurrent.futures
import re
import shutil
import socket
import struct
import unittest

import harness
import packets
import product
import udp_case

OTHER_SERVER = {"v4": "198.51.100.66", "v6": "2001:db8:2::66"}
PING = ("ping",) if shutil.which("ping") else ("busybox", "ping")
PINGS = 3
PORT, MTU = 9000, 1300
UPLOAD = bytes(range(250)) * 1200


@unittest.skipUnless(shutil.which(PING[0]), "missing tools: ping or busybox")
class Ping(product.TestCase):
    def setUp(self):
        super().setUp()
        for family in harness.FAMILIES:
            self.lab.address(self.lab.server, "s0", family, OTHER_SERVER[family.name])

    def answers(self, address):
        """How many of PINGS were answered."""
        said = self.lab.client.run(*PING, "-c", PINGS, "-i", "0.2", "-W", "1", address, check=False).stdout
        sent, answered = re.search(r"(\d+) packets transmitted, (\d+)", said).groups()
        self.assertEqual(int(sent), PINGS, said)
        return int(answered)

    def check(self, family, address, action, rule):
        """The action is that of this rule, and no other rule counts the pings."""
        before, reasons = self.tpx.rules(), self.tpx.reasons()
        self.assertEqual(self.answers(address), PINGS if action == "bypass" else 0)
        risen = {name: count - before[name] for name, count in self.tpx.rules().items() if count != before[name]}
        self.assertEqual(risen, {rule: PINGS})
        self.assertEqual(self.tpx.reasons()[f"rule_{action}"] - reasons[f"rule_{action}"], PINGS)
        if self.is_asked_now():
            answer = self.tpx.json("explain", "icmp", family.client, address)
            self.assertEqual((answer["verdict"], answer["rule"]["name"]),
                             ("direct" if action == "bypass" else "drop", rule), answer)

    def test_pings_go_by_the_rules(self):
        self.lab.serve()
        servers = [family.server for family in harness.FAMILIES]
        self.tpx.start()
        for action, default in (("bypass", "drop"), ("drop", "bypass")):
            self.tpx.reload(product.config([product.rule(action, "pings", {"proto": "icmp", "dst": servers})],
                                           default=default))
            for family in harness.FAMILIES:
                with self.subTest(family=family.name, action=action):
                    self.check(family, family.server, action, "pings")
                    self.check(family, OTHER_SERVER[family.name], default, "default")
                    # the rule is about nothing but ICMP
                    (self.assert_direct if default == "bypass" else self.assert_dropped)(family)


class IcmpTap(packets.Tap):
    def too_big(self):
        """The errors that came in by now: [(to whom, the MTU)]."""
        found = []
        self.sock.setblocking(False)
        while True:
            try:
                frame, address = self.sock.recvfrom(65536)
            except BlockingIOError:
                return found
            if address[2] == packets.OUTGOING:
                continue
            packet = frame[14:]
            if frame[12:14] == b"\x08\x00" and packet[9] == socket.IPPROTO_ICMP:
                to, body, error = packet[16:20], packet[(packet[0] & 15) * 4:], b"\3\4"
            elif frame[12:14] == b"\x86\xdd" and packet[6] == socket.IPPROTO_ICMPV6:
                to, body, error = packet[24:40], packet[40:], b"\2\0"
            else:
                continue
            if body[:2] == error:
                family = socket.AF_INET if len(to) == 4 else socket.AF_INET6
                found.append((socket.inet_ntop(family, to), struct.unpack("!I", body[4:8])[0]))


class TooBig(udp_case.UdpCase):
    def upload(self, family, address, far, seen_as):
        """A connection of the client's that has sent a lot, all of which arrived."""
        with far.listen(family, PORT, address) as listener:
            client = self.lab.client.connect(family, address, PORT)
            self.addCleanup(client.close)
            server, seen = listener.accept()
        self.addCleanup(server.close)
        self.assertEqual(seen[0], seen_as)
        server.settimeout(10)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            sending = pool.submit(client.sendall, UPLOAD)
            self.assertEqual(product.receive(server, len(UPLOAD)), UPLOAD)
            sending.result()
        self.lab.on_seen("tcp", client.getsockname()[:2], False, (address, PORT), seen[0])

    def path_mtus(self, space, address):
        """What the sockets of a namespace that are connected to there take for the MTU of the path."""
        return re.findall(r"\bpmtu:(\d+)", space.run("ss", "-Htni", "dst", product.end(address, PORT)).stdout)

    def test_a_router_on_the_way_out_tells_who_sent(self):
        far = self.add_far(MTU)
        far.ip("link set f0 mtu 1500")  # or the server would ask for small segments, and none would be too big
        for number, (action, source) in enumerate(udp_case.MODES, 10):
            self.tpx.start(product.config([product.rule(action)], source=source))
            for family in harness.FAMILIES:
                with self.subTest(action=action, source=source, family=family.name):
                    self.check(family, self.add_far_address(far, family, number), far, action, source)
            self.assertEqual(self.tpx.stop(), 0)
            self.tpx.detach()

    def check(self, family, address, far, action, source):
        seen_as = family.wan if (action, source) == ("proxy", "masquerade") else family.client
        with IcmpTap(self.lab.gateway, "wan0") as wan, IcmpTap(self.lab.client, "c0") as lan:
            self.upload(family, address, far, seen_as)
            self.assertEqual(set(wan.too_big()), {(seen_as, MTU)})
            self.assertEqual(set(lan.too_big()), {(family.client, MTU)} if action == "bypass" else set())
        self.assertEqual(self.path_mtus(self.lab.client, address), [str(MTU if action == "bypass" else 1500)])
        self.assertEqual(self.path_mtus(self.lab.gateway, address), [str(MTU)] if action == "proxy" else [])


if __name__ == "__main__":
    harness.main()
