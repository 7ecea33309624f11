"""The Rib under filters: what follows from what was received, and from a change of filters."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import asdict, replace

import pytest

from bgpmesh.peering.peer import Peer
from bgpmesh.rib.export import Batch
from bgpmesh.rib.rule import Community, Filter, NextHopTerm, PrefixRange, Prepend, Rule
from bgpmesh.route.attributes import PathAttributes, RouterId
from bgpmesh.route.community import BLACKHOLE, GRACEFUL_SHUTDOWN, NO_ADVERTISE, NO_EXPORT
from bgpmesh.route.nlri import ROUTED, Family, Nlri, parse_nlri
from bgpmesh.route.path import Blackhole, PeerName, Role, Via
from tests.flat import pairs
from tests.unit.rib.ribworld import ASN, World, address, changed, external, internal, sequence, via

P, Q, R = "10.1.0.0/16", "10.2.0.0/16", "203.0.113.9/32"
MARK = Community("64512:1")
MARKED = 64512 << 16 | 1

MARKING = Filter("in", "reject", (Rule(action="accept", add_community=(MARK,)),))
ONLY_MARKED = Filter("out", "reject", (Rule(action="accept", community=(MARK,)),))
UNMARKED = Filter("in", "accept")
ALL = Filter("out", "accept")
ONLY_P = Filter("p", "reject", (Rule(action="accept", prefix=(PrefixRange(ipaddress.ip_network(P), 16, 16),)),))
NOT_P = Filter("p", "accept", (Rule(action="reject", prefix=(PrefixRange(ipaddress.ip_network(P), 16, 16),)),))


def filtered(peer: Peer, imports: tuple[str, ...] = ("all",), exports: tuple[str, ...] = ("all",)) -> Peer:
    return replace(peer, imports=imports, exports=exports)


def world(filters: Iterable[Filter], *peers: Peer) -> World:
    """Return a Rib with filters and peers."""
    made = World()
    made.rib.filter(filters, peers)
    for peer in peers:
        made.up(peer)
    return made


def taken_in(made: World, name: str, prefix: str = P) -> PathAttributes:
    """Return a path as the import filters left it."""
    return next(c.attributes for c in made.shown(prefix) if c.peer == name)


def reasons(made: World) -> dict[str, str]:
    return {prefix: made.reasons(prefix).get("e", "") for prefix in (P, Q)}


def test_what_is_rejected_is_kept_and_says_by_whom() -> None:
    """It counts as received, and not as accepted; peers and kernel have nothing of it."""
    made = world([ONLY_P], filtered(external("e", "192.0.2.9"), ("p",)), internal("a", 11))
    made.hear("e", via("192.0.2.9", 65001), P, Q)
    assert (list(made.fib()), [prefixes for _, prefixes in made.take("a")]) == ([P], [[P]])
    assert reasons(made) == {P: "only path", Q: "import filter p default"}
    assert made.rib.counts(PeerName("e"))[Family.IPV4] == (2, 1, 0)
    assert {c.filtered: c.is_accepted for p in (P, Q) for c in made.shown(p)} == {"": True, "p default": False}


def test_a_changed_import_filter_is_asked_about_what_was_received() -> None:
    """No session is needed for that: what was rejected comes in, what was accepted goes."""
    peer = filtered(external("e", "192.0.2.9"), ("p",))
    made = world([ONLY_P], peer, internal("a", 11))
    made.hear("e", via("192.0.2.9", 65001), P, Q)
    assert made.take("a") == [("192.0.2.9", [P])]
    made.rib.filter([NOT_P], [peer])
    assert sorted(made.take("a"), key=str) == [("192.0.2.9", [Q]), (None, [P])]
    assert reasons(made) == {P: "import filter p rule 1", Q: "only path"}
    assert list(made.fib()) == [Q]


def test_a_peer_that_gets_another_filter_keeps_its_session() -> None:
    """By name this time; and back."""
    peer = external("e", "192.0.2.9")
    made = world([ONLY_P], peer)
    made.hear("e", via("192.0.2.9", 65001), P, Q)
    assert list(made.fib()) == [P, Q]
    made.rib.filter([ONLY_P], [filtered(peer, ("p",))])
    assert list(made.fib()) == [P]
    made.rib.filter([ONLY_P], [peer])
    assert sorted(made.fib()) == [P, Q]


def test_an_export_filter_of_a_peer_is_changed_by_the_difference() -> None:
    """What it was told and still is to hear it does not hear again, whether filter or name changes."""
    peer = filtered(external("e", "192.0.2.9"), exports=("p",))
    made = world([ONLY_P], peer, internal("a", 11))
    made.hear("a", via("192.0.2.11"), P, Q)
    assert made.take("e") == [("192.0.2.11", [P])]
    made.rib.filter([replace(ONLY_P, default="accept")], [peer])
    assert made.take("e") == [("192.0.2.11", [Q])]
    made.rib.filter([ONLY_P], [peer])
    assert made.take("e") == [(None, [Q])]
    made.rib.filter([], [filtered(peer, exports=("all",))])
    assert made.take("e") == [("192.0.2.11", [Q])]
    made.rib.filter([], [filtered(peer, exports=("none",))])
    assert [(hop, sorted(prefixes)) for hop, prefixes in made.take("e")] == [(None, [P, Q])]


def test_filters_that_stay_ask_nothing() -> None:
    """A reload that is about something else is no work."""
    peer = filtered(external("e", "192.0.2.9"), ("p",), ("p",))
    made = world([ONLY_P], peer)
    made.hear("e", via("192.0.2.9", 65001), P)
    made.fib()
    made.rib.filter([replace(ONLY_P)], [replace(peer)])
    assert not made.rib._unfiltered
    assert not made.rib._has_work()


def test_import_and_export_that_change_together_withdraw_nothing() -> None:
    """Who wants a mark that only the new import puts on hears of neither half."""
    e, f = filtered(external("e", "192.0.2.9"), ("in",)), filtered(external("f", "192.0.2.10"), exports=("out",))
    made = world([UNMARKED, ALL], e, f)
    made.hear("e", via("192.0.2.9", 65001), P)
    assert made.take("f") == [("192.0.2.9", [P])]
    made.rib.filter([MARKING, ONLY_MARKED], [e, f])
    heard: list[tuple[bool, list[Nlri]]] = []
    for _ in range(20):
        made.rib.work(1)
        for batch in made.rib.take(PeerName("f"), 1):
            assert isinstance(batch, Batch)
            heard.append((batch.attributes is None, batch.nlris))
    assert heard == [(False, [parse_nlri(P)])]


def test_two_peers_that_change_sides_leave_the_kernel_a_route_all_the_time() -> None:
    """Nothing is decided before both have gone through their filters again."""
    e, f = filtered(external("e", "192.0.2.9"), ("p",)), filtered(external("f", "192.0.2.10"), ("q",))
    only, never = Filter("p", "accept"), Filter("q", "reject")
    made = world([only, never], e, f, internal("a", 11))
    for name, at in (("e", "192.0.2.9"), ("f", "192.0.2.10")):
        made.hear(name, via(at, 65001), *(f"10.{number}.0.0/16" for number in range(10)))
    made.take("a")
    _write(made)
    made.rib.filter([replace(only, default="reject"), replace(never, default="accept")], [e, f])
    written, told = [], []
    while made.rib.work(1):
        written += _write(made)
        told += made.rib.take(PeerName("a"), 1)
    written += _write(made)
    assert len(written) == 10
    assert {target for _, target in written} == {Via((address("192.0.2.10"),))}
    assert told == []
    assert [(hop, len(prefixes)) for hop, prefixes in made.take("a")] == [("192.0.2.10", 10)]


def _write(made: World) -> list[tuple[Nlri, object]]:
    changes = pairs(made.rib.fib.take(100, 0.0))
    made.rib.fib.acknowledge([nlri for nlri, _ in changes])
    return list(changes)


def test_stale_paths_go_through_a_changed_filter_too() -> None:
    """They are still used, so they have to pass."""
    peer = filtered(external("e", "192.0.2.9"), ("p",))
    made = world([replace(ONLY_P, default="accept")], peer)
    made.hear("e", via("192.0.2.9", 65001), P, Q)
    made.rib.peer_down(PeerName("e"), frozenset(ROUTED))
    assert sorted(made.fib()) == [P, Q]
    made.rib.filter([ONLY_P], [peer])
    assert list(made.fib()) == [P]
    assert made.rib.stale_count(PeerName("e")) == 2


def test_a_rule_that_moved_is_named_by_its_new_place() -> None:
    """Also where it does the same as before."""
    peer = filtered(external("e", "192.0.2.9"), ("f",))
    rule = Rule(action="accept", med=5)
    made = world([Filter("f", "reject", (rule,))], peer)
    made.hear("e", via("192.0.2.9", 65001), P)
    assert [c.filtered for c in made.shown(P)] == ["f rule 1"]
    nobody = Rule(action="reject", family=(Family.IPV6,))
    made.rib.filter([Filter("f", "reject", (nobody, rule))], [peer])
    assert [c.filtered for c in made.shown(P)] == ["f rule 2"]


# ── what filters say has the last word ───────────────────────────────────────


def exported(rule: Rule, peer: Peer, heard: PathAttributes) -> PathAttributes | None:
    """Return what a peer hears of P under an export filter of one rule."""
    made = world([Filter("f", "reject", (rule,))], filtered(peer, exports=("f",)), internal("a", 11))
    made.hear("a", heard, P)
    return made.heard(peer.name, P)


@pytest.mark.parametrize(
    "options",
    [
        {"next_hop": "auto"},
        {"next_hops": ((Family.IPV4, address("192.0.2.77")),)},
        {"cluster_id": RouterId(7)},
    ],
)
def test_what_peers_see_changes_under_their_sessions(options: dict[str, object]) -> None:
    """They end up with what they would be told in a new session, and nothing is withdrawn on the way there."""
    inside = [internal("a", 11, Role.CLIENT), internal("b", 12)]
    before = [
        replace(each, next_hop="self") for each in (external("e", "192.0.2.9"), *inside, external("g", "192.0.2.10"))
    ]
    after = [replace(peer, **options) for peer in before]  # type: ignore[arg-type]  # keywords of the dataclass

    def talking(peers: list[Peer]) -> World:
        made = world([], *peers)
        made.hear("a", via("192.0.2.11"), P)
        made.hear("e", via("192.0.2.9", 65001), Q)
        return made

    def told(made: World) -> dict[tuple[str, str], object]:
        heard = {(peer.name, prefix): made.heard(peer.name, prefix) for peer in before for prefix in (P, Q)}
        return {key: None if each is None else asdict(each) for key, each in heard.items()}

    made, fresh = talking(before), talking(after)
    old, new = told(made), told(fresh)
    assert old != new
    made.rib.filter([], after)
    batches = {peer.name: made.take(peer.name) for peer in before}
    assert new == told(made)
    gone = {(name, prefix) for name, said in batches.items() for hop, some in said if hop is None for prefix in some}
    assert gone == {key for key, attributes in new.items() if attributes is None and old[key] is not None}


def test_a_med_that_export_says_leaves_the_as() -> None:
    """The one that we were told does not (RFC 4271 §5.1.4), nor does LOCAL_PREF, whoever says it."""
    heard = changed(via("192.0.2.11"), med=9, local_pref=200)
    said = exported(Rule(action="accept", med=7, local_pref=300), external("e", "192.0.2.9"), heard)
    assert said is not None
    assert (said.med, said.local_pref) == (7, None)
    said = exported(Rule(action="accept"), external("e", "192.0.2.9"), heard)
    assert said is not None
    assert (said.med, said.local_pref) == (None, None)


def test_a_med_that_export_says_counts_also_where_it_is_the_one_we_were_told() -> None:
    """Then the attributes are the same, and what was said is not."""
    said = exported(Rule(action="accept", med=9), external("e", "192.0.2.9"), changed(via("192.0.2.11"), med=9))
    assert said is not None
    assert said.med == 9


def test_what_a_rule_says_of_one_prefix_it_does_not_say_of_another() -> None:
    """Though both came with the same attributes, and leave the filter with them."""
    only = Rule(action="accept", prefix=ONLY_P.rules[0].prefix, med=9)
    peer = filtered(external("e", "192.0.2.9"), exports=("f",))
    made = world([Filter("f", "accept", (only,))], peer, internal("a", 11))
    made.hear("a", changed(via("192.0.2.11"), med=9), P, Q)
    said = [made.heard("e", prefix) for prefix in (P, Q)]
    assert [None if each is None else each.med for each in said] == [9, None]


def test_zero_is_a_value() -> None:
    """Of MED on export, of LOCAL_PREF on import."""
    said = exported(Rule(action="accept", med=0), external("e", "192.0.2.9"), changed(via("192.0.2.11"), med=9))
    assert said is not None
    assert said.med == 0
    made = world(
        [Filter("f", "reject", (Rule(action="accept", local_pref=0),))], filtered(external("e", "192.0.2.9"), ("f",))
    )
    made.hear("e", via("192.0.2.9", 65001), P)
    assert taken_in(made, "e").local_pref == 0


def test_prepending_comes_before_our_own_as() -> None:
    """Twice more than once."""
    said = exported(Rule(action="accept", prepend=Prepend(2)), external("e", "192.0.2.9"), via("192.0.2.11", 65009))
    assert said is not None
    assert said.as_path == sequence(ASN, ASN, ASN, 65009)


def test_a_next_hop_that_export_says_is_the_one() -> None:
    """An address, or our own, where the peer's mode would pass another on."""
    for term, expected in (
        (NextHopTerm(to=address("198.51.100.7")), "198.51.100.7"),
        (NextHopTerm(is_self=True), "192.0.2.1"),
    ):
        for peer in (external("e", "192.0.2.9"), replace(external("e", "192.0.2.9"), next_hop="keep")):
            said = exported(Rule(action="accept", next_hop=term), peer, via("192.0.2.11"))
            assert said is not None
            assert said.next_hop == address(expected)


def test_import_prepends_the_neighbours_as() -> None:
    """As if it had done so itself; a loop it is not."""
    made = world(
        [Filter("f", "reject", (Rule(action="accept", prepend=Prepend(1)),))],
        filtered(external("e", "192.0.2.9"), ("f",)),
    )
    made.hear("e", via("192.0.2.9", 65001), P)
    assert taken_in(made, "e").as_path == sequence(65001, 65001)
    assert list(made.fib()) == [P]


def test_local_pref_of_import_counts_in_the_decision_and_goes_on() -> None:
    """Over eBGP it is nobody else's to say."""
    made = world(
        [Filter("f", "reject", (Rule(action="accept", local_pref=200),))],
        filtered(external("e", "192.0.2.9"), ("f",)),
        external("g", "192.0.2.10"),
        internal("a", 11),
    )
    made.hear("e", via("192.0.2.9", 65001, 65002, 65003), P)
    made.hear("g", changed(via("192.0.2.10", 65001), local_pref=900), P)
    assert made.best(P) == "e"
    said = made.heard("a", P)
    assert said is not None
    assert said.local_pref == 200


# ── well-known communities ───────────────────────────────────────────────────


def with_communities(*communities: int) -> PathAttributes:
    return changed(via("192.0.2.9", 65001), communities=tuple(sorted(communities)))


def test_graceful_shutdown_is_the_last_choice() -> None:
    """RFC 8326 §4.2: of an external peer, after filters, unless they took the community off."""
    off = Filter("off", "reject", (Rule(action="accept", remove_community=(Community("graceful-shutdown"),)),))
    high = Filter("high", "reject", (Rule(action="accept", local_pref=500),))
    for filters, expected in ((("all",), 0), (("high",), 0), (("off",), None), (("off", "high"), 500)):
        made = world([off, high], filtered(external("e", "192.0.2.9"), filters))
        made.hear("e", with_communities(GRACEFUL_SHUTDOWN), P)
        assert taken_in(made, "e").local_pref == expected
    made = world([], internal("a", 11))
    made.hear("a", changed(with_communities(GRACEFUL_SHUTDOWN), local_pref=100), P)
    assert taken_in(made, "a").local_pref == 100


def test_blackhole_goes_no_further_than_our_as() -> None:
    """RFC 7999 §3.2: it gets NO_EXPORT, unless it has that or NO_ADVERTISE."""
    made = world([], external("e", "192.0.2.9"), external("g", "192.0.2.10"), internal("a", 11))
    made.hear("e", with_communities(BLACKHOLE), R)
    said = made.heard("a", R)
    assert said is not None
    assert (said.communities, made.heard("g", R)) == ((BLACKHOLE, NO_EXPORT), None)
    made.hear("e", with_communities(BLACKHOLE, NO_ADVERTISE), R)
    assert (made.heard("a", R), taken_in(made, "e", R).communities) == (None, (BLACKHOLE, NO_ADVERTISE))


def test_blackhole_is_a_blackhole_where_a_rule_says_so_and_a_route_elsewhere() -> None:
    """The community alone discards nothing: who may ask for that, and for what, is the operator's to say."""
    discard = Filter("f", "accept", (Rule(action="accept", community=(Community("blackhole"),), blackhole=True),))
    peer = filtered(external("e", "192.0.2.9"), ("f",))
    made = world([discard], peer)
    made.hear("e", with_communities(BLACKHOLE), R)
    made.hear("e", with_communities(), P)
    assert made.fib() == {R: Blackhole(), P: Via((address("192.0.2.9"),))}
    made.rib.filter([replace(discard, rules=())], [peer])
    assert made.fib() == {R: Via((address("192.0.2.9"),)), P: Via((address("192.0.2.9"),))}


def test_a_blackhole_needs_no_next_hop_that_can_be_reached() -> None:
    """Nothing is sent there."""
    discard = Filter("f", "accept", (Rule(action="accept", blackhole=True),))
    made = world([discard], filtered(external("e", "192.0.2.9"), ("f",)))
    made.hear("e", via("198.51.100.66", 65001), R)
    assert made.fib() == {R: Blackhole()}


def test_a_blackhole_shares_no_traffic() -> None:
    """Neither with equal paths, nor do they with it."""
    discard = Filter("f", "accept", (Rule(action="accept", blackhole=True),))
    for discarded, expected in (("e", Blackhole()), ("h", Via((address("192.0.2.9"), address("192.0.2.10"))))):
        peers = {
            name: external(name, at) for name, at in (("e", "192.0.2.9"), ("g", "192.0.2.10"), ("h", "192.0.2.11"))
        }
        peers[discarded] = filtered(peers[discarded], ("f",))
        made = world([discard], *peers.values())
        for name, peer in peers.items():
            made.hear(name, via(str(peer.address), 65001), R)
        assert made.fib() == {R: expected}
