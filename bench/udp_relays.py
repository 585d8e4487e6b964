# SPDX-License-Identifier: Apache-2.0
"""What udp_bench.py compares: each is entered to run, and gives its process."""
import json
import os
import pathlib
import socket
import subprocess

from udp_stage import CLIENT, GATEWAY, GATEWAY_WAN, SERVER, listens, wait_until

EXCHANGE_PORT, CHURN_PORT, BULK_PORT = 7001, 7002, 7003
SESSIONS = 4096
STREAM_MODULE = pathlib.Path("/usr/lib/nginx/modules/ngx_stream_module.so")


class Forwarding:
    key, name, target, seen = "forward", "kernel forwarding", SERVER, CLIENT

    def __init__(self, stage):
        pass

    def __enter__(self):
        return None

    def __exit__(self, *_):
        pass


class Tpx:
    key, name, target, seen = "tpx", "tpx-bpf", SERVER, GATEWAY_WAN
    rule = {"action": "proxy", "source": "masquerade"}

    def __init__(self, stage):
        self.stage = stage
        self.config = stage.folder / f"{self.key}.yaml"
        # JSON is YAML. One client here is all the clients there are.
        self.config.write_text(json.dumps({
            "version": 1, "interfaces": {"lan": ["lan"], "wan": ["wan"]}, "default": "bypass",
            "rules": [{"name": "udp", "match": {"proto": "udp"}, **self.rule}],
            "proxy": {"workers": stage.options.workers, "drain_timeout": "0s",
                      "max_udp_sessions": SESSIONS, "max_udp_sessions_per_client": SESSIONS}}))
        self.argv = (stage.options.tpx, "--instance", stage.tag)

    def __enter__(self):
        path, log = str(self.stage.folder / "notify"), self.stage.folder / "tpx.log"
        self.ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ready.bind(path)
        self.ready.settimeout(20)
        with log.open("w") as file:
            self.process = self.stage.spawn("g", *self.argv, "run", "--config", self.config, stderr=file,
                                            env={**os.environ, "NOTIFY_SOCKET": path})
        try:
            while b"READY=1" not in self.ready.recv(4096):
                pass
        except TimeoutError:
            raise RuntimeError(f"tpx-bpf is not ready: {log.read_text()}") from None
        return self.process

    def __exit__(self, *_):
        self.stage.end(self.process, 30)
        self.ready.close()
        (self.stage.folder / "notify").unlink()
        subprocess.run(self.stage.inside("g", *self.argv, "detach"), check=True, stdout=subprocess.DEVNULL)


class TpxStack(Tpx):
    key, name, target, seen = "tpx-stack", "tpx-bpf, workers", SERVER, GATEWAY_WAN
    rule = {**Tpx.rule, "forward": "stack"}


class Bypass(Tpx):
    key, name, target, seen = "bypass", "tpx-bpf, bypass", SERVER, CLIENT
    rule = {"action": "bypass"}


class Fib(Tpx):
    key, name, target, seen = "fib", "bypass, fib", SERVER, CLIENT
    rule = {"action": "bypass", "forward": "fib"}


class Nginx:
    key, name, target, seen = "nginx", "nginx, stream", GATEWAY, GATEWAY_WAN

    def __init__(self, stage):
        self.stage = stage
        self.config = stage.folder / "nginx.conf"
        # One answer ends a session of churn, which is how nginx is told of DNS-like protocols.
        servers = "".join(f"server {{ listen {GATEWAY}:{port} udp reuseport rcvbuf=4m; proxy_pass {SERVER}:{port};"
                          f" {more} }}\n" for port, more in ((EXCHANGE_PORT, ""), (BULK_PORT, ""),
                                                             (CHURN_PORT, "proxy_responses 1;")))
        self.config.write_text(
            f"load_module {STREAM_MODULE};\ndaemon off; user root; worker_processes {stage.options.workers};\n"
            f"pid {stage.folder}/pid; error_log /dev/null; events {{ worker_connections 65536; }}\n"
            f"stream {{ proxy_timeout 30s;\n{servers}}}\n")

    def __enter__(self):
        self.process = self.stage.spawn("g", "nginx", "-c", self.config, "-e", "/dev/null")
        wait_until(lambda: listens(self.process, CHURN_PORT), "nginx")
        return self.process

    def __exit__(self, *_):
        self.stage.end(self.process)


RELAYS = {relay.key: relay for relay in (Forwarding, Bypass, Fib, Tpx, TpxStack, Nginx)}
