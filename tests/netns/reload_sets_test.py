# SPDX-License-Identifier: Apache-2.0
"""`reload --sets`: the files of the loaded configuration's sets are read again, and nothing else is."""
import os

import harness
import product


class ReloadSets(product.TestCase):
    def setUp(self):
        super().setUp()
        self.lab.serve()
        self.blocked = self.tpx.folder / "lists" / "blocked.txt"
        self.blocked.parent.mkdir()
        self.blocked.write_text("203.0.113.0/24\n")

    @staticmethod
    def configure(rules=None, **more):
        return product.config(rules or [product.rule("reject", "blocked", {"dst": "blocked"}), product.rule()],
                              sets={"blocked": {"file": "lists/blocked.txt"}, "few": ["192.0.2.7"]}, **more)

    def reread(self, **kwargs):
        return self.tpx.command("reload", "--sets", **kwargs)

    def refused(self):
        for family in harness.FAMILIES:
            with self.subTest(family=family.name):
                self.assert_refused(family)

    def proxied(self):
        for family in harness.FAMILIES:
            self.assert_proxied(family)

    def test_A9_only_the_sets_change(self):
        self.tpx.start(self.configure())
        self.proxied()
        before = self.tpx.status()
        self.tpx.write(self.configure([product.rule("drop")], on_proxy_down="closed"))  # is not to be applied
        self.blocked.write_text(f"203.0.113.0/24\n{harness.V4.server}\n{harness.V6.server}\n{harness.V4.server}\n")
        answer = self.reread(cwd="/").stdout  # its folder is not where the sets are
        self.assertIn("set blocked: 3 prefixes (was 1)\n", answer)
        self.assertNotIn("few", answer)
        self.refused()
        after = self.tpx.status()
        self.assertEqual(after["generation"], before["generation"] + 1)
        self.assertEqual(set(self.tpx.rules()), {"blocked", "all", "default"})
        self.assertEqual(self.tpx.rules()["all"], 2)
        self.blocked.write_text("".join(f"10.{i >> 8}.{i & 255}.1\n" for i in range(1234)))
        self.assertIn("set blocked: 1,234 prefixes (was 3)\n", self.reread().stdout)
        self.proxied()
        self.tpx.reload()  # now the changed file is
        self.assertEqual(set(self.tpx.rules()), {"all", "default"})

    def test_A9_connections_go_on(self):
        self.tpx.start(self.configure())
        pairs = [self.pair(family) for family in harness.FAMILIES]
        self.blocked.write_text(f"{harness.V4.server}\n{harness.V6.server}\n")
        self.reread()
        for client, server in pairs:
            client.sendall(b"on")
            self.assertEqual(product.receive(server, 2), b"on")
        self.refused()

    def test_A9_the_folder_of_a_relative_path_is_kept(self):
        self.tpx.write(self.configure())
        folder = self.tpx.folder
        for verb in ("load", "reload"):
            self.tpx.command(verb, "--config", os.path.join(folder.name, "config.yaml"), cwd=folder.parent)
            self.blocked.write_text("192.0.2.0/24\n198.51.100.0/24\n")
            self.assertIn("set blocked: 2 prefixes (was 1)", self.reread(cwd="/").stdout)
            self.blocked.write_text("203.0.113.0/24\n")

    def test_A9_it_is_about_what_run_loaded_too(self):
        self.tpx.write(self.configure())
        self.tpx.load()
        self.tpx.start()
        self.assertIn("set blocked: 1 prefixes (was 1)", self.reread().stdout)
        self.assertEqual(self.tpx.stop(), 0)
        self.tpx.command("reload", "--sets")

    def failed(self, *words):
        """Exit status 1 with these words; the old generation runs on."""
        before = self.tpx.status()
        done = self.reread(check=False)
        self.assertEqual(done.returncode, 1, done.stdout)
        for word in words:
            self.assertIn(word, done.stderr)
        after = self.tpx.status()
        self.assertEqual(after["generation"], before["generation"])
        self.assertEqual(after["devices"], before["devices"])

    def test_A10_a_faulty_set_changes_nothing(self):
        self.tpx.start(self.configure())
        for text, place in (("203.0.113.0/24\n  203.0.113.300\n", "2:3: "), ("198.51.100.1/24\n", "1:1: ")):
            with self.subTest(place):
                self.blocked.write_text(text)
                self.failed(f"{self.blocked}:{place}")
        self.blocked.write_text("203.0.113.0/24\n")
        self.blocked.chmod(0o666)
        self.failed(f"{self.tpx.config}:", "chmod o-w")
        self.blocked.unlink()
        self.failed(f"{self.tpx.config}:", "No such file or directory")
        os.mkfifo(self.blocked)
        self.failed(f"{self.tpx.config}:", "not a regular file")
        self.proxied()

    def test_A10_without_sets_it_says_so(self):
        self.assertIn("nothing is loaded", self.reread(check=False).stderr)
        self.tpx.command("load", "--lan", "lan0")
        self.failed("there are no sets: what is loaded does not come from a file")
        self.tpx.reload(product.config(sets={"few": ["192.0.2.7"]}))
        self.failed("there are no sets in files", str(self.tpx.config))

    def test_a_configuration_beside_it_is_wrong_usage(self):
        for more in (("--config", self.tpx.config), ("--lan", "lan0")):
            done = self.tpx.command("reload", "--sets", *more, check=False)
            self.assertEqual(done.returncode, 2)
            self.assertIn("--sets", done.stderr)
        self.assertEqual(self.tpx.command("load", "--sets", check=False).returncode, 2)


if __name__ == "__main__":
    harness.main()
