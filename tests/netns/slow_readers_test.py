# SPDX-License-Identifier: Apache-2.0
"""E5: a thousand readers that do not read hold their senders, cost the proxy nothing, and get every byte later.

What may wait on the way of one direction follows from the design: what fits into the receive buffer of the proxy's one
socket and the send buffer of its other one, and the content of a pipe for as many directions as there are pipes. The
proxy's own memory holds nothing of it: a session is at most 256 bytes (session.h), without buffers.
"""
import os
import pathlib
import re
import resource
import selectors
import socket
import struct
import time

import harness
import product
import transfer

WORKERS, PIPES = 2, 16  # pipes of each worker
PIPE_BYTES = 1 << 20
BUFFER_BYTES = 128 << 10  # the most that the kernel lets a socket's buffer grow to here, each way
OVERSHOOT = 128 << 10  # a buffer that is not full yet takes one more packet, of 64 KiB and its overhead
SESSION_BYTES = 2048  # of the proxy's memory, with what the allocators and the ring add
PROXY_BYTES = 1 << 20  # of the proxy's memory, for any number of sessions
MORE = 256 << 10  # bytes that each sender adds once its reader reads
FILLER = os.urandom(transfer.BLOCK)
SKMEM = re.compile(r"skmem:\(r(\d+),rb\d+,t(\d+),tb\d+,f(\d+),w(\d+),")


class Stream:
    """One direction of one connection: numbered blocks, of which no two are the same in a run."""

    def __init__(self, number, sender, reader):
        self.number, self.sender, self.reader = number, sender, reader
        self.sent, self.received, self.limit = 0, 0, None
        for sock in (sender, reader):
            sock.setblocking(False)

    def content(self, start):
        """The rest of the block in which this byte is."""
        number, place = divmod(start, transfer.BLOCK)
        return memoryview(struct.pack("!QQ", self.number, number) + FILLER[16:])[place:]

    def send(self):
        """Whether there is more to send."""
        try:
            while self.sent != self.limit:
                data = self.content(self.sent)
                self.sent += self.sender.send(data if self.limit is None else data[:self.limit - self.sent])
        except BlockingIOError:
            return True
        self.sender.shutdown(socket.SHUT_WR)
        return False

    def read(self):
        """Whether there is more to come. Compares every byte."""
        try:
            while True:
                expected = self.content(self.received)
                got = self.reader.recv(len(expected))
                if got != expected[:len(got)]:
                    raise AssertionError(f"stream {self.number}: wrong bytes from {self.received} on")
                if not got:
                    return False
                self.received += len(got)
        except BlockingIOError:
            return True


class SlowReaders(product.TestCase):
    def setUp(self):
        super().setUp()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for space in (self.lab.client, self.lab.gateway, self.lab.server):
            space.sysctl("net/ipv4/tcp_rmem", f"4096 {BUFFER_BYTES} {BUFFER_BYTES}")
            space.sysctl("net/ipv4/tcp_wmem", f"4096 16384 {BUFFER_BYTES}")
        self.lab.serve()
        self.tpx.start(product.config(proxy={"workers": WORKERS, "pipes": PIPES}))

    def open(self, count, slow):
        """Half of the connections of each family; the slow side is the one that reads."""
        streams = []
        for family in harness.FAMILIES:
            with self.lab.server.listen(family, 9000) as listener:
                for _ in range(count // 2):
                    client = self.lab.client.connect(family, family.server, 9000)
                    self.addCleanup(client.close)
                    server, _ = listener.accept()
                    self.addCleanup(server.close)
                    sides = (server, client) if slow == "client" else (client, server)
                    streams.append(Stream(len(streams), *sides))
        return streams

    @staticmethod
    def drive(streams, quiet, seconds=300):
        """Lets the senders send, and the readers of limited streams read, until all is done or quiet for so long."""
        with selectors.DefaultSelector() as selector:
            for stream in streams:
                selector.register(stream.sender, selectors.EVENT_WRITE, stream.send)
                if stream.limit is not None:
                    selector.register(stream.reader, selectors.EVENT_READ, stream.read)
            deadline = time.monotonic() + seconds
            while selector.get_map() and (ready := selector.select(quiet)):
                for key, _ in ready:
                    if not key.data():
                        selector.unregister(key.fileobj)
                if time.monotonic() > deadline:
                    raise AssertionError(f"still going on after {seconds} s")

    def memory(self):
        status = pathlib.Path(f"/proc/{self.tpx.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s*(\d+)", status)[1]) * 1024

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.tpx.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def descriptors(self, kind):
        folder = f"/proc/{self.tpx.pid}/fd"
        return sum(os.readlink(f"{folder}/{fd}").startswith(kind) for fd in os.listdir(folder))

    def socket_memory(self):
        """Bytes that each connected socket of the proxy holds, by ss."""
        lines = self.lab.gateway.run("ss", "-HOtnmp", "state", "connected").stdout.splitlines()
        found = [SKMEM.search(line) for line in lines if f"pid={self.tpx.pid}," in line]
        return [sum(map(int, match.groups())) for match in found]

    def warm_up(self):
        """Everything that is made once has been made: buffers of the workers, pages of the program."""
        for family in harness.FAMILIES:
            self.transfer(family)
        harness.wait_until(lambda: self.tpx.sessions() == 0, "sessions end")

    def transfer(self, family):
        peer = self.lab.peer(self.lab.client, "transfer", family.server, 8080, "--count", 4, "--bytes", 1 << 20)
        for result in peer.read(60):
            self.assertIsNone(result["error"])
            self.assertTrue(result["up_ok"] and result["down_ok"])
            self.assertEqual(result["seen"][0], family.wan)

    def assert_bounded(self, streams, memory_before):
        """Everything that waits, at each place where it may."""
        grown, held = self.memory() - memory_before, self.socket_memory()
        sent = [stream.sent for stream in streams]
        print(f"{len(streams)} streams stand: {sum(sent) // len(sent)} bytes in flight each, at most {max(sent)}; "
              f"the proxy grew by {grown}; each of {len(held)} sockets holds {sum(held) // len(held)}, at most "
              f"{max(held)}; {self.tpx.totals()['pipes']} pipes", flush=True)
        self.assertEqual(self.tpx.sessions(), len(streams))
        self.assertEqual(len(held), 2 * len(streams))
        # the sockets on the way of a direction: sender, the proxy's two, reader
        self.assertLessEqual(max(sent), 4 * (BUFFER_BYTES + OVERSHOOT) + PIPE_BYTES)
        self.assertLessEqual(sum(sent), len(sent) * 4 * (BUFFER_BYTES + OVERSHOOT) + WORKERS * PIPES * PIPE_BYTES)
        self.assertLessEqual(max(held), BUFFER_BYTES + OVERSHOOT)
        pipes = self.tpx.totals()["pipes"]
        self.assertGreater(pipes, 0, "not in bulk: too little was sent to mean anything")
        self.assertLessEqual(pipes, WORKERS * PIPES)
        self.assertLessEqual(self.descriptors("pipe:"), 2 * WORKERS * PIPES + 2)
        if not self.tpx.sanitized():
            self.assertLessEqual(grown, len(streams) * SESSION_BYTES + PROXY_BYTES, "the proxy buffers")

    def assert_still(self, streams, seconds):
        """Nothing moves, and the proxy does not spin; new connections work at once."""
        sent, cpu = [stream.sent for stream in streams], self.cpu_seconds()
        until = time.monotonic() + seconds
        self.drive(streams, quiet=seconds)
        time.sleep(max(0, until - time.monotonic()))
        self.assertEqual([stream.sent for stream in streams], sent)
        self.assertLess(self.cpu_seconds() - cpu, 0.3 * seconds, "spins")
        for family in harness.FAMILIES:
            self.assert_proxied(family)
            self.transfer(family)

    def check(self, count, slow, seconds):
        self.warm_up()
        memory, sockets = self.memory(), self.descriptors("socket:")
        streams = self.open(count, slow)
        self.drive(streams, quiet=2)
        self.assert_bounded(streams, memory)
        self.assert_still(streams, seconds)
        self.assert_bounded(streams, memory)
        for stream in streams:
            stream.limit = stream.sent + MORE
        self.drive(streams, quiet=20)
        self.assertEqual([s.received for s in streams], [s.limit for s in streams])
        for stream in streams:
            stream.reader.close()
            stream.sender.close()
        harness.wait_until(lambda: self.tpx.sessions() == 0, "sessions end")
        harness.wait_until(lambda: self.descriptors("socket:") == sockets, "sockets are closed")
        totals = self.tpx.totals()
        self.assertEqual(totals["closed_clean"], totals["sessions_total"], "each ended in order")
        self.assertLessEqual(totals["pipes"], WORKERS * PIPES)
        self.assertLessEqual(self.descriptors("pipe:"), 2 * WORKERS * PIPES + 2)
        self.transfer(harness.V4)

    def test_E5_1000_clients_that_do_not_read(self):
        self.check(harness.scaled(1000), "client", harness.scaled(10))

    def test_E5_servers_that_do_not_read(self):
        self.check(harness.scaled(200), "server", harness.scaled(4))


if __name__ == "__main__":
    harness.main()
