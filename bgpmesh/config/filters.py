"""Filters of the file: what contradicts itself, who names what is not there, and what does nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from bgpmesh.config.tables import Reader
from bgpmesh.config.values import guess, key_of, knobs, shown
from bgpmesh.peering.options import PeerOptions
from bgpmesh.rib.rule import BUILT_IN, LOCAL, Filter, NextHopTerm, PrefixRange, Prepend, Rule, changes_of, families_of
from bgpmesh.route.attributes import Asn
from bgpmesh.route.nlri import ROUTED, Family, family_of_address

_KINDS = ("community", "large_community", "ext_community")


def check_filters(
    reader: Reader, filters: Sequence[Filter], nodes: Collection[str], neighbours: Sequence[PeerOptions]
) -> None:
    """Refuse what cannot be meant; of tables that are incomplete what they do say is checked too."""
    peers = [*neighbours, *(peer for peer in reader.incomplete if isinstance(peer, PeerOptions))]
    names = {*nodes, *(peer.name for peer in peers)}
    for each in filters:
        if each.name in BUILT_IN:
            reader.refuse(f"filter.{each.name}", None, f"{', '.join(BUILT_IN)} are built in, and not to be redefined")
        for place, rule in enumerate(each.rules, 1):
            _check_rule(reader, rule, f"filter.{each.name}.rule[{place}]", names)
    known = {**BUILT_IN, **{each.name: each for each in filters}}
    for peer in peers:
        for key, used in (("import", peer.imports), ("export", peer.exports)):
            for name in used or ():
                if name not in known:
                    reason = f"no such filter; there are {', '.join(known)}{guess(name, known)}"
                    reader.refuse(f"peer.{peer.name}.{key}", name, reason)
                elif key == "import":
                    _check_import(reader, known[name], f"peer.{peer.name}.import")


def _check_rule(reader: Reader, rule: Rule, where: str, names: Collection[str]) -> None:
    changes = changes_of(rule)
    if rule.action == "reject":
        for key in changes:
            reader.refuse(f"{where}.{key}", plain(rule)[key], "a route that is rejected is not changed")
    families = families_of(rule)
    if rule.next_hop is not None and rule.next_hop.within:
        families &= {family_of_address(network.network_address) for network in rule.next_hop.within}
    if not families:
        said = [key for key in ("family", "prefix", "next_hop") if getattr(rule, key)]
        reader.refuse(where, None, f"no route can match: {' and '.join(said)} have no address family in common")
    for kind in _KINDS:
        both = set(getattr(rule, f"add_{kind}")) & set(getattr(rule, f"remove_{kind}"))
        for text in sorted(both):
            reader.refuse(f"{where}.add_{kind}", text, f"remove_{kind} has it too")
    for name in rule.peer:
        if name == LOCAL and name in names:
            reader.refuse(f"{where}.peer", name, "it means this node itself, and a node or peer has this name")
        elif name != LOCAL and name not in names:
            close = guess(name, (*names, LOCAL))
            reader.refuse(f"{where}.peer", name, f"neither a node nor a peer, nor {LOCAL} for this node itself{close}")


def _check_import(reader: Reader, used: Filter, where: str) -> None:
    for place, rule in enumerate(used.rules, 1):
        if rule.next_hop is not None and rule.next_hop.is_self:
            reason = f'filter.{used.name}.rule[{place}].next_hop is "self", which is for export'
            reader.refuse(where, used.name, reason)


def warnings_of_filters(
    filters: Sequence[Filter], asn: Asn, neighbours: Iterable[PeerOptions], everybody: Iterable[PeerOptions]
) -> list[str]:
    """Return what does nothing, or what cannot be meant, on a node with this AS and these `[peer.*]` of `everybody`."""
    used = {name for peer in everybody for name in (*(peer.imports or ()), *(peer.exports or ()))}
    said = [f"filter.{each.name}: no peer has it" for each in filters if each.name not in used]
    known = {**BUILT_IN, **{each.name: each for each in filters}}
    for each in filters:
        open_at = next((place for place, rule in enumerate(each.rules, 1) if not _asks(rule)), len(each.rules))
        if open_at < len(each.rules):
            rest = f"rule[{open_at + 1}]" + (" and those behind it are" if open_at + 1 < len(each.rules) else " is")
            said.append(f"filter.{each.name}.{rest} never asked: rule[{open_at}] matches every route")
    for peer in neighbours:
        if "own" in (peer.imports or ()):
            said.append(f"peer.{peer.name}.import has own: nothing that a peer announces is this node's own")
        for key, names in (("import", peer.imports), ("export", peer.exports)):
            for name in names or ():
                for place, rule in enumerate(known[name].rules, 1):
                    where = f"peer.{peer.name}.{key}: filter.{name}.rule[{place}]"
                    said += [f"{where}.{words}" for words in _idle(rule, asn, peer, is_import=key == "import")]
    return said


def _idle(rule: Rule, asn: Asn, peer: PeerOptions, *, is_import: bool) -> list[str]:
    """Return what a rule does in vain in one direction of one peer."""
    said: list[str] = []
    is_external = peer.asn != (peer.local_asn or asn)
    if not is_import and rule.local_pref is not None and is_external:
        said.append("local_pref does nothing: LOCAL_PREF does not leave the AS (RFC 4271 §5.1.5)")
    if not is_import and rule.blackhole:
        said.append("blackhole does nothing on export: what comes in may be discarded")
    if rule.prepend is not None:
        put = rule.prepend.asns or ((peer.asn if is_import else asn),)
        if asn in put and (is_import or not is_external):
            said.append(f"prepend puts AS {asn} into AS_PATH: nodes of this AS take that for a loop")
    return said


def _asks(rule: Rule) -> bool:
    """Tell whether there can be a route that the rule does not match."""
    return bool(terms_of(rule)) or families_of(rule) != frozenset(ROUTED)


def terms_of(rule: Rule) -> list[str]:
    """Return the keys by which a rule asks for something."""
    return [key for key in plain(rule) if key != "action" and key not in changes_of(rule)]


def plain(rule: Rule) -> dict[str, object]:
    """Return the keys of a rule that are not as by default, with the values as they would stand in the file."""
    values = {key_of(knob): (getattr(rule, knob.name), knob.default) for knob in knobs(Rule)}
    return {key: _plain(value) for key, (value, default) in values.items() if value != default}


def _plain(value: object) -> object:
    match value:
        case tuple():
            return [_plain(each) for each in value]
        case Family():
            return value.label
        case PrefixRange():
            return str(value)
        case NextHopTerm(within, to, is_self):
            return [str(each) for each in within] if within else "self" if is_self else str(to)
        case Prepend(times, asns):
            return list(asns) or times
    return value


def in_words(rule: Rule) -> str:
    """Return a rule on one line: `prefix 10.0.0.0/8 le 24, community no-export: accept, med 5`."""
    said = plain(rule)
    changes = changes_of(rule)
    terms = ", ".join(f"{key} {_words(said[key])}" for key in terms_of(rule)) or "every route"
    return ", ".join([f"{terms}: {rule.action}", *(f"{key} {_words(said[key])}" for key in said if key in changes)])


def _words(value: object) -> str:
    if isinstance(value, list):
        return " or ".join(map(_words, value)) if len(value) < 6 else f"one of {len(value)}"
    return value if isinstance(value, str) else shown(value)
