# SPDX-License-Identifier: Apache-2.0
"""L7 to L9: the proxy ends because it was asked to, or because its world went away."""
import contextlib
import fcntl
import pathlib
import random
import signal
import subprocess
import time

import harness
import product
import state

GRACE = 10  # seconds without a LAN device, before the proxy gives up


class Shutdown(product.TestCase):
    def long_flow(self, family):
        client, server = self.pair(family)

        def round_trip(number):
            data = str(number).encode().rjust(1000)
            client.sendall(data)
            self.assertEqual(product.receive(server, 1000), data)
            server.sendall(data)
            self.assertEqual(product.receive(client, 1000), data)
        return client, server, round_trip

    def test_L7_drain(self):
        self.lab.serve()
        self.tpx.start(product.config(proxy={"drain_timeout": "30s"}))
        flows = [self.long_flow(family) for family in harness.FAMILIES]
        loops = {f: self.lab.peer(self.lab.client, "loop", f.server, 8080) for f in harness.FAMILIES}
        for loop in loops.values():
            loop.read()
        time.sleep(0.5)
        self.tpx.kill(signal.SIGTERM)
        asked = time.monotonic()
        for number in range(20):
            for _, _, round_trip in flows:
                round_trip(number)
            time.sleep(0.05)
        self.assertIsNone(self.tpx.daemon.poll(), "did not wait for its sessions")
        for family in harness.FAMILIES:  # as the loops find it
            self.assert_explained("direct", (family.client, 50000), (family.server, 8080))
        for client, server, _ in flows:
            client.close()
            self.assertEqual(server.recv(1), b"")
            server.close()
        self.assertEqual(self.tpx.daemon.wait(20), 0)
        for family, loop in loops.items():
            outcomes = loop.ask("stop")
            self.assertEqual([o for o in outcomes if o[2] != "ok"], [], family.name)
            self.assertEqual({o[3] for o in outcomes if o[0] > asked + 0.5}, {family.client}, "new flows go direct")

    @contextlib.contextmanager
    def another_command(self):
        """One that is changing the instance, and takes its time."""
        with open(f"/run/{self.tpx.name}/lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def verdict(self, family, address):
        ends = product.end(family.client, 50000), product.end(address, 8080)
        return self.tpx.json("explain", "tcp", *ends)["verdict"]

    def test_another_command_takes_its_time(self):
        """What changes meanwhile is not forgotten, and signals are obeyed."""
        self.lab.serve()
        self.tpx.start(product.config(proxy={"drain_timeout": "0s"}))
        for family, address in ((harness.V4, "203.0.113.77"), (harness.V6, "2001:db8:77::77")):
            self.assertEqual(self.verdict(family, address), "proxy")
            with self.another_command():
                self.lab.gateway.ip(f"address add {address} dev lo")
                harness.wait_until(lambda: self.tpx.log.read_text().count("trying again each second"), "it says so")
                time.sleep(1.5)
            harness.wait_until(lambda f=family, a=address: self.verdict(f, a) == "direct", "it is the gateway's own")
        self.assertLessEqual(self.tpx.log.read_text().count("trying again each second"), 2)
        with self.another_command():
            self.lab.gateway.ip("address add 203.0.113.78/32 dev lo")
            self.tpx.kill(signal.SIGTERM)
            self.assertEqual(self.tpx.daemon.wait(5), 0)

    def test_L7_drain_timeout_resets_the_rest(self):
        self.tpx.start(product.config(proxy={"drain_timeout": "1s"}))
        socks = [sock for family in harness.FAMILIES for sock in self.pair(family)]
        self.tpx.kill(signal.SIGTERM)
        for sock in socks:
            with self.assertRaises(ConnectionResetError):
                sock.recv(1)
        self.assertEqual(self.tpx.daemon.wait(20), 0)

    def test_L8_second_sigterm_ends_at_once(self):
        self.tpx.start(product.config(proxy={"drain_timeout": "10m"}))
        socks = [sock for family in harness.FAMILIES for sock in self.pair(family)]
        self.tpx.kill(signal.SIGTERM)
        time.sleep(0.5)
        self.assertIsNone(self.tpx.daemon.poll())
        self.tpx.kill(signal.SIGTERM)
        self.assertEqual(self.tpx.daemon.wait(10), 0)
        for sock in socks:
            with self.assertRaises(ConnectionResetError):
                sock.recv(1)

    def test_L8_two_sigterms_at_random_moments(self):
        self.lab.serve()
        before = state.of(self.lab.gateway)
        seed = random.randrange(1 << 30)
        print(f"seed {seed}", flush=True)
        dice = random.Random(seed)
        for number in range(harness.scaled(30, 5)):
            delays = dice.uniform(0, 0.3), dice.uniform(0, 0.05)
            with self.subTest(number=number, delays=delays):
                daemon = self.tpx.spawn()
                for delay in delays:
                    time.sleep(delay)
                    daemon.send_signal(signal.SIGTERM)
                # before the handler is there the signal itself ends it
                self.assertIn(daemon.wait(20), (0, -signal.SIGTERM))
                self.assert_direct(harness.V4)
                if number % 3 == 2:
                    self.tpx.detach()
                    self.assertEqual(state.difference(before, state.of(self.lab.gateway)), [])
        self.tpx.start()
        self.assert_proxied(harness.V4)

    def test_L6_crash_loop_leaves_nothing(self):
        self.tpx.load()
        loaded = state.of(self.lab.gateway)
        objects = state.objects(self.tpx.pins)
        for _ in range(10):
            self.tpx.start()
            self.tpx.crash()
        self.assertEqual(state.difference(loaded, state.of(self.lab.gateway)), [])
        self.assertEqual(objects, state.objects(self.tpx.pins))

    def test_L9_namespace_deleted_under_the_proxy(self):
        """Its devices are gone. It may end with an error or wait for them; it must not spin, nor hang on SIGTERM."""
        self.tpx.start()
        for space in (self.lab.gateway, self.lab.client, self.lab.server):
            space.close()
        time.sleep(0.5)
        if self.tpx.daemon.poll() is None:
            before = self.cpu_seconds()
            time.sleep(1)
            self.assertLess(self.cpu_seconds() - before, 0.3, "spins")
            inside = [*self.tpx.space.argv(*self.tpx.argv("detach"))]
            inside = [word.replace(self.lab.gateway.path, f"/proc/{self.tpx.pid}/ns/net") for word in inside]
            harness.run(inside)
            self.assertEqual(self.tpx.stop(), 0)
        else:
            self.assertEqual(self.tpx.daemon.returncode, 1)
            self.assertIn("network namespace", self.tpx.log.read_text())
            self.tpx.daemon = None
        self.assertFalse(self.tpx.pins.exists(), "pins are left")

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.tpx.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def test_L10_run_takes_over_while_a_device_is_gone(self):
        """A device that is named but absent hinders loading, not the start of a proxy on what is loaded."""
        self.lab.serve()
        self.lab.link(self.lab.client, "c9", self.lab.gateway, "lan9")
        content = product.config()
        content["interfaces"]["lan"].append("lan9")
        self.tpx.write(content)
        self.tpx.load()
        self.lab.client.ip("link del c9")
        self.tpx.start()
        self.assertEqual(self.tpx.status()["generation"], 1, "the loaded configuration was published again")
        for family in harness.FAMILIES:
            self.assert_proxied(family)

    def test_L10_devices_come_and_go(self):
        self.lab.serve()
        self.tpx.start()
        for _ in range(5):
            self.lab.client.ip("link del c0")
            self.lab.link(self.lab.client, "c0", self.lab.gateway, "lan0")
            for family in harness.FAMILIES:
                self.lab.address(self.lab.client, "c0", family, family.client, family.lan)
                self.lab.address(self.lab.gateway, "lan0", family, family.lan)
            for family in harness.FAMILIES:
                self.wait_proxied(family, "the new device is attached")

    def lan_device(self, number):
        """One more network of clients, or the first one again."""
        self.lab.link(self.lab.client, f"c{number}", self.lab.gateway, f"lan{number}")
        if number == 0:
            for family in harness.FAMILIES:
                self.lab.address(self.lab.client, "c0", family, family.client, family.lan)
                self.lab.address(self.lab.gateway, "lan0", family, family.lan)

    def start_with_two_lan_devices(self):
        self.lab.serve()
        self.lan_device(1)
        self.tpx.start({**product.config(), "interfaces": {"lan": ["lan0", "lan1"], "wan": ["wan0"]}})

    def lose_lan_devices(self):
        for number in (1, 0):
            self.lab.gateway.ip(f"link del lan{number}")
        return time.monotonic()

    def test_L9_last_lan_device_vanishes(self):
        self.start_with_two_lan_devices()
        _, server = self.pair(harness.V4)
        lost = self.lose_lan_devices()
        self.assertEqual(self.tpx.daemon.wait(30), 1)
        self.assertGreater(time.monotonic() - lost, GRACE - 2, "did not wait for the device to come back")
        self.assertIn("no LAN device is left", self.tpx.log.read_text())
        with self.assertRaises(ConnectionResetError):
            server.recv(1)
        for number in (0, 1):  # and the supervisor starts it again
            self.lan_device(number)
        self.tpx.start()
        for family in harness.FAMILIES:
            self.wait_proxied(family, "it serves again")

    def test_L9_lan_device_comes_back_in_time(self):
        """One of two is enough."""
        self.start_with_two_lan_devices()
        lost = self.lose_lan_devices()
        time.sleep(GRACE / 2)
        self.lan_device(0)
        for family in harness.FAMILIES:
            self.wait_proxied(family, "the new device is attached")
        time.sleep(max(0, lost + GRACE + 4 - time.monotonic()))
        self.assertIsNone(self.tpx.daemon.poll(), "ended all the same")
        for family in harness.FAMILIES:
            self.assert_proxied(family)
        self.assertEqual(self.tpx.stop(), 0)

    def test_L9_output_pipe_closed(self):
        """A log nobody reads any more does not end the proxy."""
        self.lab.serve()
        self.tpx.start()
        self.tpx.crash()
        self.tpx.detach()
        self.tpx.daemon = self.lab.gateway.popen(*self.tpx.argv("run", "--config", self.tpx.config),
                                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.wait_proxied(harness.V4, "traffic is proxied")
        self.tpx.daemon.stdout.close()
        for _ in range(20):
            self.assert_proxied(harness.V4)
        self.assertEqual(self.tpx.stop(), 0)


if __name__ == "__main__":
    harness.main()
