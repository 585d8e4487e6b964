# SPDX-License-Identifier: Apache-2.0
"""Many connections, one after the other and at once, leave nothing behind. I7."""
import json
import os
import pathlib
import re
import time

import harness
import product

IDLE_SESSION_BYTES = 2048


class Many(product.TestCase):
    def setUp(self):
        super().setUp()
        self.lab.serve()

    def descriptors(self):
        """Kinds of descriptors of the proxy, without the pipes its pool keeps."""
        folder = f"/proc/{self.tpx.pid}/fd"
        kinds = [os.readlink(f"{folder}/{fd}").split(":")[0] for fd in os.listdir(folder)]
        return sorted(kind for kind in kinds if kind != "pipe")

    def memory(self):
        lines = pathlib.Path(f"/proc/{self.tpx.pid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines)
        return {key: int(values[key].split()[0]) * 1024 for key in ("VmRSS", "RssAnon", "VmData")}

    @staticmethod
    def kernel_memory():
        """Bytes of all slab objects of the machine. A look into /proc/PID/fd leaves an inode and a dentry for each
        descriptor; those are taken off."""
        time.sleep(2)  # what was freed lately is freed by RCU
        lines = pathlib.Path("/proc/slabinfo").read_text().splitlines()[2:]
        caches = {name: (int(active), int(size)) for name, active, _, size, *_ in map(str.split, lines)}
        looked_at, size = caches.get("proc_inode_cache", (0, 0))
        of_each = size + sum(caches[name][1] for name in ("dentry", "lsm_inode_cache") if name in caches)
        return sum(active * size for active, size in caches.values()) - looked_at * of_each

    def socket_buffers(self):
        """Bytes in the buffers of the proxy's connected sockets."""
        lines = self.lab.gateway.run("ss", "-HOtnmp", "state", "connected").stdout.splitlines()
        found = [re.search(r"skmem:\(r(\d+),rb\d+,t(\d+),tb\d+,f(\d+),w(\d+),", line)
                 for line in lines if f"pid={self.tpx.pid}," in line]
        return [sum(map(int, match.groups())) for match in found]

    def hold(self, count):
        """So many idle connections of each family, and by whom the server takes them to be."""
        holders = [self.lab.peer(self.lab.client, "hold", family.server, 8080, "--count", count)
                   for family in harness.FAMILIES]
        for holder in holders:
            holder.on_first = None  # nobody asks explain: what that takes of the kernel's memory would be measured too
        return holders, [holder.read(300) for holder in holders]

    def direct_session_bytes(self, count):
        """Of kernel memory that a connection past the proxy takes: all of it for the two ends."""
        self.tpx.reload(product.config([product.rule("bypass")]))
        before = self.kernel_memory()
        holders, opened = self.hold(count)
        self.assertEqual(opened, [{"failures": {}, "sources": {f.client: count}} for f in harness.FAMILIES])
        bytes_each = (self.kernel_memory() - before) // (2 * count)
        for holder in holders:
            holder.ask("close")
        self.tpx.reload(product.config())
        return bytes_each

    def entries(self, name):
        path = next(self.tpx.pins.rglob(name))
        dump = harness.run(["bpftool", "-j", "map", "dump", "pinned", path]).stdout
        return json.loads(dump) if dump.strip() else []

    def assert_nothing_left(self, descriptors):
        harness.wait_until(lambda: self.tpx.sessions() == 0, "all sessions end")
        harness.wait_until(lambda: len(self.descriptors()) <= len(descriptors), "descriptors are closed")
        self.assertEqual(self.descriptors(), descriptors)
        for name in ("tpx_flows", "tpx_frags"):
            self.assertEqual(self.entries(name), [], name)
        totals = self.tpx.totals()
        self.assertEqual(totals["connect_failed"], 0)
        self.assertEqual(totals["accept_errors"], 0)
        self.assertLessEqual(totals["pipes"], 2 * 64)

    def warm_up(self, **options):
        self.tpx.start(product.config(**options))
        for family in harness.FAMILIES:
            self.lab.who(family)
        self.assertEqual(self.tpx.totals()["sessions_total"], 2)
        harness.wait_until(lambda: self.tpx.sessions() == 0, "the first sessions end")
        return self.descriptors()

    def one_after_the_other(self, source):
        descriptors = self.warm_up(source=source)
        count = harness.scaled(20_000) // 2
        peers = [self.lab.peer(self.lab.client, "burst", family.server, 8080, "--count", count)
                 for family in harness.FAMILIES]
        for peer in peers:
            self.assertEqual(peer.read(300)["failures"], {})
        self.assertEqual(self.tpx.totals()["sessions_total"], 2 * count + 2)
        self.assert_nothing_left(descriptors)

    def test_I7_20000_connections_masquerade(self):
        self.one_after_the_other("masquerade")

    def test_I7_20000_connections_preserve(self):
        self.one_after_the_other("preserve")

    def test_I7_8000_connections_at_once(self):
        descriptors = self.warm_up()
        count = harness.scaled(8000) // 2
        ends = self.direct_session_bytes(count)
        before, kernel_before = self.memory(), self.kernel_memory()
        holders, opened = self.hold(count)
        self.assertEqual(opened, [{"failures": {}, "sources": {f.wan: count}} for f in harness.FAMILIES])
        self.assertEqual(self.tpx.sessions(), 2 * count)
        kernel = (self.kernel_memory() - kernel_before) // (2 * count)
        each = {key: (value - before[key]) // (2 * count) for key, value in self.memory().items()}
        print(f"bytes of memory for each of {2 * count} idle sessions: {each}; of the kernel's, in an otherwise quiet "
              f"machine: {kernel - ends} (with both ends {kernel}, these alone {ends})", flush=True)
        if not self.tpx.sanitized() and harness.SCALE >= 0.5:
            self.assertLessEqual(max(each["VmRSS"], each["RssAnon"]), IDLE_SESSION_BYTES)
        self.assertEqual(self.socket_buffers(), [0] * (4 * count), "idle sockets hold buffers")
        for holder in holders:
            self.assertEqual(holder.ask("check"), {"ok": count})
            holder.ask("close")
        self.assert_nothing_left(descriptors)

    def test_I7_crashed_clients_leave_nothing(self):
        descriptors = self.warm_up()
        holder = self.lab.peer(self.lab.client, "hold", harness.V6.server, 8080, "--count", 500)
        holder.read()
        harness.end(holder.process)
        self.assert_nothing_left(descriptors)


if __name__ == "__main__":
    harness.main()
