# SPDX-License-Identifier: Apache-2.0
"""A10, V8 and V9: whatever a configuration is, and wherever it lies, a faulty one changes nothing and takes no time."""
import os
import random
import resource
import time

import harness
import product

GOOD = sorted((harness.REPO / "tests/configs/good").glob("*.yaml"))
MUTATIONS = harness.scaled(120, least=20)
SECONDS = 60  # for one command; it takes a fraction of one on a machine of its own
MEMORY_KIB = 700 << 10
PLACE = r"tpx-bpf: \S+:\d+:\d+: \S"
CONFIG_CAP, SET_CAP = 4 << 20, 64 << 20


def rules(count):
    return "version: 1\ninterfaces: {lan: lan0}\nrules:\n" + "".join(
        f"  - {{name: r{i}, action: drop}}\n" for i in range(count))


def filled(text, size=CONFIG_CAP):
    return text[:size]


def with_rule(match, action="drop"):
    return f"version: 1\ninterfaces: {{lan: lan0}}\nrules:\n  - {{name: r, match: {match}, action: {action}}}\n"


def with_proxy(line):
    return f"version: 1\ninterfaces: {{lan: lan0}}\nproxy: {{{line}}}\n"


HOSTILE = {
    "as many rules as the cap lets in": filled(rules(200_000)),
    "flow lists in one another": "version: " + "[" * 1_000_000,
    "closed flow lists": "version: " + "[" * 100_000 + "]" * 100_000,
    "flow maps in one another": "version: " + "{a: " * 500_000,
    "block lists in one another": "version:\n " + "- " * 1_000_000,
    "block maps in one another": "".join(" " * i + "a:\n" for i in range(2500)),
    "quotes without end": 'version: "' + "x" * 4_000_000,
    "alias of itself": "version: &a [*a]\n",
    "alias of what is around it": "version: 1\ninterfaces: &a {lan: *a}\n",
    "aliases of aliases": "version: 1\na0: &a0 [x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)),
    "many aliases": "version: 1\na: &a [" + "x, " * 1000 + "x]\nb: [" + "*a, " * 300_000 + "*a]\n",
    "unknown alias": "version: *nowhere\n",
    "many anchors": "version: [" + ", ".join(f"&n{i} x" for i in range(200_000)) + "]\n",
    "the same key again and again": "version: 1\n" + "sets: {}\n" * 200_000,
    "many unknown keys": "version: 1\n" + "".join(f"k{i}: 1\n" for i in range(200_000)),
    "documents": "---\nversion: 1\n" * 200_000,
    "tags": "version: " + "!!str " * 500_000,
    "NUL": b"version: 1\ninterfaces: {lan: \0}\n",
    "nothing but NUL": bytes(1 << 20),
    "a byte that is no UTF-8": b"version: 1\ninterfaces: {lan: \xff}\n",
    "cut UTF-8": b"version: 1\ninterfaces: {lan: lan0}\n# \xe2\x82",
    "surrogate": b"version: 1\n# \xed\xa0\x80\n",
    "escape sequences": b"version: 1\n# \x1b[2J\n",
    "version overflows": "version: 18446744073709551617\ninterfaces: {lan: lan0}\n",
    "version is one, nearly": "version: 1e0\ninterfaces: {lan: lan0}\n",
    "port overflows": with_rule("{proto: tcp, dport: 4295032832}"),
    "port overflows twice": with_rule("{proto: tcp, dport: 1" + "0" * 100_000 + "}"),
    "port is negative": with_rule("{proto: tcp, dport: -1}"),
    "protocol overflows": with_rule("{proto: 257}"),
    "prefix overflows": with_rule("{dst: 192.0.2.0/4294967320}"),
    "workers overflow": with_proxy("workers: 4294967297"),
    "sessions overflow": with_proxy("max_sessions: 99999999999999999999999"),
    "time overflows": with_proxy("idle_timeout: 99999999999999999999h"),
    "time overflows when counted": with_proxy("idle_timeout: 4294967296s"),
    "mark overflows": "version: 1\ninterfaces: {lan: lan0}\nsteering: {mark_mask: 0x100000000}\n",
    "infinity": with_proxy("workers: .inf"),
}


class HostileConfig(product.TestCase):
    def setUp(self):
        super().setUp()
        self.lab.serve()
        self.tpx.start()
        for family in harness.FAMILIES:
            self.assert_proxied(family)
        self.file = self.tpx.folder / "hostile.yaml"
        self.before = self.seen()
        self.addCleanup(self.unchanged)

    def seen(self):
        """What a refused configuration must not touch."""
        status = self.tpx.status()
        return {"rules": self.tpx.rules(), **{key: status[key] for key in ("generation", "devices", "sk_lookup")
                                              if key in status}}

    def unchanged(self):
        self.assertEqual(self.seen(), self.before)
        for family in harness.FAMILIES:
            self.assert_proxied(family)

    def refused(self, path, pattern=PLACE, verbs=("check", "reload")):
        for verb in verbs:
            began = time.monotonic()
            argv = ("check", path) if verb == "check" else (verb, "--config", path)
            done = self.tpx.command(*argv, check=False, timeout=SECONDS, errors="replace")
            took = time.monotonic() - began
            self.assertEqual(done.returncode, 1, (verb, done.stdout))
            said = done.stderr if done.stderr else done.stdout
            self.assertRegex(said if verb == "reload" else "tpx-bpf: " + said, pattern)
            self.assertLess(len(said), 40_000, "all of it is quoted")
            self.assertLess(took, SECONDS)

    def test_V9_hostile_text_is_an_error_with_a_place(self):
        for name, text in HOSTILE.items():
            with self.subTest(name):
                self.file.write_bytes(text if isinstance(text, bytes) else text.encode())
                self.refused(self.file)
        if not self.tpx.sanitized():
            self.assertLess(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, MEMORY_KIB)

    def test_V9_ten_million_rules_do_not_get_in(self):
        with self.file.open("w") as out:
            out.write(rules(0))
            for _ in range(1000):
                out.write("  - {name: r, action: drop}\n" * 10_000)
        self.refused(self.file, r"hostile\.yaml: larger than 4 MiB")

    def mutated(self, random_):
        text = bytearray(random_.choice(GOOD).read_bytes())
        for _ in range(random_.randint(1, 4)):
            at = random_.randrange(max(1, len(text) - 1))
            kind = random_.randrange(4)
            if kind == 0:
                del text[at:at + random_.randint(1, 40)]
            elif kind == 1:
                text[at:at] = bytes([random_.choice(b"\0\x01\xff\xc0{}[]:,\"'*&!%@`\t-")])
            elif kind == 2:
                text[at:at + 1] = bytes([random_.randrange(256)])
            else:
                text = text[:at + 1]
        return bytes(text)

    def test_A10_mutated_configurations_change_nothing(self):
        """Each is refused by check and by reload alike; those that happen to be good are left out."""
        seed = int(os.environ.get("TPX_SEED", random.SystemRandom().randrange(1 << 32)))
        print(f"TPX_SEED={seed}", flush=True)
        random_ = random.Random(seed)
        for path in GOOD[0].parent.glob("*.txt"):
            (self.tpx.folder / path.name).write_bytes(path.read_bytes())
        refused = 0
        for _ in range(20 * MUTATIONS):
            self.file.write_bytes(self.mutated(random_))
            if self.tpx.command("check", self.file, check=False, errors="replace").returncode == 0:
                continue
            with self.subTest(seed=seed, number=refused):
                self.refused(self.file, verbs=("reload",))
            refused += 1
            if refused == MUTATIONS:
                break
        self.assertEqual(refused, MUTATIONS)

    def sources(self):
        """A file of each bad kind, what is said of it, and symbolic links to them."""
        folder = self.tpx.folder / "kinds"
        folder.mkdir()
        good = self.tpx.config.read_text()
        kinds = {"writable": "everybody may write to it", "fifo": "not a regular file", "folder": "not a regular file",
                 "large": "larger than", "missing": "No such file", "loop": "Too many levels of symbolic links",
                 "device": "not a regular file"}
        (folder / "writable").write_text(good)
        (folder / "writable").chmod(0o666)
        os.mkfifo(folder / "fifo", 0o600)
        (folder / "folder").mkdir()
        (folder / "device").symlink_to("/dev/zero")
        (folder / "loop").symlink_to(folder / "loop")
        with (folder / "large").open("wb") as out:
            out.truncate(SET_CAP + 1)
        for kind in list(kinds):
            (folder / f"link-to-{kind}").symlink_to(folder / kind)
            kinds[f"link-to-{kind}"] = kinds[kind]
        return {folder / kind: words for kind, words in kinds.items()}

    def test_V8_files_of_bad_kinds_are_refused_at_once(self):
        for path, words in self.sources().items():
            with self.subTest(path.name):
                self.refused(path, f"{path}: {words}")
                self.file.write_text(f"version: 1\ninterfaces: {{lan: lan0}}\nsets: {{s: {{file: {path}}}}}\n")
                self.refused(self.file, f"hostile.yaml:3:18: .*{path}: {words}")

    def test_V8_a_writable_file_behind_a_good_link_too(self):
        self.file.symlink_to(self.tpx.config)
        self.tpx.command("check", self.file)
        self.tpx.config.chmod(0o646)
        self.refused(self.file, "everybody may write to it")


if __name__ == "__main__":
    harness.main()
