"""Rules told back to policies, and what they have counted."""

from __future__ import annotations

import ipaddress

import pytest

from bgpmesh.policy.attribution import FIXED, Counters, causes_of
from bgpmesh.policy.chains import ChainKey, Count, Rules, ids_of, parse_counts, parse_listing
from bgpmesh.policy.compile import Compiler
from bgpmesh.policy.form import Compiled
from bgpmesh.policy.iptables import Options, render
from bgpmesh.policy.model import Member, Model
from bgpmesh.policy.rule import TCP, Action, Direction, Policy, PortRange, Profile, Rule, Side, Tier

WEB = Rule(Action.ALLOW, protocol=TCP, destination=Side(ports=(PortRange(80, 80),)))
BAD = Rule(Action.DENY, source=Side(nets=tuple(map(ipaddress.ip_network, ("192.0.2.0/24", "2001:db8::/32")))))


def policy(name: str, *rules: Rule, tier: str = "default") -> Policy:
    """Return a policy on what reaches everybody."""
    return Policy(name, "shop", tier, types=frozenset({Direction.INGRESS}), ingress=rules)


def made(*policies: Policy, options: Options = Options()) -> tuple[dict[ChainKey, Rules], Compiled]:
    """Return the chains of a node with one workload under some policies, and what they are made from."""
    member = Member("shop/db", {}, (ipaddress.ip_address("10.0.0.1"),), {}, "bgpmdb", ("kns.shop",))
    model = Model((Tier("soft", 1, Action.PASS),), policies, (Profile("kns.shop"),), (), {member.key: member})
    compiled = Compiler().compile(model)
    return render(compiled, options), compiled


def rule_of(
    chains: dict[ChainKey, Rules], compiled: Compiled, name: str, number: int | None = None
) -> tuple[ChainKey, str]:
    """Return the first IPv4 rule that is put down to a name (to a rule of that policy) and drops: its chain, its id."""
    for key, rules in chains.items():
        if key.family == 4 and key.is_ours:
            for rule, cause in zip(ids_of(rules), causes_of(key, rules, compiled), strict=True):
                if cause is not None and (cause.name, cause.action, cause.rule) == (name, "deny", number):
                    return key, rule
    raise AssertionError(name)


@pytest.mark.parametrize("to_host", ["deny", "allow", "return"])
def test_whatever_drops_or_accepts_is_put_down_to_something(to_host: str) -> None:
    """Nothing of ours decides without a name, and every fixed name stands for a rule."""
    policies = policy("web", WEB, BAD), policy("first", Rule(Action.PASS), tier="soft")
    chains, compiled = made(*policies, options=Options(to_host=to_host))
    names = set()
    for key, rules in chains.items():
        if not key.is_ours:
            continue
        for rule, cause in zip(rules, causes_of(key, rules, compiled), strict=True):
            assert (cause is not None and cause.is_final) == rule.endswith((" -j DROP", " -j ACCEPT")), (key, rule)
            if cause is not None and cause.action == "deny":
                names.add(cause.name)
    assert names == {"shop/web", *FIXED} - ({"(workload_to_host)"} if to_host == "return" else set())


@pytest.mark.parametrize(
    ("policies", "name"),
    [
        ((policy("web", WEB),), "shop/web"),
        ((policy("closed"), policy("web", WEB)), "shop/closed"),
        ((policy("a", WEB, BAD), policy("b", WEB), policy("c", BAD)), "shop/c"),
    ],
)
def test_a_default_is_put_down_to_the_policy_that_says_least(policies: tuple[Policy, ...], name: str) -> None:
    """The last of those: in the order in which they are asked."""
    chains, compiled = made(*policies)
    (stack,) = (chain for chain, each in compiled.stacks.items() if each.direction is Direction.INGRESS)
    key = ChainKey(4, "filter", stack)
    defaults = [cause for cause in causes_of(key, chains[key], compiled) if cause is not None and cause.tier]
    assert [(cause.name, cause.policy, cause.rule) for cause in defaults] == [(name, None, None)]


class World:
    """Counters of a node, and the kernel's own."""

    def __init__(self, *policies: Policy) -> None:
        self.counters = Counters()
        self.become(*policies)

    def become(self, *policies: Policy) -> None:
        """Put other policies in force."""
        self.chains, self.compiled = made(*policies)
        self.counters.know(self.chains, self.compiled)

    def read(self, name: str, *count: int) -> tuple[ChainKey, str]:
        """Read what the kernel has counted for a drop."""
        key, rule = rule_of(self.chains, self.compiled, name)
        packets, size = count
        self.counters.read({key: {rule: (packets, size)}})
        return key, rule

    @property
    def drops(self) -> dict[str, int]:
        """Return the drops that there were."""
        return {name: count for name, count in self.counters.drops().items() if count}


def test_readings_are_added_up_by_policy() -> None:
    """A second reading adds what came since; every policy in force is there from the beginning."""
    world = World(policy("web", WEB, BAD))
    assert world.counters.drops() == dict.fromkeys(("shop/web", *FIXED), 0)
    world.read("shop/web", 3, 300)
    world.read("(invalid)", 1, 40)
    world.read("shop/web", 5, 500)
    assert world.drops == {"shop/web": 5, "(invalid)": 1}
    assert world.counters.by_verdict == {"allow": 0, "deny": 6, "established": 0}


def test_a_sum_never_goes_back() -> None:
    """Not where a chain is written anew by us, nor where others do, nor where its policy changes or goes."""
    world = World(policy("web", BAD, WEB))
    key, rule = world.read("shop/web", 10, 1000)
    world.counters.written([key])
    world.read("shop/web", 10, 1000)
    assert world.drops == {"shop/web": 20}
    world.read("shop/web", 4, 400)
    assert world.drops == {"shop/web": 24}
    world.become(policy("web", WEB, WEB, BAD))
    world.become(policy("web", WEB, BAD))
    world.counters.read({key: {rule: (6, 600)}})  # of the rule that still stands
    assert world.drops == {"shop/web": 26}
    world.counters.written([key])
    world.read("shop/web", 1, 100)
    assert world.drops == {"shop/web": 27}
    world.become()
    assert world.drops == {}
    assert world.counters.by_verdict["deny"] == 27
    world.become(policy("web", WEB, BAD))
    assert world.drops == {}


def test_what_the_kernel_had_before_is_counted_once_it_is_known_what_it_is() -> None:
    """A reading before the first policies are known is no reading."""
    counters = Counters()
    chains, compiled = made(policy("web", BAD))
    key, rule = rule_of(chains, compiled, "shop/web")
    counters.read({key: {rule: (7, 700)}})
    counters.know(chains, compiled)
    assert counters.by_verdict["deny"] == 0
    counters.read({key: {rule: (7, 700)}})
    assert counters.by_verdict["deny"] == 7


def test_a_listing_that_is_torn_counts_nothing_twice() -> None:
    """A rule that is missing in one reading is where it was in the next."""
    world = World(policy("web", BAD))
    key, rule = world.read("shop/web", 7, 700)
    world.counters.read({key: {}})
    world.counters.read({key: {rule: (7, 700)}})
    assert world.drops == {"shop/web": 7}


def test_a_step_is_told_what_its_rules_have_seen() -> None:
    """All lines of a rule together; None where a step has no rule of its own."""
    world = World(policy("web", BAD, WEB))
    (body,) = (each for each in world.compiled.bodies.values() if each.policy == "shop/web")
    key = ChainKey(4, "filter", body.chain)
    counts: dict[str, Count] = dict.fromkeys(ids_of(world.chains[key]), (2, 80))
    world.counters.read({key: counts})
    assert world.counters.of(4, (body.chain, "allow", "default", "shop/web", 2)) == (2, 80)
    assert world.counters.of(6, (body.chain, "allow", "default", "shop/web", 2)) == (0, 0)
    assert world.counters.of(4, (body.chain, "allow", "default", "shop/web", 3)) is None


LISTING = """\
# Generated
*filter
:INPUT ACCEPT [12:900]
:bm-x - [0:0]
[3:180] -A INPUT -m comment --comment "bm:AAAAAAAAAAAAAAAA" -j bm-INPUT
[5:400] -A bm-x -p tcp -m comment --comment "bm:BBBBBBBBBBBBBBBB" -j DROP
[1:1] -A bm-x -m comment --comment "not ours" -j DROP
COMMIT
*raw
:bm-x - [0:0]
[7:1] -A bm-x -m comment --comment bm:CCCCCCCCCCCCCCCC -j DROP
COMMIT
"""


def test_counters_of_a_listing() -> None:
    """Only of chains of ours, by table; and a listing with counters is otherwise the same."""
    assert parse_counts(LISTING, 6) == {
        ChainKey(6, "filter", "bm-x"): {"BBBBBBBBBBBBBBBB": (5, 400)},
        ChainKey(6, "raw", "bm-x"): {"CCCCCCCCCCCCCCCC": (7, 1)},
    }
    without = "\n".join(line.partition("] ")[2] if line.startswith("[") else line for line in LISTING.splitlines())
    assert parse_listing(LISTING, 6) == parse_listing(without, 6)
