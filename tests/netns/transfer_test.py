# SPDX-License-Identifier: Apache-2.0
"""Bytes: 64 connections at once move 1 GiB in each direction, every stream checked by SHA-256."""
import shutil
import unittest

import harness
import product

CONNECTIONS = 64


class Transfer(product.TestCase):
    def move(self, family):
        peer = self.lab.peer(self.lab.client, "transfer", family.server, 8080, "--count", CONNECTIONS,
                             "--bytes", harness.scaled(1 << 30) // CONNECTIONS)
        results = peer.read(timeout=300)
        self.assertEqual([r["error"] for r in results], [None] * CONNECTIONS)
        self.assertTrue(all(r["up_ok"] for r in results), "bytes towards the server differ")
        self.assertTrue(all(r["down_ok"] for r in results), "bytes towards the client differ")
        return results

    def check_counters(self, before):
        totals = self.tpx.totals()
        volume = harness.scaled(1 << 30) // CONNECTIONS * CONNECTIONS
        self.assertGreaterEqual(totals["bytes_up"] - before["bytes_up"], volume)
        self.assertGreaterEqual(totals["bytes_down"] - before["bytes_down"], volume)
        self.assertEqual(totals["sessions_total"] - before["sessions_total"], CONNECTIONS)

    def test_I5_bulk_masquerade(self):
        self.lab.serve()
        self.tpx.start(product.config(source="masquerade"))
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                before = self.tpx.totals()
                self.assertEqual({r["seen"][0] for r in self.move(family)}, {family.wan})
                self.check_counters(before)

    def test_I5_bulk_preserve(self):
        self.lab.serve()
        self.tpx.start(product.config(source="preserve"))
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                before = self.tpx.totals()
                for result in self.move(family):
                    self.assertEqual(result["seen"], result["source"])
                self.check_counters(before)

    @unittest.skipUnless(shutil.which("nginx") and shutil.which("curl"), "needs nginx and curl")
    def test_curl_and_nginx(self):
        body = self.tpx.folder / "file"
        body.write_bytes(bytes(range(256)) * 20_000)
        self.tpx.folder.chmod(0o755)
        conf = self.tpx.folder / "nginx.conf"
        conf.write_text(f"""
            daemon off; master_process off; pid {self.tpx.folder}/pid; error_log stderr;
            events {{ worker_connections 512; }}
            http {{ access_log off;
                server {{ listen 80; listen [::]:80; root {self.tpx.folder}; }} }}""")
        nginx = self.lab.server.popen("nginx", "-p", self.tpx.folder, "-c", conf)
        self.addCleanup(harness.end, nginx)
        self.tpx.start()
        copy = self.tpx.folder / "copy"
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                host = f"[{family.server}]" if ":" in family.server else family.server
                self.lab.client.run("curl", "-sSf", "--retry", 20, "--retry-delay", 0, "--retry-all-errors",
                                    "--retry-max-time", 10, "-o", copy, f"http://{host}/file")
                self.assertEqual(copy.read_bytes(), body.read_bytes())
        self.assertGreaterEqual(self.tpx.totals()["sessions_total"], 2)


if __name__ == "__main__":
    harness.main()
