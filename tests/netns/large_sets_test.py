# SPDX-License-Identifier: Apache-2.0
"""Sets of a million prefixes: what they say holds, and putting them in place disturbs nobody."""
import itertools
import json
import subprocess
import threading

import harness
import product

HOSTS = harness.scaled(1_000_000, least=20_000)
NETS = harness.scaled(200_000, least=5_000)


def prefixes(*more):
    """Scattered hosts of 10.0.0.0/8 and networks of 2001:db8:8000::/33, none of them in the lab."""
    yield "# hosts and networks\n"
    for i in range(HOSTS):
        address = (10 << 24) + 16 * i + 1
        yield f"10.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}\n"
    for i in range(NETS):
        yield f"2001:db8:{0x8000 + (i >> 15):x}:{2 * i & 0xffff:x}::/64\n"
    for prefix in more:
        yield f"{prefix}\n"


class LargeSets(product.TestCase):
    def setUp(self):
        super().setUp()
        self.lab.serve()

    def configure(self, *more):
        (self.tpx.folder / "listed.txt").write_text("".join(prefixes(*more)))
        return product.config([product.rule("reject", "listed", {"dst": "listed"}), product.rule("proxy", "rest")],
                              sets={"listed": {"file": "listed.txt"}})

    def test_V9_a_million_overlapping_prefixes(self):
        """Each within all the shorter ones around it, from a /8 down."""
        def nets(length):
            return (f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}/{length}\n" for n in range(0, 1 << 24, 1 << (32 - length)))
        around = itertools.chain.from_iterable(nets(length) for length in range(8, 27))
        for name, listed in (("around", around), ("within", nets(27))):
            (self.tpx.folder / f"{name}.txt").write_text("".join(itertools.islice(listed, HOSTS // 2)))
        self.tpx.write(product.config([product.rule("drop", "within", {"dst": "within"}),
                                       product.rule("reject", "around", {"dst": "around"}), product.rule("proxy", "rest")],
                                      sets={name: {"file": f"{name}.txt"} for name in ("around", "within")}))
        self.tpx.load()
        for address, verdict in (("10.0.0.2", "drop"), ("10.255.255.254", "reject"), ("9.255.255.255", "direct"),
                                 ("11.0.0.0", "direct")):
            self.assert_explained(verdict, (harness.V4.client, 50000), (address, 80))

    def pages(self):
        """The maps that hold the prefixes, by id, with the kernel memory that each takes."""
        dump = subprocess.run(["bpftool", "--json", "map", "dump", "pinned", self.tpx.pins / "tpx_prefixes"],
                              check=True, capture_output=True, text=True).stdout
        ids = [int.from_bytes(bytes(int(b, 16) for b in entry["value"]), "little") for entry in json.loads(dump)
               if "error" not in entry["value"]]
        return {i: size for i in ids if (size := self.memory(i)) is not None}

    @staticmethod
    def memory(number):
        shown = subprocess.run(["bpftool", "--json", "map", "show", "id", str(number)], check=False,
                               capture_output=True, text=True)
        return json.loads(shown.stdout)["bytes_memlock"] if shown.returncode == 0 else None

    def test_A9_a_million_prefixes_are_swapped_in_under_load(self):
        self.tpx.start(product.config())
        large = self.configure()
        failures, made, stop = [], [], threading.Event()

        def connect():
            while not stop.is_set():
                for family in harness.FAMILIES:
                    try:
                        made.append(self.lab.who(family, asks=False)[0] == family.wan)
                    except OSError as error:
                        failures.append(repr(error))

        load = threading.Thread(target=connect)
        load.start()
        try:
            for _ in range(4):
                self.tpx.reload(large)
        finally:
            stop.set()
            load.join()
        self.assertEqual(failures, [])
        self.assertTrue(made and all(made), f"{made.count(False)} of {len(made)} went direct")
        self.assertLess(sum(self.pages().values()), 100 << 20)
        self.tpx.reload(self.configure(harness.V4.server, "2001:db8:2::/48"))
        for family in harness.FAMILIES:
            self.assert_refused(family)
        self.assertGreaterEqual(self.tpx.rules()["listed"], 2)

    def test_A9_the_memory_of_an_old_policy_is_given_back(self):
        self.tpx.write(self.configure())
        self.tpx.load()
        large = {number: size for number, size in self.pages().items() if size > 1 << 20}
        self.assertTrue(large)
        self.tpx.reload(product.config())
        harness.wait_until(lambda: all(self.memory(number) is None for number in large), "the old pages are gone")
        self.assertLess(sum(self.pages().values()), 1 << 20)


if __name__ == "__main__":
    harness.main()
