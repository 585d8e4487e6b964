# SPDX-License-Identifier: Apache-2.0
"""What the UDP tests with many clients share: routed client networks, crowds of sockets, captures."""
import contextlib
import json
import os
import pathlib
import socket
import struct

import harness
import packets
import product
import udp_case

CROWD_NETS = {harness.V4: "203.0.113.0/24", harness.V6: "2001:db8:1:1::/64"}
SO_RCVBUFFORCE = 33


class Datagram:
    """The parts of a captured frame that the tests look at; `ports` is None but for whole UDP datagrams."""

    def __init__(self, frame):
        kind, packet = frame[12:14], frame[14:]
        if kind == b"\x08\x00":
            self.proto, self.src, self.dst = packet[9], packet[12:16], packet[16:20]
            body = packet[(packet[0] & 15) * 4:]
            self.length = struct.unpack("!H", packet[2:4])[0]
        elif kind == b"\x86\xdd":
            self.proto, self.src, self.dst, body = packet[6], packet[8:24], packet[24:40], packet[40:]
            self.length = 40 + struct.unpack("!H", packet[4:6])[0]
        else:
            raise ValueError("not IP")
        family = socket.AF_INET if len(self.src) == 4 else socket.AF_INET6
        self.src, self.dst = socket.inet_ntop(family, self.src), socket.inet_ntop(family, self.dst)
        self.ports = struct.unpack("!HH", body[:4]) if self.proto in (socket.IPPROTO_UDP, socket.IPPROTO_TCP) else None


class Capture(packets.Tap):
    """All IP packets on a device from now on."""

    def __init__(self, space, device):
        super().__init__(space, device)
        self.sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self.sock.setblocking(False)

    def take(self):
        """What has come by now: [(outgoing, Datagram)]."""
        found = []
        while True:
            try:
                frame, address = self.sock.recvfrom(65536)
            except BlockingIOError:
                return found
            try:
                found.append((address[2] == packets.OUTGOING, Datagram(frame)))
            except (ValueError, struct.error):
                pass


class Crowd(harness.Peer):
    def __init__(self, space, on_answered=lambda client, server: None):
        super().__init__(space, script="udp_crowd.py")
        self._on_answered = on_answered  # called where every question had its answer
        self._address = None
        self.read()

    def begin(self, command, **arguments):
        """Does not wait for the answer, which read() returns."""
        self.process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
        self.process.stdin.flush()

    def has_said(self):
        return not self._lines.empty()

    def do(self, command, timeout=300, **arguments):
        self.begin(command, **arguments)
        answer = self.read(timeout)
        if command == "open":
            self._address = arguments["addresses"][0]
        elif command == "ask" and answer["answered"] and not answer["silent"] + answer["errors"]:
            self._on_answered((self._address, 50000), tuple(arguments["to"]))
        return answer


class Case(udp_case.Sockets):
    """Clients in networks behind the lab's client, which owns every address of them."""

    def setUp(self):
        super().setUp()
        # clear of the ports that a crowd counts up from
        self.lab.client.sysctl("net/ipv4/ip_local_port_range", "32768 65535")
        for family, net in CROWD_NETS.items():
            self.lab.client.ip(f"route add local {net} dev lo")
            self.lab.gateway.ip(f"route add {net} via {family.client}")

    def crowd(self, space=None):
        crowd = Crowd(space or self.lab.client, lambda *ends: self.assert_arrives("udp", *ends))
        self.addCleanup(crowd.close)
        return crowd

    def start_udp(self, *rules, **options):
        self.tpx.start(product.config(list(rules) or [product.udp_rule()], **options))

    def descriptors(self):
        """Kinds of descriptors of the proxy, without the pipes its pool keeps."""
        folder = f"/proc/{self.tpx.pid}/fd"
        kinds = []
        for fd in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):  # closed since
                kinds.append(os.readlink(f"{folder}/{fd}").split(":")[0])
        return sorted(kind for kind in kinds if kind != "pipe")

    def memory(self):
        lines = pathlib.Path(f"/proc/{self.tpx.pid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines)
        return max(int(values[key].split()[0]) * 1024 for key in ("VmRSS", "RssAnon"))

    def assert_sum(self):
        """Each session that was made is open, has aged, or made room for another."""
        totals = self.tpx.totals()
        self.assertEqual(totals["udp_sessions_total"],
                         totals["udp_sessions"] + totals["udp_sessions_aged"] + totals["udp_sessions_replaced"])
