"""Who a workload is, as other nodes hear it: its labels as hashes, and selectors that are asked of those.

What is said of a workload is a set of numbers of 64 bits, the claims: 4 bits of kind (`route.claim.Kind`), then

    LABEL, NAMESPACE_LABEL            60 bits of SHA-256 over `KEY=VALUE` in UTF-8; a key has no `=`
    LABEL_KEY, NAMESPACE_LABEL_KEY    the same over `KEY`
    NAMESPACE                         the same over the name
    PORT                              8 bits of protocol, 16 of port number, 36 of SHA-256 over the port's name

A port is not hashed whole: who asks for it knows its name and has to learn the number.

Labels that every workload has are not sent, since they follow: the mark of a workload from its being said anything of,
the names that a namespace has as labels from its name; unless somebody gave the namespace another such label,
which then is sent.

A hash answers whether it is that value or that key, never what it is. So a selector that asks for a part of a value
has no answer for a workload of another node: for it such a workload is unknown (`compile`).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import assert_never

from bgpmesh.policy.kubernetes import CALICO_NAME_LABEL, NAME_LABEL
from bgpmesh.policy.rule import NAMESPACE_LABEL, NAMESPACE_PREFIX, WORKLOAD_LABEL, Direction, Policy, Side
from bgpmesh.policy.selector import AllOf, AnyOf, Everything, Has, Not, OneOf, Part, Selector, is_remote_capable, show
from bgpmesh.route.attributes import Asn, PathAttributes
from bgpmesh.route.claim import Claims, Kind, LargeCommunity, claim

MOST = 300  # claims of one workload: 330 large communities fit in an UPDATE, and other attributes want to as well
SPARE = 1_000  # attribute sets kept beyond those in use, before they are swept
WORKLOAD = "k8s"  # what WORKLOAD_LABEL says of every workload
_NAMES = frozenset({NAMESPACE_PREFIX + NAME_LABEL, NAMESPACE_PREFIX + CALICO_NAME_LABEL})  # the namespace's, as labels
_KIND_SHIFT, _PROTOCOL_SHIFT, _NUMBER_SHIFT = 60, 52, 36
_PORT_HASH, _PORT_HASH_SHIFT = (1 << 36) - 1, 24  # the first 36 bits of the 60

Question = Callable[[Claims], bool]


def encode(labels: Mapping[str, str], ports: Mapping[tuple[str, int], int] | None = None) -> Claims:
    """Return what is said of a workload with these labels, as `protection.labels_in` has them, and named ports."""
    found: set[int] = set()
    namespace = labels.get(NAMESPACE_LABEL)
    for key, value in labels.items():
        if key == NAMESPACE_LABEL:
            found.add(_hash(Kind.NAMESPACE, value))
        elif key != WORKLOAD_LABEL and not (key in _NAMES and value == namespace):
            found |= {_label(key, value), _key(key)}
    found |= {_port(name, protocol, number) for (name, protocol), number in (ports or {}).items()}
    return frozenset(found)


def communities(claims: Iterable[int], asn: Asn) -> tuple[LargeCommunity, ...]:
    """Return the claims as large communities in the name of a cluster, sorted as PathAttributes has them."""
    return tuple(claim(asn, Kind(each >> _KIND_SHIFT), each) for each in sorted(claims))


class Sayings:
    """What the nodes of the cluster hear of the workloads here: one attribute set for all of whom the same is said."""

    def __init__(self) -> None:
        self.by_key: dict[str, PathAttributes] = {}
        self.too_long: dict[str, str] = {}  # workloads of whom there is too much to say, in words
        self._made: dict[Claims, PathAttributes] = {}

    def take(self, of: Mapping[str, Claims], asn: Asn) -> list[str]:
        """Say this of these workloads; return those of whom there is too much to say, where that is news."""
        news: list[str] = []
        for key, claims in of.items():
            was_too_long = self.too_long.pop(key, "")
            if len(claims) > MOST:
                self.by_key.pop(key, None)
                self.too_long[key] = _too_long(claims)
                news += [] if was_too_long else [key]
                continue
            said = communities(claims, asn)
            made = self._made.get(claims)
            if made is None or made.large_communities != said:
                made = self._made[claims] = PathAttributes(large_communities=said)
            self.by_key[key] = made
        if len(self._made) > 2 * len(self.by_key) + SPARE:
            used = set(self.by_key.values())
            self._made = {claims: made for claims, made in self._made.items() if made in used}
        return news

    def forget(self, key: str) -> None:
        """Say nothing of a workload any more."""
        self.by_key.pop(key, None)
        self.too_long.pop(key, None)


def ports_named(name: str, claims: Iterable[int]) -> list[tuple[int, int]]:
    """Return (protocol, number) of each port of this name that is claimed."""
    digest = _digest(name) >> _PORT_HASH_SHIFT
    return [
        (each >> _PROTOCOL_SHIFT & 0xFF, each >> _NUMBER_SHIFT & 0xFFFF)
        for each in sorted(claims)
        if each >> _KIND_SHIFT == Kind.PORT and each & _PORT_HASH == digest
    ]


# ── selectors ────────────────────────────────────────────────────────────────


def question_of(selector: Selector) -> Question | None:
    """Return what tells from claims whether the selector means who has them; None where they cannot tell."""
    return _test(selector) if is_remote_capable(selector) else None


def marks(pairs: Iterable[tuple[str, str]]) -> set[int] | None:
    """Return claims of which who has one of these labels has one at least; None: everybody has."""
    found: set[int] = set()
    for key, value in pairs:
        if key == WORKLOAD_LABEL:
            if value == WORKLOAD:
                return None
            continue
        if key == NAMESPACE_LABEL or key in _NAMES:
            found.add(_hash(Kind.NAMESPACE, value))
        if key != NAMESPACE_LABEL:
            found.add(_label(key, value))
    return found


def _test(selector: Selector) -> Question:
    match selector:
        case Everything():
            return lambda _: True
        case Has(key):
            return _has(key)
        case OneOf(key, values):
            return _one_of(key, values)
        case Not(term):
            inner = _test(term)
            return lambda claims: not inner(claims)
        case AllOf(terms):
            tests = [_test(term) for term in terms]
            return lambda claims: all(test(claims) for test in tests)
        case AnyOf(terms):
            tests = [_test(term) for term in terms]
            return lambda claims: any(test(claims) for test in tests)
        case Part():
            raise ValueError(f"hashes do not answer {show(selector)}")
    assert_never(selector)


def _has(key: str) -> Question:
    if key == WORKLOAD_LABEL:
        return lambda _: True
    own = _key(key)
    if key == NAMESPACE_LABEL or key in _NAMES:
        return lambda claims: own in claims or any(each >> _KIND_SHIFT == Kind.NAMESPACE for each in claims)
    return lambda claims: own in claims


def _one_of(key: str, values: Iterable[str]) -> Question:
    if key == WORKLOAD_LABEL:
        is_wanted = WORKLOAD in values
        return lambda _: is_wanted
    named = frozenset(_hash(Kind.NAMESPACE, value) for value in values)
    if key == NAMESPACE_LABEL:
        return lambda claims: not named.isdisjoint(claims)
    wanted = frozenset(_label(key, value) for value in values)
    if key in _NAMES:
        given = _key(key)  # another value than the name
        return lambda claims: not (wanted if given in claims else named).isdisjoint(claims)
    return lambda claims: not wanted.isdisjoint(claims)


# ── what cannot be answered ──────────────────────────────────────────────────


def unanswered(policy: Policy, *, has_identity: bool) -> list[tuple[str, str]]:
    """Return (field, reason) for each rule that asks for more than is known of the workloads of other nodes.

    With identity that is a selector over a part of a value; without, any selector or name of a port of the other end.
    """
    found: list[tuple[str, str]] = []
    for direction in sorted(policy.types, key=lambda direction: direction.value):
        for number, rule in enumerate(policy.rules(direction), start=1):
            is_ingress = direction is Direction.INGRESS
            side = rule.source if is_ingress else rule.destination
            asked = [each for each in (side.selector, side.not_selector) if each is not None]
            shown = [_shown(each) for each in asked if not has_identity or not is_remote_capable(each)]
            shown += [] if has_identity else [f"port {name}" for name in _port_names(side)]
            if shown:
                field = f"{direction.value}[{number - 1}]"
                known = "by hashes of its labels" if has_identity else "not at all (cluster.identity is false)"
                reason = f"{shown[0]}: a workload of another node is known {known}, and is not meant"
                found.append((field, reason))
    return found


def _shown(selector: Selector) -> str:
    try:
        return show(selector)
    except ValueError:  # a value with both kinds of quotes
        return "a selector"


def _port_names(side: Side) -> list[str]:
    return [port for port in (*side.ports, *side.not_ports) if isinstance(port, str)]


def _too_long(claims: Claims) -> str:
    return f"{len(claims)} claims for its labels and ports, the limit is {MOST}: other nodes know nothing of it"


# ── hashes ───────────────────────────────────────────────────────────────────


@functools.lru_cache(maxsize=65_536)
def _digest(text: str) -> int:
    """Return 60 bits. No text is refused: an object may have half a surrogate pair in it."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 4


def _hash(kind: Kind, text: str) -> int:
    return kind << _KIND_SHIFT | _digest(text)


def _label(key: str, value: str) -> int:
    own = key.removeprefix(NAMESPACE_PREFIX)
    return _hash(Kind.LABEL if own == key else Kind.NAMESPACE_LABEL, f"{own}={value}")


def _key(key: str) -> int:
    own = key.removeprefix(NAMESPACE_PREFIX)
    return _hash(Kind.LABEL_KEY if own == key else Kind.NAMESPACE_LABEL_KEY, own)


def _port(name: str, protocol: int, number: int) -> int:
    digest = _digest(name) >> _PORT_HASH_SHIFT
    return Kind.PORT << _KIND_SHIFT | protocol << _PROTOCOL_SHIFT | number << _NUMBER_SHIFT | digest
