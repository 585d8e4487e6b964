# SPDX-License-Identifier: Apache-2.0
"""One instance of tpx-bpf, driven through its commands as a user would."""
import functools
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import harness


def rule(action="proxy", name="all", match=None, **more):
    return {"name": name, "match": {"proto": "tcp", **(match or {})}, "action": action, **more}


def udp_rule(action="proxy", name="udp", match=None, **more):
    return rule(action, name, {"proto": "udp", **(match or {})}, **more)


def config(rules=None, proxy=None, **more):
    """A configuration as a dict; JSON is YAML, so it is written as JSON."""
    return {"version": 1, "interfaces": {"lan": ["lan0"], "wan": ["wan0"]},
            "rules": rules if rules is not None else [rule()], "default": "bypass",
            "proxy": {"workers": 2, **(proxy or {})}, **more}


def receive(sock, size):
    """Exactly so many bytes, or fewer at the end of the stream."""
    got = bytearray()
    while len(got) < size and (more := sock.recv(size - len(got))):
        got += more
    return bytes(got)


def end(address, port):
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


# What explain says of a new flow while nobody is there to take it, by the rule's on_proxy_down.
WHILE_DOWN = {"open": "direct", "closed": "drop", "reset": "reject"}
# What explain says of a flow that reaches its server: what the server answers does not tell which it is.
ARRIVES = ("direct", "proxy", "redirect")


def sees_gateway(explained):
    """Whether the server of a flow sees the gateway's address, according to explain."""
    if explained["verdict"] == "redirect":
        return True
    return explained["verdict"] == "proxy" and explained["steered"]["source"] == "masquerade"


class Instance:
    def __init__(self, space):
        self.space = space
        self.name = harness.unique()
        self.pins = harness.BPFFS / self.name
        self._folder = tempfile.TemporaryDirectory(prefix=self.name)
        self.folder = pathlib.Path(self._folder.name)
        self.config = self.folder / "config.yaml"
        self.log = self.folder / "log"
        self.daemon = None
        self.write(config())

    def write(self, content):
        self.config.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
        return self.config

    def argv(self, *args):
        return [harness.BINARY, "--instance", self.name, *map(str, args)]

    def command(self, *args, check=True, **kwargs):
        return self.space.run(*self.argv(*args), check=check, **kwargs)

    def load(self, **kwargs):
        return self.command("load", "--config", self.config, **kwargs)

    def reload(self, content=None, extra=(), **kwargs):
        if content is not None:
            self.write(content)
        return self.command("reload", "--config", self.config, *extra, **kwargs)

    def detach(self, **kwargs):
        return self.command("detach", **kwargs)

    def json(self, *args):
        return json.loads(self.command(*args, "--json").stdout)

    def status(self):
        return self.json("status")

    def reasons(self):
        return {entry["name"]: entry["packets"] for entry in self.json("counters")["reasons"]}

    def rules(self):
        return {entry["name"]: entry["packets"] for entry in self.json("counters")["rules"]}

    def totals(self):
        return self.json("counters")["totals"]

    def sessions(self):
        return self.totals().get("sessions", 0)

    @property
    def pid(self):
        return self.daemon.pid

    def spawn(self, *wrapper, before=(), extra=(), notify=None):
        """Starts `run` without waiting for it."""
        environment = dict(os.environ, **({"NOTIFY_SOCKET": notify} if notify else {}))
        with self.log.open("a") as log:
            self.daemon = self.space.popen(*wrapper, *self.argv("run", "--config", self.config, *extra),
                                           stdout=log, stderr=log, env=environment)
        return self.daemon

    def start(self, content=None, wrapper=(), seconds=20):
        """Starts `run` and waits for its READY=1."""
        if content is not None:
            self.write(content)
        path = str(self.folder / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(path)
            ready.settimeout(0.1)
            try:
                self.spawn(*wrapper, notify=path)
                self._await(ready, time.monotonic() + seconds)
            finally:
                os.unlink(path)
        return self.daemon

    def _await(self, ready, deadline):
        while True:
            try:
                if b"READY=1" in ready.recv(4096):
                    return
            except TimeoutError:
                pass
            if self.daemon.poll() is not None:
                raise AssertionError(f"run ended with {self.daemon.returncode}: {self.log.read_text()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"run is not ready: {self.log.read_text()}")

    def kill(self, number):
        self.daemon.send_signal(number)

    def stop(self, seconds=20):
        """SIGTERM twice: the second one cuts the drain short. Returns the exit code."""
        if self.daemon is None:
            return 0
        daemon, self.daemon = self.daemon, None
        if daemon.poll() is None:
            daemon.send_signal(signal.SIGTERM)
            try:
                return daemon.wait(0.5)
            except subprocess.TimeoutExpired:
                daemon.send_signal(signal.SIGTERM)
            try:
                return daemon.wait(seconds)
            except subprocess.TimeoutExpired:
                harness.end(daemon)
                raise AssertionError(f"run did not end within {seconds} s of SIGTERM") from None
        return daemon.returncode

    def crash(self):
        """SIGKILL, and waits for the end."""
        harness.end(self.daemon)
        self.daemon = None

    def close(self):
        try:
            if self.daemon is not None:
                harness.end(self.daemon)
            if os.path.exists(self.space.path):
                self.detach(check=False)
        finally:
            self._folder.cleanup()

    def listen_port(self):
        """The proxy's listening port, from the socket table."""
        table = self.space.run("ss", "-Hltnp").stdout
        ports = {line.split()[3].rsplit(":", 1)[1] for line in table.splitlines() if f"pid={self.pid}," in line}
        if len(ports) != 1:
            raise AssertionError(f"listening ports of the proxy: {ports}")
        return int(ports.pop())

    @staticmethod
    @functools.cache
    def sanitized():
        return b"libasan.so" in pathlib.Path(harness.BINARY).read_bytes()


class TestCase(unittest.TestCase):
    """A lab and an instance of its own for each test.

    Whenever it shows what became of a flow (a server says as whom it sees a client,
    or the client gets nothing but silence or an error), `explain` is asked about the
    same flow and has to agree: see `explained`.
    """

    asks_explain = True  # False: by the time that explain is asked, the workers are not what they were

    def setUp(self):
        self.lab = harness.Lab()
        self.addCleanup(self.lab.close)
        self.tpx = self.instance(self.lab.gateway)
        self.lab.on_seen = self._agree
        self._asked = {}
        self._questions = itertools.count()

    def is_asked_now(self):
        """A sanitized explain takes a second: every fourth question is asked there."""
        return next(self._questions) % 4 == 0 or not self.tpx.sanitized()

    def _agree(self, proto, client, chosen, server, seen):
        """explain has the server see the address that it saw: the client's own or the gateway's."""
        by_gateway = any(seen in (family.wan, family.loopback) for family in harness.FAMILIES)
        if by_gateway or seen == client[0]:
            answer = self.explained_as(lambda a: sees_gateway(a) == by_gateway, proto, client, server, chosen,
                                       fate=by_gateway)
            if answer:
                self.assertEqual(sees_gateway(answer), by_gateway, f"the server saw {seen}; explain: {answer}")

    def explained(self, proto, client, server, chosen=True, more=(), fate=None):
        """What explain says of such a flow, as of a new one; None where nobody can be asked.

        Asked once for each policy, pair of addresses and `fate`; of the client's port where it chose it."""
        if not self.asks_explain or not self.tpx.pins.exists():
            return None
        key = (proto, client[0], chosen and client[1], server, more, fate, self.tpx.config.read_text(),
               self.tpx.daemon and self.tpx.daemon.pid)
        if key not in self._asked:
            done = self.tpx.command("explain", proto, end(*client), end(*server), *more, "--json", check=False)
            # It may have been reloaded or detached by another command at this moment.
            if done.returncode and self.tpx.pins.exists() and "another policy was published" not in done.stderr:
                self.fail(f"explain {proto} from {client} to {server}: {done.stderr}")
            self._asked[key] = json.loads(done.stdout) if done.returncode == 0 else None
        return self._asked[key]

    def explained_as(self, agrees, *flow, **how):
        """What explain says in the end: a worker may be late for a moment, on a loaded machine."""
        if not self.is_asked_now():
            return None
        for _ in range(3):
            answer = self.explained(*flow, **how)
            if not answer or agrees(answer):
                break
            self._asked.clear()
            time.sleep(0.5)
        return answer

    def assert_explained(self, verdict, client, server, proto="tcp", rule=None, **how):
        """Where explain can be asked, it gives the verdict or one of several, by the rule if one is named."""
        verdicts = (verdict,) if isinstance(verdict, str) else verdict
        answer = self.explained_as(lambda a: a["verdict"] in verdicts, proto, client, server, fate=verdicts, **how)
        if answer:
            self.assertIn(answer["verdict"], verdicts, answer)
            if rule:
                self.assertEqual(answer["rule"]["name"], rule, answer)
        return answer

    def assert_reason(self, reason, client, server, proto="tcp", **how):
        """For what is decided before the rules."""
        answer = self.explained_as(lambda a: a["reason"]["name"] == reason, proto, client, server, fate=reason, **how)
        if answer:
            self.assertEqual(answer["reason"]["name"], reason, answer)

    def instance(self, space):
        tpx = Instance(space)
        self.addCleanup(self._finish, tpx)
        return tpx

    def _finish(self, tpx):
        log = tpx.log.read_text() if tpx.log.exists() else ""
        tpx.close()
        faulty = any(sign in log for sign in ("Sanitizer", "runtime error:", "terminate called"))
        if log and (faulty or not self._outcome.success):
            print(f"--- log of {tpx.name}\n{log[-4000:]}---", flush=True)
        self.assertFalse(faulty, "the proxy's log shows a defect")

    def open_wire(self):
        """For frames that the client sends as they are: self.wire, and self.gateway_mac to address them to."""
        address = json.loads(self.lab.gateway.run("ip", "-j", "link", "show", "lan0").stdout)[0]["address"]
        self.gateway_mac = bytes.fromhex(address.replace(":", ""))
        self.wire = self.lab.client.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.addCleanup(self.wire.close)
        self.wire.bind(("c0", 0))

    def assert_proxied(self, family, port=8080):
        self.assertEqual(self.lab.who(family, port)[0], family.wan)

    def assert_direct(self, family, port=8080):
        self.assertEqual(self.lab.who(family, port)[0], family.client)

    def assert_arrives(self, proto, client, server):
        """Of a flow whose server answered, as whom it saw it or not: explain says that it gets there."""
        self.assert_explained(ARRIVES, client, server, proto, chosen=False)

    def wait_proxied(self, family, what, port=8080):
        """Explain is asked when it is so: what changes meanwhile may change between the two looks."""
        harness.wait_until(lambda: self.lab.who(family, port, asks=False)[0] == family.wan, what)
        self.assert_explained("proxy", (family.client, 50000), (family.server, port))

    def assert_refused(self, family, port=8080):
        """At once, by the rules: no server is asked."""
        with self.assertRaises(ConnectionRefusedError):
            self.lab.client.connect(family, family.server, port)
        self.assert_explained("reject", (family.client, 50000), (family.server, port))

    def assert_dropped(self, family, port=8080, timeout=0.3):
        with self.assertRaises(TimeoutError):
            self.lab.client.connect(family, family.server, port, timeout)
        self.assert_explained("drop", (family.client, 50000), (family.server, port))

    def pair(self, family, port=9000, prepare=None, source_port=0):
        """A connection through the proxy: the client's socket and the server's."""
        listener = self.lab.server.listen(family, port)
        with listener:
            client = self.lab.client.connect(family, family.server, port, prepare=prepare, source_port=source_port)
            self.addCleanup(client.close)
            server, seen = listener.accept()
        self.addCleanup(server.close)
        server.settimeout(10)
        self.lab.on_seen("tcp", client.getsockname()[:2], source_port != 0, (family.server, port), seen[0])
        return client, server
