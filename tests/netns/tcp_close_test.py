# SPDX-License-Identifier: Apache-2.0
"""T1: every ordering of data, FIN and RST on the two sides reaches the other side as it was.

An ordering is a script: steps "side verb", where the side is c(lient) or s(erver).
  data N   send N numbered bytes         read N  receive them and compare
  fin      shut down sending             eof     the other side's FIN is all that is left
  close    close the socket              rst     close with SO_LINGER 0
  reset    ECONNRESET is what comes      broken  sending fails sooner or later
  torn     a correct prefix of what was sent, then ECONNRESET
"""
import socket
import struct
import time

import harness
import product

SMALL, LARGE = 100, 300_000

SCRIPTS = {
    "client_half_close_then_answer": "c data {n}, c fin, s read {n}, s eof, s data {n}, s close, c read {n}, c eof",
    "server_half_close_then_data": "s data {n}, s fin, c read {n}, c eof, c data {n}, c close, s read {n}, s eof",
    "both_half_close_at_once": "c data {n}, s data {n}, c fin, s fin, c read {n}, s read {n}, c eof, s eof",
    "fin_behind_data_in_transit": "c data {n}, c close, s read {n}, s eof",
    "server_fin_behind_data_in_transit": "s data {n}, s close, c read {n}, c eof",
    "fin_without_data": "c fin, s eof, s data {n}, c read {n}, s close, c eof",
    "client_resets": "c data {n}, s read {n}, c rst, s reset",
    "server_resets": "s data {n}, c read {n}, s rst, c reset",
    "client_resets_with_data_in_transit": "c data {n}, c rst, s torn {n}",
    "server_resets_with_data_in_transit": "s data {n}, s rst, c torn {n}",
    "client_resets_after_its_fin": "c data {n}, c fin, s read {n}, s eof, c rst, s broken",
    "server_resets_after_its_fin": "s data {n}, s fin, c read {n}, c eof, s rst, c broken",
    "server_resets_half_closed_client": "c data {n}, c fin, s read {n}, s eof, s rst, c reset",
    "client_resets_half_closed_server": "s data {n}, s fin, c read {n}, c eof, c rst, s reset",
    "client_closes_with_unread_data": "s data {n}, c wait, c close, s reset",
    "server_closes_with_unread_data": "c data {n}, s wait, s close, c reset",
}


class Side:
    def __init__(self, test, sock):
        self.test, self.sock = test, sock
        sock.settimeout(10)

    @staticmethod
    def content(size):
        return b"".join(struct.pack("!I", i) for i in range(size // 4 + 1))[:size]

    def data(self, size):
        self.sock.sendall(self.content(size))

    def read(self, size):
        got = b""
        while len(got) < size:
            more = self.sock.recv(size - len(got))
            self.test.assertTrue(more, f"end of stream after {len(got)} of {size} bytes")
            got += more
        self.test.assertEqual(got, self.content(size))

    def fin(self):
        self.sock.shutdown(socket.SHUT_WR)

    def eof(self):
        self.test.assertEqual(self.sock.recv(1), b"")

    def close(self):
        self.sock.close()

    def rst(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def reset(self):
        with self.test.assertRaises(ConnectionResetError):
            self.sock.recv(1)

    def torn(self, size):
        got = b""
        with self.test.assertRaises(ConnectionResetError):
            while more := self.sock.recv(65536):
                got += more
        self.test.assertEqual(got, self.content(size)[:len(got)])

    def wait(self):
        """Until data is there to be left unread."""
        self.sock.recv(1, socket.MSG_PEEK)

    def broken(self):
        deadline = time.monotonic() + 10
        with self.test.assertRaises((ConnectionResetError, BrokenPipeError)):
            while time.monotonic() < deadline:
                self.sock.sendall(b"x")
                time.sleep(0.02)


class Close(product.TestCase):
    def play(self, family, script, size):
        sides = dict(zip("cs", (Side(self, sock) for sock in self.pair(family))))
        for step in script.format(n=size).split(", "):
            side, verb, *arguments = step.split()
            with self.subTest(step=step):
                getattr(sides[side], verb)(*map(int, arguments))
        for side in sides.values():
            side.sock.close()

    def play_all(self, **options):
        self.tpx.start(product.config(**options))
        for family in harness.FAMILIES:
            for size in (SMALL, LARGE):
                for name, script in SCRIPTS.items():
                    with self.subTest(name, family=family.name, size=size):
                        self.play(family, script, size)
        harness.wait_until(lambda: self.tpx.sessions() == 0, "all sessions end")

    def test_T1_orderings_masquerade(self):
        self.play_all(source="masquerade")

    def test_T1_orderings_preserve(self):
        self.play_all(source="preserve")

    def test_T1_orderings_without_pipes(self):
        self.play_all(proxy={"pipes": 0})

    def test_T1_causes_are_counted(self):
        self.tpx.start()
        for script in ("c fin, s eof, s fin, c eof", "c rst, s reset", "s rst, c reset"):
            self.play(harness.V4, script, SMALL)
        # One reading: a session that has gone from the gauge is counted.
        totals = harness.wait_until(self.totals_without_sessions, "all sessions end")
        causes = {name: n for name, n in totals.items() if n and name.startswith(("closed", "connect"))}
        self.assertEqual(causes, {"closed_clean": 1, "closed_client_reset": 1, "closed_server_reset": 1})

    def totals_without_sessions(self):
        totals = self.tpx.totals()
        return totals if totals["sessions"] == 0 else None


if __name__ == "__main__":
    harness.main()
