# SPDX-License-Identifier: Apache-2.0
"""Rules that ask for the process behind a flow: what is told of them, and that packets from clients never match them."""
import os
import shutil

import harness
import product


class OwnerMatch(product.TestCase):
    def setUp(self):
        super().setUp()
        self.lab.serve()

    def configure(self, *rules, **more):
        return product.config([*rules, product.rule()], **{"local": True, **more})

    def test_packets_of_clients_never_match(self):
        self.tpx.start(self.configure(product.rule("drop", "user", {"uid": "0-9999"}),
                                      product.rule("drop", "no-user", {"uid": {"not": "daemon"}}),
                                      product.rule("reject", "group", {"gid": {"not": "daemon"}}),
                                      product.rule("drop", "root", {"cgroup": "/"}),
                                      product.rule("drop", "program", {"exe": {"not": harness.BINARY}})))
        for family in harness.FAMILIES:
            self.assert_proxied(family)
        hits = self.tpx.rules()
        self.assertEqual(hits["all"], 2)
        self.assertEqual({hits[name] for name in ("user", "no-user", "group", "root", "program")}, {0})

    def test_what_does_not_exist_is_told_until_a_reload_finds_it(self):
        root = harness.cgroup_root()
        if not root:
            self.skipTest("no cgroup v2")
        name = harness.unique()
        program = self.tpx.folder / "program"
        self.tpx.write(self.configure(product.rule("drop", "cgroup", {"cgroup": f"/{name}"}),
                                      product.rule("drop", "program", {"exe": str(program)})))
        missing = [f"cgroup: '/{name}' does not exist", f"exe: '{program}' does not exist"]
        for answer in (self.tpx.command("check", self.tpx.config), self.tpx.load(), self.tpx.reload()):
            for text in missing:
                self.assertRegex(answer.stderr, rf"warning: {self.tpx.config}:[0-9]+:[0-9]+: {text}")
        (root / name).mkdir()
        self.addCleanup(os.rmdir, root / name)
        shutil.copy("/bin/true", program)
        self.assertNotIn("does not exist", self.tpx.reload().stderr)

    def test_rules_that_can_never_match_are_told(self):
        rule = product.rule("drop", "never", {"uid": 0})
        self.tpx.write(self.configure(rule, local=False))
        for answer in (self.tpx.command("check", self.tpx.config), self.tpx.load(), self.tpx.reload()):
            self.assertRegex(answer.stderr, r"config.yaml:[0-9]+:[0-9]+: rule 'never' can never match: .*'local' is off")
        self.tpx.write(self.configure(rule))
        self.assertNotIn("warning", self.tpx.reload().stderr)

    def test_a_user_that_does_not_exist_keeps_the_old_policy(self):
        self.tpx.load()
        answer = self.tpx.reload(self.configure(product.rule("drop", "a", {"uid": "tpx-none"})), check=False)
        self.assertEqual(answer.returncode, 1)
        self.assertRegex(answer.stderr, r"config.yaml:[0-9]+:[0-9]+: uid: there is no user 'tpx-none'")
        self.assertEqual(set(self.tpx.rules()), {"all", "default"})


if __name__ == "__main__":
    harness.main()
