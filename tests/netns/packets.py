# SPDX-License-Identifier: Apache-2.0
"""Raw packets for the tests: seeing what passes a device, and making ICMP errors."""
import socket
import struct
import time

ETH_P_ALL = 3
OUTGOING = 4
SYN, RST, ACK = 2, 4, 16


class Tcp:
    """The parts of a captured frame that the tests look at."""

    def __init__(self, frame):
        packet = frame[14:]
        if frame[12:14] == b"\x08\x00":
            self.ip, self.segment = packet[:20], packet[(packet[0] & 15) * 4:]
            self.src, self.dst, proto = packet[12:16], packet[16:20], packet[9]
            self.length = struct.unpack("!H", packet[2:4])[0]
        elif frame[12:14] == b"\x86\xdd":
            self.ip, self.segment = packet[:40], packet[40:]
            self.src, self.dst, proto = packet[8:24], packet[24:40], packet[6]
            self.length = 40 + struct.unpack("!H", packet[4:6])[0]
        else:
            raise ValueError("not IP")
        if proto != socket.IPPROTO_TCP:
            raise ValueError("not TCP")
        self.frame = frame
        self.sport, self.dport, self.seq, self.ack, offset, self.flags = struct.unpack("!HHIIBB", self.segment[:14])
        self.payload = self.length - (len(packet) - len(self.segment)) - (offset >> 4) * 4

    def next_seq(self):
        return (self.seq + self.payload + (1 if self.flags & (SYN | 1) else 0)) & 0xffffffff


class Tap:
    """All TCP packets on a device from now on."""

    def __init__(self, space, device):
        self.sock = space.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.sock.bind((device, ETH_P_ALL))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def collect(self, wanted=lambda _: True, seconds=0.2):
        """What matched until nothing came for a while: [(outgoing, Tcp)]."""
        found, deadline = [], time.monotonic() + 10
        self.sock.settimeout(seconds)
        while time.monotonic() < deadline:
            try:
                frame, address = self.sock.recvfrom(65536)
            except TimeoutError:
                break
            try:
                packet = Tcp(frame)
            except (ValueError, struct.error):
                continue
            if wanted(packet):
                found.append((address[2] == OUTGOING, packet))
        return found

    def send(self, frame):
        self.sock.send(frame)


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def send_too_big(space, family, packet, mtu):
    """Tells the sender of `packet` that it was too big, as a router next to the receiver would."""
    quoted = packet.ip + packet.segment[:8]
    if family.af == socket.AF_INET:
        body = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quoted
        body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
        kind = socket.IPPROTO_ICMP
    else:
        body = struct.pack("!BBHI", 2, 0, 0, mtu) + quoted  # the kernel fills in the checksum
        kind = socket.IPPROTO_ICMPV6
    with space.socket(family.af, socket.SOCK_RAW, kind) as sock:
        sock.sendto(body, (socket.inet_ntop(family.af, packet.src), 0))
