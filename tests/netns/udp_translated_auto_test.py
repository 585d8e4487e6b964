# SPDX-License-Identifier: Apache-2.0
"""forward: auto, the default of UDP that is proxied: tc forwards it as long as nobody at the gateway would miss it in the stack."""
import harness
import product
from udp_case import PORT
from udp_translated_case import TranslatedCase

XFRM = "src 203.0.113.0/24 dst 198.51.100.0/24 dir out tmpl src 203.0.113.1 dst 198.51.100.9 proto esp mode tunnel"


def hook(name, *what):
    return f"table inet watch {{ chain c {{ type filter hook {name} priority 0; {' '.join(what) or 'counter'} }} }}"


class Auto(TranslatedCase):
    def setUp(self):
        super().setUp()
        self.socks = {}

    def nft(self, rules):
        self.lab.gateway.nft(rules)
        return lambda: self.lab.gateway.run("nft", "flush", "ruleset")

    def ip(self, add, delete):
        self.lab.gateway.ip(add)
        return lambda: self.lab.gateway.ip(delete)

    def watchers(self):
        return self.tpx.status()["proxy"]["watchers"]

    def start_known(self, *rules):
        """Sessions of both families, whose datagrams tc forwards; as whom the server sees them."""
        self.start_udp(*rules)
        self.assertEqual(self.watchers(), [])
        self.socks = {family: self.socket(family) for family in harness.FAMILIES}
        return {family: self.hand_over(sock, family) for family, sock in self.socks.items()}

    def check_by_worker(self, seen):
        """Each datagram of the client's, and none is lost."""
        before, worker = self.translated(), self.total("udp_datagrams_up")
        for family, sock in self.socks.items():
            for _ in range(20):
                self.assertEqual(self.who(sock, family), seen[family])
        self.assertEqual(self.translated() - before, 0)
        self.assertEqual(self.total("udp_datagrams_up") - worker, 20 * len(self.socks))

    def notes(self, family):
        ends = (product.end(family.client, 50000), product.end(family.server, PORT))
        return " ".join(self.tpx.json("explain", "udp", *ends)["notes"])

    def check_watched(self, watch, *names):
        """Sessions go back to the workers, without a loss, and return to tc."""
        seen = self.start_known(product.udp_rule())
        stop = watch()
        harness.wait_until(lambda: self.watchers() == list(names), f"the proxy sees {names}")
        self.check_by_worker(seen)
        text = self.tpx.command("status").stdout
        for name in names:
            self.assertIn(f"    {name}\n", text)
            self.assertIn(name, self.notes(harness.V4))
        stop()
        harness.wait_until(lambda: self.watchers() == [], "the proxy sees nobody")
        for family, sock in self.socks.items():
            self.assertEqual(self.hand_over(sock, family), seen[family])
            self.assertIn("(translated)", self.notes(family))
        self.assertIn("where nobody would miss them: 2\n", self.tpx.command("status").stdout)

    def test_a_firewall(self):
        self.check_watched(lambda: self.nft(hook("input")), "IPv4 input hook of netfilter",
                           "IPv6 input hook of netfilter")

    def test_hooks_of_one_family(self):
        def watch():
            self.lab.gateway.nft("table ip6 watch { chain c { type filter hook postrouting priority 0; counter } }")
            return self.nft("table ip watch { chain c { type filter hook output priority 0; counter } }")

        self.check_watched(watch, "IPv4 output hook of netfilter", "IPv6 postrouting hook of netfilter")

    def test_connection_tracking(self):
        self.check_watched(lambda: self.nft(hook("forward", "ct state new counter")),
                           *(f"{family} {name} hook of netfilter" for name in ("prerouting", "input", "output", "postrouting")
                             for family in ("IPv4", "IPv6")))

    def test_a_hook_of_a_device(self):
        for device, side in (("lan0", "ingress"), ("wan0", "ingress"), ("lan0", "egress"), ("wan0", "egress")):
            with self.subTest(device=device, side=side):
                self.check_watched(lambda d=device, s=side: self.nft(
                    f"table netdev watch {{ chain c {{ type filter hook {s} device {d} priority 0; counter }} }}"),
                    "netfilter's ingress or egress hook of a device")

    def test_rules_of_routing(self):
        """By which what a socket sends may go another way than what comes in."""
        for selector in ("fwmark 0x40000000/0x60000000", "iif lan0", "uidrange 0-0"):
            with self.subTest(selector=selector):
                self.check_watched(lambda s=selector: self.ip(f"rule add {s} lookup 100", f"rule del {s} lookup 100"),
                                   "routing rules by mark, device, user or tunnel")

    def test_policies_of_ipsec(self):
        self.check_watched(lambda: self.ip(f"xfrm policy add {XFRM}", f"xfrm policy del {XFRM.split(' tmpl')[0]}"),
                           "policies of IPsec")

    def test_what_would_see_nothing_anyway(self):
        """Nothing of the proxy's passes the forward hook, nor a device that is not ours; rules by both ends hold for all."""
        self.lab.gateway.ip("rule add from 192.0.2.0/24 lookup main")
        self.lab.gateway.nft(hook("forward"))
        self.lab.gateway.nft("table netdev watch { chain c { type filter hook ingress device lo priority 0; counter } }")
        self.start_known()

    def test_fib_says_so_whoever_watches(self):
        self.lab.gateway.nft(hook("prerouting"))
        self.start_udp(product.udp_rule(forward="fib"))
        for family in harness.FAMILIES:
            self.hand_over(self.socket(family), family)

    def test_watched_from_the_start(self):
        self.lab.gateway.nft(hook("prerouting"))
        self.start_udp()
        self.socks = {family: self.socket(family) for family in harness.FAMILIES}
        self.check_by_worker({family: self.who(sock, family) for family, sock in self.socks.items()})
        self.assertEqual(self.total("udp_translated_total"), 0)

    def test_stack_says_never(self):
        self.start_udp(product.udp_rule(forward="stack"))
        self.socks = {family: self.socket(family) for family in harness.FAMILIES}
        self.check_by_worker({family: self.who(sock, family) for family, sock in self.socks.items()})


if __name__ == "__main__":
    harness.main()
