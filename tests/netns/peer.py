# SPDX-License-Identifier: Apache-2.0
"""The two ends of the test connections, as a process inside a namespace.

serve PORT    answers by a connection's first byte: W line -> [address, port] of the
              caller; Q the same, then closes; T -> transfer (see transfer.py); else echo.
              Commands on stdin: stats
loop          a new connection every few milliseconds; commands: stop -> all outcomes
burst         a number of connections one after the other -> failures
storm         the same, but the server closes first, so that ports are free again at once
hold          opens connections and keeps them; commands: check, close
transfer      parallel transfers -> one result each
"""
import argparse
import asyncio
import collections
import errno
import json
import selectors
import socket
import sys
import threading
import time

import transfer


def say(document):
    print(json.dumps(document), flush=True)


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def name_of(error):
    if isinstance(error, TimeoutError):
        return "timeout"
    return errno.errorcode.get(error.errno, str(error)) if error.errno else str(error)


class Server:
    def __init__(self, port):
        self.selector = selectors.DefaultSelector()
        self.total = 0
        self.open = 0
        listener = socket.socket(socket.AF_INET6)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", port))
        listener.listen(4096)
        listener.setblocking(False)
        self.selector.register(listener, selectors.EVENT_READ, self.accept)
        self.selector.register(sys.stdin, selectors.EVENT_READ, self.control)

    def run(self):
        say({"ready": True})
        while True:
            for key, _ in self.selector.select():
                key.data(key.fileobj)

    def control(self, stream):
        if not stream.readline():
            sys.exit(0)
        say({"total": self.total, "open": self.open})

    def accept(self, listener):
        try:
            while True:
                sock, _ = listener.accept()
                sock.setblocking(False)
                self.total += 1
                self.open += 1
                self.selector.register(sock, selectors.EVENT_READ, self.serve)
        except OSError:
            pass

    def serve(self, sock):
        try:
            data = sock.recv(4096)
            if data[:1] in (b"W", b"Q"):
                address = sock.getpeername()
                sock.sendall(json.dumps([transfer.plain(address[0]), address[1]]).encode() + b"\n")
                if data[:1] == b"W":
                    return
                data = b""
        except OSError:
            data = b""
        self.selector.unregister(sock)
        if data:
            threading.Thread(target=self.attend, args=(sock, data), daemon=True).start()
        else:
            self.forget(sock)

    def forget(self, sock):
        sock.close()
        self.open -= 1

    def attend(self, sock, data):
        sock.setblocking(True)
        try:
            if data[:1] == b"T":
                transfer.answer(sock, data)
                data = b""
            while data:
                sock.sendall(data)
                data = sock.recv(65536)
        except OSError:
            pass
        self.forget(sock)


class Loop:
    """Connections at a steady pace. An outcome is [start, seconds, what, source that the server saw]."""

    def __init__(self, options):
        self.options = options
        self.outcomes = []
        self.slots = asyncio.Semaphore(options.outstanding)
        self.stopping = asyncio.Event()

    async def once(self, start):
        sock = socket.socket(family_of(self.options.address))
        sock.setblocking(False)
        what, seen = "ok", None
        try:
            async with asyncio.timeout(self.options.timeout):
                seen = await self.talk(sock)
        except OSError as error:
            what = name_of(error)
        finally:
            sock.close()
        self.outcomes.append([start, time.monotonic() - start, what, seen])

    async def talk(self, sock):
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (self.options.address, self.options.port))
        await loop.sock_sendall(sock, b"W" * 100 + b"\n")
        answer = await loop.sock_recv(sock, 4096)
        if not answer:
            raise OSError(errno.EPIPE, "end of stream")
        return json.loads(answer)[0]

    async def limited(self, start):
        try:
            await self.once(start)
        finally:
            self.slots.release()

    async def run(self):
        asyncio.get_running_loop().add_reader(sys.stdin, self.stopping.set)
        tasks = set()
        say({"ready": True})
        while not self.stopping.is_set() and len(self.outcomes) < 200_000:
            await self.slots.acquire()
            task = asyncio.create_task(self.limited(time.monotonic()))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(self.options.interval)
        await asyncio.gather(*tasks)
        say(self.outcomes)


def ask_once(options):
    with socket.create_connection((options.address, options.port), options.timeout) as sock:
        sock.sendall(b"Q\n" if options.command == "storm" else b"W\n")
        if not sock.recv(4096):
            raise OSError(errno.EPIPE, "end of stream")
        if options.command == "storm":
            sock.recv(1)


def burst(options):
    failures = collections.Counter()
    for _ in range(options.count):
        try:
            ask_once(options)
        except OSError as error:
            failures[name_of(error)] += 1
    say({"failures": failures})


class Holder:
    def __init__(self, options):
        self.options = options
        self.socks = []

    def open(self):
        failures, sources = collections.Counter(), collections.Counter()
        for _ in range(self.options.count):
            try:
                sock = socket.create_connection((self.options.address, self.options.port), self.options.timeout)
                self.socks.append(sock)
                sources[self.ask(sock)] += 1
            except OSError as error:
                failures[name_of(error)] += 1
        return {"failures": failures, "sources": sources}

    @staticmethod
    def ask(sock):
        sock.sendall(b"W\n")
        answer = sock.recv(4096)
        if not answer:
            raise OSError(errno.EPIPE, "end of stream")
        return json.loads(answer)[0]

    def check(self):
        """Asks again on every connection: how each of them fares."""
        fates = collections.Counter()
        for sock in self.socks:
            try:
                self.ask(sock)
                fates["ok"] += 1
            except OSError as error:
                fates[name_of(error)] += 1
        return fates

    def watch(self):
        """Waits for each connection to end: with what."""
        fates = collections.Counter()
        for sock in self.socks:
            try:
                fates["data" if sock.recv(1) else "eof"] += 1
            except OSError as error:
                fates[name_of(error)] += 1
        return fates

    def run(self):
        say(self.open())
        for line in sys.stdin:
            command = line.strip()
            if command == "close":
                while self.socks:
                    self.socks.pop().close()
                say({"closed": True})
            else:
                say(self.check() if command == "check" else self.watch())


def parse():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve").add_argument("port", type=int)
    for name in ("loop", "burst", "storm", "hold", "transfer"):
        command = commands.add_parser(name)
        command.add_argument("address")
        command.add_argument("port", type=int)
        command.add_argument("--timeout", type=float, default=10)
        command.add_argument("--count", type=int, default=1)
        command.add_argument("--interval", type=float, default=0.002)
        command.add_argument("--outstanding", type=int, default=2)
        command.add_argument("--bytes", type=int, default=1 << 20)
    return parser.parse_args()


def main():
    options = parse()
    if options.command == "serve":
        Server(options.port).run()
    elif options.command == "loop":
        asyncio.run(Loop(options).run())
    elif options.command in ("burst", "storm"):
        burst(options)
    elif options.command == "hold":
        Holder(options).run()
    else:
        say(transfer.run(options.address, options.port, options.count, options.bytes))


if __name__ == "__main__":
    main()
