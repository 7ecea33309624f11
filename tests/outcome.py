"""What an engine has come to, as plain data: its tables in the order of their keys."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import TypeVar

from bgpmesh.delta import Delta
from bgpmesh.engine import Engine
from bgpmesh.journal.forms import Forms
from bgpmesh.policy.chains import AddressSet, Rules
from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.nlri import prefix_text
from bgpmesh.route.path import Resolution, Target
from bgpmesh.workload.endpoint import Endpoint, LinkSpec

K = TypeVar("K")
V = TypeVar("V")

FORMS = Forms()


def outcome(engine: Engine) -> dict[str, object]:
    """Return all that operators, peers and the kernel could see of it; as JSON gives it back."""
    rib = engine.rib
    candidates = {nlri: rib.candidates(nlri) for nlri in rib.prefixes()}
    return {
        "in_sync": engine.peers.is_in_sync,
        "held": sorted(engine.peers.held),
        "sessions": {name: session.state.value for name, session in sorted(engine.peers.sessions.items())},
        "paths": {
            prefix_text(nlri): [
                {
                    "peer": each.peer,
                    "reason": each.reason,
                    **dict.fromkeys((["best"] if each.is_best else []) + (["stale"] if each.is_stale else []), True),
                    **_attributes(each.attributes),
                }
                for each in paths
            ]
            for nlri, paths in candidates.items()
        },
        "told": {
            name: {prefix_text(nlri): _attributes(told) for nlri, told in sorted(rib.advertised(name))}
            for name in sorted(engine.peers.sessions)
        },
        "endpoints": _table(engine.local.endpoints, Endpoint),
        "fib": _table({network(nlri): target for nlri, target in rib.fib.wanted.items()}, Target),
        "next_hops": _table(rib.next_hops.wanted, Resolution),
        "links": _table(engine.local.links.wanted, LinkSpec),
        "chains": _table(engine.packets.chains.wanted, Rules),
        "sets": _table(engine.packets.sets.wanted, AddressSet),
        "unmade": sorted(
            [
                *_unmade(rib.fib),
                *_unmade(rib.next_hops),
                *_unmade(engine.local.links),
                *_unmade(engine.packets.chains),
                *_unmade(engine.packets.sets),
            ]
        ),
    }


def network(key: object) -> object:
    """Return a key as people read it."""
    return prefix_text(key) if isinstance(key, bytes) else key  # type: ignore[arg-type]  # keys of bytes are prefixes


def _attributes(value: PathAttributes) -> dict[str, object]:
    fields = FORMS.of(PathAttributes).written(value)
    assert isinstance(fields, dict)
    return {key: each for key, each in fields.items() if key != "#"}


def _table(table: Mapping[K, V], hint: object) -> dict[str, object]:
    return {str(key): FORMS.of(hint).written(value) for key, value in sorted(table.items(), key=_order)}


def _order(item: tuple[object, object]) -> tuple[object, ...]:
    try:
        found = ipaddress.ip_network(str(item[0]))
    except ValueError:
        return 0, 0, 0, str(item[0])
    return found.version, int(found.network_address), found.prefixlen, ""


def _unmade(delta: Delta[K, V]) -> list[str]:
    """Return what is not as wanted, each with the reason."""
    wanted, actual = delta.wanted, delta.actual
    keys = [key for key in wanted.keys() | actual.keys() if wanted.get(key) != actual.get(key)]
    return [f"{network(key)}: {delta.refused[key].reason if key in delta.refused else 'pending'}" for key in keys]
