# SPDX-License-Identifier: Apache-2.0
"""QUIC and HTTP/3 by real ends: ngtcp2's client and server."""
import hashlib
import os
import shutil
import subprocess
import unittest

import harness
import product
import udp_lab

PORT = 4433
TOOLS = ("gtlsserver", "gtlsclient", "openssl")
SMALL, LARGE = 1 << 20, 50_000_000


@unittest.skipUnless(all(map(shutil.which, TOOLS)), f"needs {' '.join(TOOLS)}")
class Quic(udp_lab.Case):
    def setUp(self):
        super().setUp()
        self.site, self.downloads = self.tpx.folder / "site", self.tpx.folder / "downloads"
        self.site.mkdir()
        self.downloads.mkdir()
        self.digests = {name: self.make(name, size)
                        for name, size in (("small", SMALL), ("large", harness.scaled(LARGE)))}
        self.serve()

    def make(self, name, size):
        content = os.urandom(size)
        (self.site / name).write_bytes(content)
        return hashlib.sha256(content).hexdigest()

    def serve(self):
        key, certificate = self.tpx.folder / "key.pem", self.tpx.folder / "cert.pem"
        harness.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                     "-subj", "/CN=example.test", "-keyout", key, "-out", certificate])
        with (self.tpx.folder / "server.log").open("w") as log:
            server = self.lab.server.popen("gtlsserver", "-q", "-d", self.site, "*", PORT, key, certificate,
                                           stdout=log, stderr=subprocess.STDOUT)
        self.addCleanup(harness.end, server)
        harness.wait_until(lambda: self.lab.server.run("ss", "-Hunl", f"sport = {PORT}").stdout, "the server listens")

    def download(self, family, *names):
        """Over one connection."""
        for name in names:
            (self.downloads / name).unlink(missing_ok=True)
        done = self.lab.client.run("gtlsclient", "-q", "--exit-on-all-streams-close", "--download", self.downloads,
                                   family.server, PORT, *(f"https://example.test:{PORT}/{name}" for name in names),
                                   check=False)
        for name in names:
            file = self.downloads / name
            self.assertTrue(file.exists(), f"{name}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
            self.assertEqual(hashlib.sha256(file.read_bytes()).hexdigest(), self.digests[name], name)

    def senders(self, capture):
        """Of what left for the server."""
        return {d.src for outgoing, d in capture.take() if outgoing and d.ports and d.ports[1] == PORT}

    def through(self, source):
        """By the worker alone."""
        self.start_udp(product.udp_rule(forward="stack"), source=source)
        for family in harness.FAMILIES:
            with self.subTest(source=source, family=family.name):
                before = self.tpx.totals()
                with udp_lab.Capture(self.lab.gateway, "wan0") as capture:
                    self.download(family, "small")
                    seen, = self.senders(capture)
                    self.assertEqual(seen, family.client if source == "preserve" else family.wan)
                    self.lab.on_seen("udp", (family.client, 50000), False, (family.server, PORT), seen)
                self.download(family, "large", "small")
                grown = {name: value - before[name] for name, value in self.tpx.totals().items()}
                self.assertEqual(grown["udp_sessions_total"], 2)
                self.assertGreater(grown["udp_bytes_down"], 2 * SMALL + harness.scaled(LARGE))
                print(f"{source} {family.name}: {grown['udp_datagrams_up']} datagrams up, "
                      f"{grown['udp_datagrams_down']} down, {grown['udp_dropped']} dropped", flush=True)

    def test_U1_http3_masquerade(self):
        self.through("masquerade")

    def test_U1_http3_preserve(self):
        self.through("preserve")

    def through_tc(self, source):
        """As it is by default: most of it by tc, which makes no difference to either end."""
        self.start_udp(source=source)
        for family in harness.FAMILIES:
            with self.subTest(source=source, family=family.name):
                before, translated = self.tpx.totals(), self.translated_bytes()
                self.download(family, "large", "small")
                grown = {name: value - before[name] for name, value in self.tpx.totals().items()}
                by_tc, by_worker = self.translated_bytes() - translated, grown["udp_bytes_down"]
                self.assertEqual((grown["udp_sessions_total"], grown["udp_translated_total"]), (1, 1))
                self.assertGreater(by_tc + by_worker, SMALL + harness.scaled(LARGE))
                self.assertGreater(by_tc, by_worker)
                print(f"{source} {family.name}: {by_tc} bytes by tc, {by_worker} by the worker", flush=True)

    def test_U1_http3_translated_masquerade(self):
        self.through_tc("masquerade")

    def test_U1_http3_translated_preserve(self):
        self.through_tc("preserve")

    def translated_bytes(self):
        return sum(entry["bytes"] for entry in self.tpx.json("counters")["reasons"] if entry["name"] == "translated")


if __name__ == "__main__":
    harness.main()
