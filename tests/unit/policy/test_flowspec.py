"""Which flows are in force, what their chains say, and how they come and go."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable

import pytest

from bgpmesh.policy.chains import AddressSet, ChainKey, Rules, identified, restore_text
from bgpmesh.policy.explain import Step
from bgpmesh.policy.flowchain import JUMP, flows_set, over_chain
from bgpmesh.policy.flowspec import REMEMBERED, RETRY_S, Entry, Flows, Said
from bgpmesh.policy.iptables import ICMPV6_OF_HOSTS, Options
from bgpmesh.policy.model import Packet
from bgpmesh.policy.rule import TCP, UDP, Direction, Failsafe
from bgpmesh.route.attributes import Asn, AsPath, PathAttributes, SegmentKind
from bgpmesh.route.flow import EQ, GT, Flow, Kind
from bgpmesh.route.nlri import FLOWSPEC, Family, parse_nlri
from bgpmesh.route.path import PeerName
from tests.unit.policy.test_flowmatch import ACTION, rate
from tests.unit.route.test_flow import field, flow, to

TOR1, TOR2 = PeerName("tor1"), PeerName("tor2")
IPV6 = Family.IPV6_FLOWSPEC
DROP = PathAttributes(ext_communities=(rate(0),))
ACCEPT = PathAttributes()
LIMIT = PathAttributes(ext_communities=(rate(1e6),))
REDIRECT = PathAttributes(ext_communities=(bytes.fromhex("8008fde900000064"),))
OPTIONS = Options(failsafe_inbound=(Failsafe(TCP, 22),), failsafe_outbound=(Failsafe(UDP, 53),))
MAIN = ChainKey(4, "raw", "bm-flowspec")
HOOK = ChainKey(4, "raw", "PREROUTING")
LOCAL = "-m addrtype --dst-type LOCAL -j RETURN"
FIRST = (
    "-m set ! --match-set bm-4-flows dst -j RETURN",
    "-i lo -j RETURN",
    f"-p 6 -m multiport --dports 22,179 {LOCAL}",
    f"-p 17 -m multiport --dports 3784,4784 {LOCAL}",
    f"-p 17 -m multiport --sports 53,3784,4784 {LOCAL}",
    f"-p 6 -m multiport --sports 179 {LOCAL}",
)
OWN = frozenset({ipaddress.ip_address("192.0.2.1")})


def dns(host: int, version: int = 4) -> Flow:
    """Return the flow of queries to one workload; the lower is asked first."""
    if version == 6:
        return flow(to(f"fd00::{host:x}/128"), field(Kind.PROTOCOL, (EQ, UDP)), family=IPV6)
    return flow(to(f"10.244.1.{host}/32"), field(Kind.PROTOCOL, (EQ, UDP)), field(Kind.DESTINATION_PORT, (EQ, 53)))


def line(host: int) -> str:
    """Return its match."""
    return f"-d 10.244.1.{host}/32 -p 17 -m multiport --dports 53"


class Filter:
    """The packet filter, as far as flows see it: `write` makes what is wanted so, or refuses rules with a word."""

    def __init__(self, flows: Flows) -> None:
        self.flows = flows
        self.chains: dict[ChainKey, Rules] = {}
        self.sets: dict[str, AddressSet] = {}
        self.refuses = "\0"  # rules with this text
        self.writes = 0

    def step(self, now: float = 0.0, *, is_settled: bool = True) -> list[Said]:
        """Make it once as it is wanted: of flows and of what leads there apart."""
        wanted, sets = self.flows.wanted(OPTIONS, [(179, 179)], self.chains, self.sets, is_settled=is_settled)
        assert all(key.is_of_flows or key.chain == "PREROUTING" for key in wanted)
        failed: dict[ChainKey, str] = {}
        self.sets |= sets
        for family in (4, 6):
            for is_of_flows in (True, False):
                own = {k for k in {*wanted, *self.chains} if k.family == family and k.is_of_flows == is_of_flows}
                changed = {k for k in own if wanted.get(k) != self.chains.get(k)}
                if any(self.refuses in rule for k in changed for rule in wanted.get(k, ())):
                    failed |= dict.fromkeys(changed, "no such match")
                    continue
                self.writes += bool(changed)
                texts = restore_text("raw", {k.chain: wanted.get(k) for k in changed})  # is it what can be written?
                assert not changed or texts.startswith("*raw\n")
                for key in changed:
                    assert is_of_flows or MAIN._replace(family=family) in self.chains, "led to what does not stand"
                    gone = key in self.chains and key not in wanted
                    assert not (gone and is_of_flows and self.is_led(family)), "gone, and packets are still led there"
                    self.chains.pop(key, None)
                    self.chains |= {key: wanted[key]} if key in wanted else {}
        self.sets = {name: each for name, each in self.sets.items() if name in sets}
        return self.flows.written(self.chains, failed, now)

    def is_led(self, family: int) -> bool:
        """Tell whether packets come to the flows."""
        return HOOK._replace(family=family) in self.chains

    def write(self, now: float = 0.0) -> list[Said]:
        """Step until nothing changes."""
        said: list[Said] = []
        before: object = None
        while before != (self.chains, self.flows._version):
            before = (dict(self.chains), self.flows._version)
            said += self.step(now)
        return said

    def rules(self, key: ChainKey = MAIN) -> tuple[str, ...]:
        """Return the rules of a chain without their ids."""
        return tuple(plain(self.chains[key]))

    def asked(self) -> tuple[str, ...]:
        """Return the rules that are flows', of IPv4."""
        return self.rules()[len(FIRST) :]


def plain(rules: Iterable[str]) -> Iterable[str]:
    """Yield rules without their comments, wherever those stand."""
    for rule in rules:
        words = rule.split(" ")
        at = words.index("--comment")
        yield " ".join(words[: at - 2] + words[at + 2 :])


def announced(*flows: Flow, attributes: PathAttributes = DROP, rules: int = 100, ttl: int = 0) -> Flows:
    """Return a table in which one peer has announced these, each in an UPDATE of its own."""
    table = Flows()
    table.peer_up(TOR1, (), rules, ttl)
    for each in flows:
        table.take(TOR1, attributes, [each], (), 0.0)
    return table


def states(table: Flows, chains: dict[ChainKey, Rules] | None = None) -> dict[str, tuple[str, str]]:
    """Return what has become of each flow, by its words."""
    found = table.listing(chains or {})
    return {str(each.entry.flow).partition(",")[0]: (each.state, each.reason) for each in found}


def entries(table: Flows) -> list[Entry]:
    """Return the flows that are known, in order."""
    return [each.entry for each in table.listing({})]


# ── the chains ───────────────────────────────────────────────────────────────


def test_without_a_flow_there_is_nothing() -> None:
    """No chain, no set, no hook: iptables is not called."""
    table = Flows()
    table.peer_up(TOR1, (), 100, 0)
    assert table.wanted(OPTIONS, [(179, 179)], {}, {}, is_settled=True) == ({}, {})


def test_a_flow_that_drops_is_a_rule_behind_what_is_kept_open() -> None:
    """The set, the loopback, failsafe ports and answers to them, BGP and BFD: then the flows in order."""
    here = Filter(announced(dns(2), dns(1)))
    here.write()
    assert here.rules() == (*FIRST, f"{line(1)} -j DROP", f"{line(2)} -j DROP")
    assert here.chains[HOOK] == JUMP == identified("PREROUTING", ("-j bm-flowspec",))
    assert here.sets == {flows_set(4): AddressSet(4, frozenset(map(parse_nlri, ("10.244.1.1/32", "10.244.1.2/32"))))}


def test_ipv6_neighbours_are_never_asked_about() -> None:
    """Without neighbour discovery a node has no link, and no session that could withdraw the flow."""
    here = Filter(announced(dns(1, 6)))
    here.write()
    found = here.rules(MAIN._replace(family=6))
    kinds = [rule.split()[5] for rule in found if "icmp6" in rule]
    assert kinds == [str(kind) for kind in ICMPV6_OF_HOSTS]
    assert found[0] == "-m set ! --match-set bm-6-flows dst -j RETURN"
    assert found[-1] == "-d fd00::1/128 -p 17 -j DROP"


def test_an_accept_ends_the_flows_and_opens_nothing() -> None:
    """RETURN: what goes on meets every policy."""
    here = Filter(announced(dns(1), attributes=ACCEPT))
    here.write()
    assert here.asked() == (f"{line(1)} -j RETURN",)


def test_what_is_over_a_limit_is_dropped_in_a_chain_of_its_own() -> None:
    """So that a rule that tells of drops is not one more look at the bucket."""
    here = Filter(announced(dns(1), attributes=LIMIT))
    here.write()
    (entry,) = entries(here.flows)
    over, back = here.asked()
    assert over.startswith(f"{line(1)} -m hashlimit --hashlimit-above 1000000b/s --hashlimit-name bm")
    assert over.endswith(f" -j {over_chain(entry.rule)}")
    assert back == f"{line(1)} -j RETURN"
    assert here.rules(MAIN._replace(chain=over_chain(entry.rule))) == ("-j DROP",)


def test_another_limit_is_another_bucket() -> None:
    """The kernel keeps a bucket's limit as long as its name is in use, whatever a new rule says."""
    here = Filter(announced(dns(1), attributes=LIMIT))
    here.write()
    (before, _) = here.asked()
    here.flows.take(TOR1, PathAttributes(ext_communities=(rate(2e6),)), [dns(1)], (), 1.0)
    here.write()
    (after, _) = here.asked()
    names = [rule.partition("--hashlimit-name ")[2].split()[0] for rule in (before, after)]
    assert names[0] != names[1]


def test_a_flow_of_which_others_are_asked_after_it_does_not_return() -> None:
    """RFC 8955 §7.3: the terminal-action bit. What accepts and goes on says nothing at all."""
    both = PathAttributes(ext_communities=(rate(1e6), ACTION[:7] + b"\1"))
    here = Filter(announced(dns(1), attributes=both))
    here.flows.take(TOR1, PathAttributes(ext_communities=(ACTION[:7] + b"\1",)), [dns(2)], (), 0.0)
    here.write()
    (over,) = here.asked()
    assert "hashlimit" in over


def test_a_flow_without_a_destination_is_about_everything() -> None:
    """The set has both halves: `hash:net` has no /0."""
    here = Filter(announced(flow(field(Kind.PROTOCOL, (EQ, 47)))))
    here.write()
    assert here.sets[flows_set(4)].members == {parse_nlri("0.0.0.0/1"), parse_nlri("128.0.0.0/1")}
    assert here.asked() == ("-p 47 -j DROP",)


def test_drops_are_told_of_where_somebody_follows() -> None:
    """Before each rule that drops; what counts is the rule behind it."""
    table = announced(dns(1))
    table.take(TOR1, LIMIT, [dns(2)], (), 0.0)
    chains, _ = table.wanted(Options(log_group=7), [], {}, {}, is_settled=True)
    told = {key.chain: [rule.split(" -j ")[1].split()[0] for rule in rules] for key, rules in chains.items()}
    over = next(chain for chain in told if chain != "bm-flowspec")
    assert told["bm-flowspec"][-4:] == ["NFLOG", "DROP", over, "RETURN"]
    assert told[over] == ["NFLOG", "DROP"]
    causes = {key.chain: each for key, each in table.causes.items()}
    assert [cause and (cause.action, cause.name, cause.rule) for cause in causes["bm-flowspec"][-4:]] == [
        None,
        ("deny", "flowspec tor1", 1),
        None,
        ("allow", "flowspec tor1", 2),
    ]
    assert [cause and (cause.action, cause.rule, cause.is_final) for cause in causes[over]] == [None, ("deny", 2, True)]


def test_what_does_not_change_is_the_same_object() -> None:
    """Whoever counts sees by that what is to be looked at again; a renewed flow writes nothing."""
    here = Filter(announced(dns(1)))
    here.write()
    before, causes = here.chains[MAIN], here.flows.causes
    here.flows.take(TOR1, DROP, [dns(1)], (), 5.0)
    here.write()
    assert here.chains[MAIN] is before
    assert here.flows.causes is causes


def test_the_file_cannot_close_bgp_and_bfd() -> None:
    """Lists of failsafe ports that have neither, other ports than 179, and both ends of a session."""
    table = announced(dns(1))
    none = Options(failsafe_inbound=(), failsafe_outbound=())
    chains, _ = table.wanted(none, [(1790, 179), (1790, 1791)], {}, {}, is_settled=True)
    assert tuple(plain(chains[MAIN]))[2:-1] == (
        f"-p 6 -m multiport --dports 1790 {LOCAL}",
        f"-p 17 -m multiport --dports 3784,4784 {LOCAL}",
        f"-p 6 -m multiport --sports 179,1791 {LOCAL}",
        f"-p 17 -m multiport --sports 3784,4784 {LOCAL}",
    )


# ── coming and going ─────────────────────────────────────────────────────────


def test_the_way_there_goes_first_and_comes_last() -> None:
    """A chain is led to once it stands, and left before it goes (`Filter` looks)."""
    here = Filter(announced(dns(1)))
    here.step()
    assert (MAIN in here.chains, HOOK in here.chains) == (True, False)
    here.step()
    assert HOOK in here.chains
    here.flows.take(TOR1, None, (), [dns(1).key], 1.0)
    here.step()
    assert (MAIN in here.chains, HOOK in here.chains, flows_set(4) in here.sets) == (True, False, True)
    here.step()
    assert (here.chains, here.sets) == ({}, {})


def test_a_withdrawal_takes_the_flow_out() -> None:
    """By its key; one that nobody has is nothing."""
    here = Filter(announced(dns(1), dns(2)))
    said = here.flows.take(TOR1, None, (), [dns(2).key, dns(3).key], 1.0)
    here.write()
    assert here.asked() == (f"{line(1)} -j DROP",)
    assert [(each.name, each.keys["value"]) for each in said] == [("flow.withdrawn", f"{dns(2)}: drop")]


def test_what_is_withdrawn_and_announced_is_announced() -> None:
    """As of any route (RFC 4271 §4.3)."""
    table = announced(dns(1))
    table.take(TOR1, ACCEPT, [dns(1)], [dns(1).key], 1.0)
    assert [str(entry.doing) for entry in entries(table)] == ["accept"]


def test_a_flow_is_announced_anew_with_something_else_to_do() -> None:
    """It keeps its number, and its place where it can be in force."""
    here = Filter(announced(dns(1)))
    here.flows.take(TOR1, ACCEPT, [dns(1)], (), 1.0)
    here.write()
    assert here.asked() == (f"{line(1)} -j RETURN",)
    here.flows.take(TOR1, REDIRECT, [dns(1)], (), 2.0)
    here.write()
    assert here.chains == {}
    assert states(here.flows) == {"to 10.244.1.1/32": ("refused", "redirection is not done")}


def test_a_lost_session_takes_its_flows_along() -> None:
    """But for the families that are kept over a restart; those go when that is over."""
    table = announced(dns(1), dns(1, 6))
    table.peer_down(TOR1, {IPV6})
    assert [(entry.flow.version, entry.is_stale) for entry in entries(table)] == [(6, True)]
    table.peer_up(TOR1, {IPV6}, 100, 0)
    assert len(entries(table)) == 1
    table.take(TOR1, DROP, [dns(2, 6)], (), 1.0)
    said = table.sweep(TOR1, {IPV6})
    assert [str(entry.flow) for entry in entries(table)] == [str(dns(2, 6))]
    assert [(each.name, each.keys["reason"]) for each in said] == [("flow.withdrawn", "it was stale")]


def test_a_new_session_without_a_restart_begins_with_nothing() -> None:
    """RFC 4724 §4.2: what is not kept goes at once."""
    table = announced(dns(1))
    table.peer_down(TOR1, FLOWSPEC)
    table.peer_up(TOR1, (), 100, 0)
    assert entries(table) == []


def test_who_is_not_believed_is_refused_by_name() -> None:
    """A loop: our own AS has passed it on already."""
    table = announced()
    said = table.take(TOR1, DROP, [dns(1), dns(2)], (), 0.0, refusal="loop: our AS 64512 is in AS_PATH")
    assert [state for state, _ in states(table).values()] == ["refused", "refused"]
    assert [(each.name, each.keys["reason"], each.keys["others_count"]) for each in said] == [
        ("flow.refused", "loop: our AS 64512 is in AS_PATH", 1)
    ]
    assert table.refused[TOR1] == 2


def test_a_refusal_is_told_once() -> None:
    """However often it is announced; and again where the reason is another."""
    table = announced()
    bad = flow(field(Kind.FRAGMENT, (0, 2)))
    assert [said.name for said in table.take(TOR1, DROP, [bad], (), 0.0)] == ["flow.refused"]
    assert table.take(TOR1, DROP, [bad], (), 1.0) == []
    assert [said.keys["reason"] for said in table.take(TOR1, REDIRECT, [bad], (), 2.0)] == ["redirection is not done"]


# ── a limit ──────────────────────────────────────────────────────────────────


def test_the_first_come_are_in_force_whatever_their_order() -> None:
    """The limit is the peer's; which flow would be asked first does not matter."""
    here = Filter(announced(dns(3), dns(2), dns(1), rules=2))
    here.flows.peer_up(TOR2, (), 1, 0)
    here.flows.take(TOR2, DROP, [dns(9)], (), 0.0)
    here.write()
    assert here.asked() == tuple(f"{line(host)} -j DROP" for host in (2, 3, 9))
    assert states(here.flows)["to 10.244.1.1/32"] == ("refused", "the limit of 2 flows is reached")
    assert here.flows.refused == {TOR1: 1, TOR2: 0}


def test_who_waits_longest_gets_the_room() -> None:
    """Where a flow is withdrawn, or is announced with something that is not done."""
    table = announced(dns(1), dns(2), dns(3), rules=1)
    said = table.take(TOR1, REDIRECT, [dns(1)], (), 1.0)
    assert [(each.name, each.keys["value"]) for each in said if each.name == "flow.taken"] == [
        ("flow.taken", f"{dns(2)}: drop")
    ]
    assert [entry.number for entry in entries(table) if entry.is_in_force] == [2]


def test_what_cannot_be_in_force_takes_no_room() -> None:
    """A peer's first flows may all be refused."""
    table = announced(flow(field(Kind.FRAGMENT, (0, 2))), dns(1), rules=1)
    assert states(table)["to 10.244.1.1/32"] == ("pending", "")


def test_what_is_refused_does_not_fill_the_memory() -> None:
    """A thousand are remembered, the rest is counted."""
    table = announced(rules=1)
    many = [flow(to(f"10.{host >> 8}.{host & 255}.0/24")) for host in range(REMEMBERED + 10)]
    said = table.take(TOR1, DROP, many, (), 0.0)
    assert len(entries(table)) == REMEMBERED + 1
    assert table.forgotten() == {TOR1: 8 + 1}
    assert [(each.name, each.keys["others_count"]) for each in said] == [
        ("flow.taken", None),
        ("flow.refused", REMEMBERED + 8),
    ]


# ── time ─────────────────────────────────────────────────────────────────────


def test_a_flow_goes_that_is_not_announced_again() -> None:
    """Said by name; it is shown, and comes back with its number when it is announced again."""
    here = Filter(announced(dns(1), ttl=60))
    assert here.flows.next_due() == 60
    here.flows.take(TOR1, DROP, [dns(1)], (), 30.0)
    assert here.flows.next_due() == 90
    assert here.flows.tick(89.9) == []
    here.write()
    said = here.flows.tick(90.0)
    assert [(each.name, each.keys["value"]) for each in said] == [("flow.expired", f"{dns(1)}: drop")]
    here.write()
    assert here.chains == {}
    assert states(here.flows)["to 10.244.1.1/32"] == ("expired", "not announced again within 60 s")
    assert here.flows.next_due() == math.inf
    here.flows.take(TOR1, DROP, [dns(1)], (), 100.0)
    here.write()
    assert here.asked() == (f"{line(1)} -j DROP",)
    assert [entry.number for entry in entries(here.flows)] == [1]


def test_without_a_time_to_live_a_flow_stays() -> None:
    """`ttl = 0`."""
    assert announced(dns(1)).next_due() == math.inf


def test_who_comes_back_is_a_newcomer() -> None:
    """It had room, and somebody else has it now."""
    table = announced(dns(1), dns(2), rules=1, ttl=60)
    table.take(TOR1, DROP, [dns(2)], (), 30.0)
    table.tick(60.0)
    table.take(TOR1, DROP, [dns(1)], (), 61.0)
    assert [entry.number for entry in entries(table) if entry.is_in_force] == [2]


# ── equal flows ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("one", "two", "counts"),
    [
        (DROP, ACCEPT, TOR1),
        (DROP, PathAttributes(local_pref=200), TOR2),
        (PathAttributes(as_path=AsPath(((SegmentKind.SEQUENCE, (Asn(65001), Asn(65002))),))), DROP, TOR2),
    ],
)
def test_of_equal_flows_one_counts(one: PathAttributes, two: PathAttributes, counts: PeerName) -> None:
    """The higher local preference, the shorter path, the name; the other is shown as not in use."""
    table = Flows()
    for peer, attributes in ((TOR2, two), (TOR1, one)):
        table.peer_up(peer, (), 100, 0)
        table.take(peer, attributes, [dns(1)], (), 0.0)
    here = Filter(table)
    here.write()
    assert len(here.asked()) == 1
    found = {each.entry.peer: each[1:] for each in table.listing(here.chains)}
    other = TOR2 if counts == TOR1 else TOR1
    assert found == {counts: ("in force", ""), other: ("refused", f"the same flow of {counts} counts")}
    table.take(counts, None, (), [dns(1).key], 1.0)
    here.write()
    assert {each.entry.peer: each[1:] for each in table.listing(here.chains)} == {other: ("in force", "")}


# ── what the packet filter refuses ───────────────────────────────────────────


def test_one_flow_that_is_refused_stops_no_other() -> None:
    """Those that stand stay, the new ones are tried one by one, and the one to blame is named."""
    here = Filter(announced(dns(1)))
    here.write()
    here.refuses = "--length"
    here.flows.take(TOR1, DROP, [dns(2), dns(3)], (), 0.0)
    bad = flow(to("10.244.1.9/32"), field(Kind.LENGTH, (GT, 1000)))
    here.flows.take(TOR1, DROP, [bad], (), 0.0)
    said = here.write(5.0)
    assert here.asked() == tuple(f"{line(host)} -j DROP" for host in (1, 2, 3))
    reason = "the packet filter refuses it: no such match"
    assert [(each.name, each.keys["value"], each.keys["reason"]) for each in said] == [
        ("flow.refused", f"{bad}: drop", reason)
    ]
    assert states(here.flows, here.chains)["to 10.244.1.9/32"] == ("refused", reason)
    assert here.flows.next_due() == 5.0 + RETRY_S


def test_what_was_refused_is_tried_again() -> None:
    """After a minute, or when it is announced again."""
    here = Filter(announced(dns(1)))
    here.refuses = "DROP"
    here.write(0.0)
    assert here.chains == {}
    here.refuses = "\0"
    here.flows.tick(RETRY_S)
    here.write(RETRY_S)
    assert here.asked() == (f"{line(1)} -j DROP",)


def test_what_is_nobodys_fault_is_left_to_be_tried_again() -> None:
    """All that stands has been taken before: the host has another problem."""
    here = Filter(announced(dns(1), dns(2)))
    here.write()
    here.flows.take(TOR1, None, (), [dns(2).key], 1.0)
    here.refuses = "DROP"
    assert here.write(1.0) == []
    assert states(here.flows, here.chains) == {"to 10.244.1.1/32": ("pending", "")}


# ── a restart ────────────────────────────────────────────────────────────────


def test_what_stands_at_a_start_stays_until_the_node_is_in_sync() -> None:
    """Also as rules of which nobody knows what they say; then it is what the peers have said."""
    before = Filter(announced(dns(1), dns(2)))
    before.write()
    here = Filter(Flows())
    unknown = ("?", *("x" * 16 for _ in before.chains[MAIN]))
    here.chains = {MAIN: unknown, HOOK: before.chains[HOOK]}
    here.sets = dict(before.sets)
    here.flows.found(here.chains)
    here.flows.peer_up(TOR1, (), 100, 0)
    here.flows.take(TOR1, DROP, [dns(1)], (), 0.0)
    here.step(is_settled=False)
    assert here.chains == {MAIN: unknown, HOOK: JUMP}
    here.write()
    assert here.asked() == (f"{line(1)} -j DROP",)


def test_what_nobody_announces_any_more_goes_when_in_sync() -> None:
    """The way there first."""
    before = Filter(announced(dns(1)))
    before.write()
    here = Filter(Flows())
    here.chains, here.sets = dict(before.chains), dict(before.sets)
    here.flows.found(here.chains)
    here.step(is_settled=False)
    assert here.chains == before.chains
    here.write()
    assert (here.chains, here.sets) == ({}, {})


def test_what_somebody_takes_away_meanwhile_is_not_asked_for() -> None:
    """What it said is not known, so it cannot be written again."""
    here = Filter(Flows())
    found: dict[ChainKey, Rules] = {MAIN: ("?", "x" * 16), HOOK: JUMP}
    here.flows.found(found)
    wanted, _ = here.flows.wanted(OPTIONS, [], {HOOK: JUMP}, {}, is_settled=False)
    assert wanted == {}


def test_a_chain_that_nothing_leads_to_is_not_held() -> None:
    """It says nothing to any packet."""
    here = Filter(Flows())
    here.chains = {MAIN: ("?", "x" * 16)}
    here.flows.found(here.chains)
    here.step(is_settled=False)
    assert here.chains == {}


# ── what people ask ──────────────────────────────────────────────────────────


def packet(destination: str = "10.244.1.1", port: int | None = 53, protocol: int = UDP) -> Packet:
    """Return one from outside."""
    return Packet(ipaddress.ip_address("198.51.100.7"), ipaddress.ip_address(destination), protocol, 40000, port)


def explained(table: Flows, asked: Packet) -> tuple[list[tuple[str, str | None, int | None]], list[str]]:
    """Return the steps (action, policy, rule), and what is not known."""
    Filter(table).write()
    steps, unknown = table.explain(asked, OWN, "n1")
    assert all((step.direction, step.workload, step.tier) == (Direction.INGRESS, "node n1", None) for step in steps)
    return [(step.action, step.policy, step.rule) for step in steps], unknown


def test_a_drop_is_a_step() -> None:
    """With the peer and the number of the flow; no further flow is asked."""
    table = announced(dns(1), flow(to("10.244.1.0/24")))
    assert explained(table, packet()) == ([("deny", "flowspec tor1", 1)], [])
    assert explained(table, packet(port=80)) == ([("deny", "flowspec tor1", 2)], [])
    assert explained(table, packet("10.244.9.9")) == ([], [])


def test_an_accept_is_a_step_and_ends_the_flows() -> None:
    """It says that no flow behind it is asked."""
    table = announced(flow(to("10.244.1.0/24")))
    table.take(TOR1, ACCEPT, [dns(1)], (), 0.0)
    assert explained(table, packet()) == ([("accept", "flowspec tor1", 2)], [])


def test_a_limit_is_a_step_and_not_known() -> None:
    """Whether this packet is over it nobody knows; the step is of the chain in which drops are counted."""
    table = announced(dns(1), attributes=LIMIT)
    assert explained(table, packet()) == (
        [("rate-limit", "flowspec tor1", 1)],
        ["rule 1 of flowspec tor1 (limit to 1000000 bytes/s) lets it pass within the limit"],
    )
    (entry,) = entries(table)
    assert table.explain(packet(), OWN, "n1")[0] == [
        Step(Direction.INGRESS, "node n1", None, "flowspec tor1", 1, "rate-limit", over_chain(entry.rule))
    ]


def test_what_was_not_said_of_the_packet_is_named() -> None:
    """Then it is taken to pass."""
    table = announced(flow(to("10.244.1.0/24"), field(Kind.LENGTH, (GT, 1000))))
    assert explained(table, packet()) == ([], ["rule 1 of flowspec tor1 (drop) is for it if packet length >1000"])


def test_what_is_kept_open_is_a_step() -> None:
    """On this host only: a workload's port 22 is none of it."""
    table = announced(flow(to("192.0.2.1/32")), flow(to("10.244.1.0/24")))
    assert explained(table, packet("192.0.2.1", 22, TCP)) == ([("accept", "(failsafe_inbound)", None)], [])
    assert explained(table, packet("192.0.2.1", 80, TCP)) == ([("deny", "flowspec tor1", 1)], [])
    assert explained(table, packet("10.244.1.1", 22, TCP)) == ([("deny", "flowspec tor1", 2)], [])
    answer = Packet(ipaddress.ip_address("198.51.100.7"), ipaddress.ip_address("192.0.2.1"), UDP, 53, 40000)
    assert explained(table, answer) == ([("accept", "(failsafe_outbound)", None)], [])


def test_what_the_host_sends_meets_no_flow() -> None:
    """It does not come in."""
    table = announced(dns(1))
    sent = Packet(ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("10.244.1.1"), UDP, 40000, 53)
    assert explained(table, sent) == ([], [])


def test_a_state_is_in_force_once_packets_are_led_there() -> None:
    """Until then it is pending."""
    table = announced(dns(1))
    here = Filter(table)
    here.step()
    assert states(table, here.chains) == {"to 10.244.1.1/32": ("pending", "")}
    here.write()
    assert states(table, here.chains) == {"to 10.244.1.1/32": ("in force", "")}


def test_entries_are_in_the_order_in_which_they_are_asked() -> None:
    """By family; also those that are not."""
    table = announced(dns(1, 6), dns(3), dns(1), flow(to("10.0.0.0/8"), field(Kind.FRAGMENT, (0, 2))))

    def name(entry: Entry) -> str:
        return str(entry.flow).partition(",")[0].removeprefix("to ")

    assert list(map(name, entries(table))) == ["10.244.1.1/32", "10.244.1.3/32", "10.0.0.0/8", "fd00::1/128"]
