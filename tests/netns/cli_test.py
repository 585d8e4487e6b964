# SPDX-License-Identifier: Apache-2.0
"""The commands as a user meets them: help, exit codes, what goes to which stream, JSON as published."""
import json

import harness
import product
import schema

COMMANDS = ("load", "run", "reload", "upgrade", "detach", "status", "counters", "explain", "trace", "check", "version")
GOOD = sorted((harness.REPO / "tests/configs/good").glob("*.yaml"))
BAD = sorted((harness.REPO / "tests/configs/bad").glob("*.yaml"))


class Cli(product.TestCase):
    def call(self, *args):
        return self.tpx.command(*args, check=False)

    def assert_fits(self, document, name):
        published = json.loads((harness.REPO / f"docs/schema/{name}.schema.json").read_text())
        self.assertEqual(schema.errors_of(document, published), [])

    def test_help_of_every_command(self):
        overview = self.call("--help")
        self.assertEqual((overview.returncode, overview.stderr), (0, ""))
        for command in COMMANDS:
            with self.subTest(command):
                self.assertIn(command, overview.stdout)
                done = self.call(command, "--help")
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertIn(command, done.stdout)

    def test_usage_errors_exit_2(self):
        for args in ((), ("nonsense",), ("load", "--nonsense"), ("check",), ("status", "extra"),
                     ("load", "--config"), ("load", "--config", self.tpx.config, "--lan", "lan0"),
                     ("--instance", "a/b", "status"), ("--instance", "..", "status"), ("--instance", "", "status")):
            with self.subTest(args=args):
                done = self.call(*args)
                self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
                self.assertEqual(done.stdout, "")
                self.assertTrue(done.stderr.strip())

    def test_failures_exit_1(self):
        for args in (("load", "--config", "/nonexistent"), ("run", "--config", "/nonexistent"),
                     ("check", "/nonexistent"), ("reload", "--config", "/nonexistent"),
                     ("reload", "--config", self.tpx.config), ("counters",)):
            with self.subTest(args=args):
                done = self.call(*args)
                self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
                self.assertEqual(done.stdout, "")
                self.assertTrue(done.stderr.strip())

    def test_load_without_a_file(self):
        self.assertEqual(self.call("load", "--lan", "lan0", "--wan", "wan0").returncode, 0)
        devices = {(d["name"], d["role"]) for d in self.tpx.status()["devices"]}
        self.assertEqual(devices, {("lan0", "lan"), ("wan0", "wan")})
        self.tpx.detach()

    def test_reload_without_a_file(self):
        self.call("load", "--lan", "lan0")
        done = self.call("reload", "--lan", "lan0", "--wan", "wan0")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual({d["name"] for d in self.tpx.status()["devices"]}, {"lan0", "wan0"})

    def test_usage_errors_name_what_is_wrong(self):
        for args, words in (((), "a command is missing"), (("nonsense",), "'nonsense'"), (("--wrong",), "'--wrong'"),
                            (("status", "extra"), "extra; see 'tpx-bpf status --help'")):
            with self.subTest(args=args):
                self.assertIn(words, self.call(*args).stderr)
                self.assertTrue(self.call(*args).stderr.startswith("tpx-bpf: "))

    def test_columns_stay_in_line(self):
        long = "a-rule-whose-name-is-longer-than-others"
        self.tpx.write(product.config([product.rule(name=long, match={"dport": [1]}),
                                       product.rule("drop", "short", {"dport": [2]})]))
        self.tpx.load()
        lines = [line for line in self.call("status").stdout.splitlines() if " new flows" in line and line[0] == " "]
        self.assertEqual(len(lines), 3)
        self.assertEqual(len({line.index("new flows") for line in lines}), 1, lines)
        self.assertIn("nothing yet", self.call("counters").stdout)

    def test_run_without_a_file(self):
        self.lab.serve()
        self.tpx.daemon = self.lab.gateway.popen(*self.tpx.argv("run", "--lan", "lan0", "--wan", "wan0"))
        for family in harness.FAMILIES:
            self.wait_proxied(family, "traffic is proxied")
        self.assertEqual(self.tpx.stop(), 0)

    def test_dry_run_names_devices(self):
        done = self.call("load", "--config", self.tpx.config, "--dry-run")
        self.assertEqual(done.returncode, 0, done.stderr)
        for device in ("lan0", "wan0"):
            self.assertIn(device, done.stdout)

    def test_check(self):
        self.assertTrue(GOOD and BAD)
        for path in GOOD:
            with self.subTest(path.name):
                self.assertEqual(self.call("check", path).returncode, 0)
                done = self.call("check", path, "--json")
                self.assertEqual(done.returncode, 0)
                self.assert_fits(json.loads(done.stdout), "check")
        for path in BAD:
            with self.subTest(path.name):
                done = self.call("check", path)
                self.assertEqual(done.returncode, 1)
                self.assertRegex(done.stderr, r"^\S+:\d+:\d+: ")
                done = self.call("check", path, "--json")
                self.assertEqual(done.returncode, 1)
                document = json.loads(done.stdout)
                self.assert_fits(document, "check")
                self.assertFalse(document["ok"])
                self.assertTrue(document["errors"])

    def test_json_fits_the_published_schemas(self):
        self.assert_fits(self.tpx.json("version"), "version")
        self.assert_fits(self.tpx.status(), "status")
        self.tpx.load()
        self.assert_fits(self.tpx.status(), "status")
        self.assert_fits(self.tpx.json("counters"), "counters")
        self.tpx.start()
        self.lab.serve()
        holder = self.lab.peer(self.lab.client, "hold", harness.V4.server, 8080, "--count", 3)
        holder.read()
        self.assert_fits(self.tpx.status(), "status")
        counters = self.tpx.json("counters")
        self.assert_fits(counters, "counters")
        self.assertEqual(counters["totals"]["sessions"], 3)
        self.assertEqual(sum(w["sessions"] for w in self.tpx.status()["proxy"]["workers"]), 3)
        self.tpx.crash()
        self.assert_fits(self.tpx.status(), "status")
        self.assert_fits(self.tpx.json("counters"), "counters")

    def test_text_for_people(self):
        for words in (("version",), ("status",)):
            done = self.call(*words)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertTrue(done.stdout)
        self.lab.serve()
        self.tpx.start()
        for family in harness.FAMILIES:
            self.lab.who(family)
        text = self.call("status").stdout
        for word in ("lan0", "wan0", str(self.tpx.pid)):
            self.assertIn(word, text)
        self.assertIn("rule_proxy", self.call("counters").stdout)

    def test_output_that_nobody_takes(self):
        """A closed pipe or a full device is a failure that is told, not a crash."""
        done = harness.run([*self.lab.gateway.argv("sh", "-c", 'exec "$@" >/dev/full', "sh",
                                                   *self.tpx.argv("version"))], check=False)
        self.assertEqual(done.returncode, 1)

    def test_names_match_the_contract(self):
        """The published names are the symbols of the shared header, in lower case."""
        self.tpx.load()
        counters = self.tpx.json("counters")
        for file, macro, names in (
                ("tpx_reasons.def", "TPX_REASON(", [r["name"] for r in counters["reasons"]]),
                ("tpx_counters.def", "TPX_COUNTER(", list(counters["totals"]))):
            lines = (harness.REPO / "maps" / file).read_text().splitlines()
            symbols = [line.split("(")[1].split(",")[0].lower() for line in lines if line.startswith(macro)]
            self.assertEqual(names, symbols)


if __name__ == "__main__":
    harness.main()
