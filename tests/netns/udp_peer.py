# SPDX-License-Identifier: Apache-2.0
"""The far end of the UDP tests, as a process inside a namespace.

PORT[/4|/6]...  on all addresses, of one family where it is named; shares the port with nobody.
                Answers each datagram: W... -> [address, port] of the sender; S... -> silence;
                F ADDRESS PORT -> the rest is sent to that address and port instead, from the
                same port; else the same datagram. Commands on stdin: stats -> datagrams by sender
"""
import collections
import json
import selectors
import socket
import sys


def say(document):
    print(json.dumps(document), flush=True)


def plain(address):
    return address.removeprefix("::ffff:")


class Server:
    def __init__(self, ports):
        self.selector = selectors.DefaultSelector()
        self.selector.register(sys.stdin, selectors.EVENT_READ, self.control)
        self.senders = collections.Counter()
        for port, _, family in (port.partition("/") for port in ports):
            sock = socket.socket(socket.AF_INET if family == "4" else socket.AF_INET6, socket.SOCK_DGRAM)
            if family != "4":
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, family == "6")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            sock.bind(("", int(port)))
            sock.setblocking(False)
            self.selector.register(sock, selectors.EVENT_READ, self.answer)

    def run(self):
        say({"ready": True})
        while True:
            for key, _ in self.selector.select():
                key.data(key.fileobj)

    def control(self, stream):
        if not stream.readline():
            sys.exit(0)
        say({"senders": [[*sender, count] for sender, count in self.senders.items()]})

    def answer(self, sock):
        try:
            while True:
                data, sender = sock.recvfrom(65536)
                seen = (plain(sender[0]), sender[1])
                self.senders[seen] += 1
                self.reply(sock, data, sender, seen)
        except BlockingIOError:
            pass

    @staticmethod
    def reply(sock, data, sender, seen):
        kind = data[:1]
        if kind == b"S":
            return
        if kind == b"W":
            data = json.dumps(seen).encode()
        elif kind == b"F":
            _, address, port, data = data.split(b" ", 3)
            address = address.decode()
            sender = (address if ":" in address else "::ffff:" + address, int(port))
        sock.sendto(data, sender)


if __name__ == "__main__":
    Server(sys.argv[1:]).run()
