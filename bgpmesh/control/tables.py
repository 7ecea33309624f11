"""The answers as people read them: one function for each command, out of `cells`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from bgpmesh.control.cells import Row, cell, clean, duration, each_of, field, list_of, listing, pairs, table


def check(result: object) -> str:
    """Return what `check` found: the node, its sessions, and what is probably not meant."""
    warnings = _warnings(result)
    if field(result, "node") is None:
        nodes = field(result, "nodes")
        rows = nodes.items() if isinstance(nodes, Mapping) else ()
        head = f"{cell(field(result, 'file'))} is valid; this host is none of its nodes (--node shows one)"
        return "\n".join([head, *([table(("NODE", "SESSIONS"), rows)] if rows else []), *warnings])
    head = pairs(
        [(name, field(result, name.replace(" ", "_"))) for name in ("node", "asn", "router id", "cluster id")]
        + [("pod CIDRs", field(result, "pod_cidrs")), ("advertises", field(result, "advertise"))]
        + ([("kernel", "no route is written (kernel.enabled = false)")] if not field(result, "kernel") else [])
    )
    columns = ("peer", "address", "asn", "role", "families", "passive", "md5", "import", "export", "bfd")
    rows_of_peers = each_of(field(result, "sessions"))
    sessions = listing(rows_of_peers, columns, "no sessions")
    notes = [
        f"next hops from {', '.join(names)} resolve {words}"
        for key, words in _RESOLUTION.items()
        if field(result, "kernel")
        and (names := [cell(row.get("peer")) for row in rows_of_peers if row.get("next_hop_resolution") == key])
    ]
    filters = [f"\n{_filter(row)}" for row in each_of(field(result, "filters"))]
    return "\n".join([head, "", sessions, *filters, *([""] if notes or warnings else []), *notes, *warnings])


def _warnings(result: object) -> list[str]:
    return [f"warning: {cell(each)}" for each in list_of(result, "warnings")]


def findings(result: object) -> str:
    """Return what `doctor` found, what is wrong with its cure below."""
    lines = []
    for row in each_of(result):
        lines.append(f"{cell(row.get('level')):<7}  {cell(row.get('check'))}: {cell(row.get('found'))}")
        lines += [f"{'':<7}    -> {cell(row.get('cure'))}"] if row.get("cure") else []
    return "\n".join(lines)


def _filter(row: Row) -> str:
    """Return a filter: who has it, its rules, and the last word."""
    users = [f"{key} of {cell(row.get(key))}" for key in ("import", "export") if row.get(key)]
    rules = [f"  {cell(rule.get('number')):>3}  {cell(rule.get('words'))}" for rule in each_of(row.get("rules"))]
    head = f"filter {cell(row.get('name'))} ({', '.join(users)})"
    return "\n".join([head, *rules, f"       otherwise: {cell(row.get('default'))}"])


def status(result: object) -> str:
    """Return the node as a whole, and its peers."""
    ready = "ready" if field(result, "ready") else "not ready"
    lines = [f"{cell(field(result, 'node'))}: {ready}, up {duration(field(result, 'uptime_s'))}"]
    lines += [f"  - {cell(reason)}" for reason in list_of(result, "reasons")]
    lines += _unconfirmed(result)
    lines += [f"  - {cell(warning)}" for warning in list_of(result, "warnings")]
    said = " ".join(map(cell, list_of(result, "reasons")))
    remarks = [
        row for row in each_of(list_of(field(result, "policy"), "errors")) if cell(row.get("reason")) not in said
    ]
    remarks += each_of(list_of(field(result, "policy"), "warnings"))
    lines += [f"  - {' '.join(filter(None, map(cell, map(row.get, _REMARK))))}" for row in remarks]
    rib, fib = field(result, "rib"), field(result, "fib")
    counts = [("RIB", f"{field(rib, 'ipv4')} IPv4, {field(rib, 'ipv6')} IPv6")]
    words = (
        ("wanted", "wanted"),
        ("installed", "installed"),
        ("failed", "failed"),
        ("drift repaired", "drift_repaired"),
    )
    counts.append(("FIB", ", ".join(f"{field(fib, key)} {word}" for word, key in words)))
    counts.append(("packet filter", _policy(field(result, "policy"))))
    sections = [pairs(counts), peers(list_of(result, "peers"))]
    if ranges := list_of(result, "ranges"):
        sections.append(listing(ranges, ("name", "range", "asn", "speakers", "limit", "last_error"), ""))
    if programs := each_of(list_of(result, "processes")):
        sections.append(_processes(programs))
    return "\n\n".join(["\n".join(lines), *sections])


def _processes(programs: Sequence[Mapping[str, object]]) -> str:
    """Return one line for each program, and for each prefix that is not announced for it."""
    heads = ("PROCESS", "STATE", "PID", "RESTARTS", "ROUTES", "LAST ERROR")
    keys = ("name", "state", "pid", "restarts", "routes", "last_error")
    refused = [(row, each) for row in programs for each in each_of(list_of(row, "refused"))]
    lines = [
        f"  - {cell(row.get('name'))}: {cell(each.get('prefix'))} is not announced: {cell(each.get('reason'))}"
        for row, each in refused
    ]
    return "\n".join([table(heads, ([row.get(key) for key in keys] for row in programs)), *lines])


_REMARK = ("object", "field", "reason")


def _policy(policy: object) -> str:
    rules, errors, warnings = field(policy, "rules"), list_of(policy, "errors"), list_of(policy, "warnings")
    count = field(policy, "policies")
    counted = [_count(each, word) for each, word in ((count, "policies"), (rules, "rules"), (len(errors), "errors"))]
    counted += [_count(len(warnings), "warnings")] if warnings else []
    return ", ".join(counted) if count or rules or errors else ""


def _count(number: object, of: str) -> str:
    """Return a number of things; `of` is their plural."""
    one = f"{of[:-3]}y" if of.endswith("ies") else of[:-1]
    return f"{cell(number)} {one if number == 1 else of}"


_COUNTED = ("received", "accepted", "advertised")


def peers(result: object) -> str:
    """Return one line for each peer."""
    columns = ("peer", "address", "asn", "state", "up", "bfd", *_COUNTED, "last_error", "warnings")
    rows = [
        {**row, "peer": row.get("name"), "up": duration(row.get("uptime_s")), "last_error": _current_error(row)}
        for row in each_of(result)
    ]
    return listing(rows, columns, "no peers")


def _current_error(peer: Row) -> object:
    """Return why a session is not up; of one that is, the last error is over, and says why it went down before."""
    return None if peer.get("state") == "Established" else peer.get("last_error")


def peer(result: object) -> str:
    """Return one peer in full; the answer is a list of one."""
    rows = each_of(result)
    peer: Row = rows[0] if rows else {}
    families = peer.get("families")
    counted = families.items() if isinstance(families, Mapping) else ()
    head = pairs(
        [
            ("peer", peer.get("name")),
            *((key, peer.get(key)) for key in ("address", "asn", "role", "state")),
            ("up", duration(peer.get("uptime_s"))),
            ("last error", _current_error(peer)),
            ("went down", peer.get("went_down") if peer.get("went_down") != _current_error(peer) else None),
            ("warnings", peer.get("warnings")),
            ("BFD", _bfd(peer)),
            ("router id", peer.get("router_id")),
            ("passive", peer.get("passive")),
            ("hold time", None if peer.get("hold_time") is None else f"{peer.get('hold_time')} s"),
            *((key, peer.get(key)) for key in ("capabilities", "import", "export")),
            ("malformed", _malformed(peer)),
            ("claims", _claims(peer)),
            ("stale", _stale(peer)),
            ("flowspec", _flows_of(peer)),
            ("next hops", _RESOLUTION.get(str(peer.get("next_hop_resolution")))),
        ]
    )
    heads = ("FAMILY", *map(str.upper, _COUNTED))
    return f"{head}\n\n{table(heads, ([name, *(field(counts, key) for key in _COUNTED)] for name, counts in counted))}"


_RESOLUTION = {
    "connected": "by a connected route only (single-hop eBGP)",
    "any route": "by any route of the host, its default route too",
}


def _bfd(peer: Row) -> str:
    session = peer.get("bfd_session")
    if not isinstance(session, Mapping):
        return cell(peer.get("bfd"))
    is_single_hop = session.get("single_hop")
    hops = "not heard" if is_single_hop is None else "single hop" if is_single_hop else "multihop"
    words = f"{session.get('state')} for {duration(session.get('since_s'))}"
    if peer.get("bfd") == "up":
        sent, detected = (f"{session.get(key):g} ms" for key in ("interval_ms", "detection_ms"))
        return clean(f"{words}, {hops}: sends each {sent}, down after {detected}")
    theirs = (
        "" if is_single_hop is None else f"; the peer: {session.get('peer_state')}, {session.get('peer_diagnostic')}"
    )
    return clean(f"{words}, {hops}: {session.get('diagnostic')}{theirs}")


def _malformed(peer: Row) -> str:
    withdrawn, discarded = peer.get("treated_as_withdraw"), peer.get("attributes_discarded")
    if not withdrawn and not discarded:
        return ""
    latest = f"; the latest of this session: {peer.get('update_problem')}" if peer.get("update_problem") else ""
    return f"{withdrawn} UPDATEs treated as withdraw, {discarded} attributes discarded{latest}"


def _claims(peer: Row) -> str:
    heard, count = peer.get("identities"), peer.get("claims_refused")
    if not heard and not count:
        return ""
    first = f"; the first of this session: {peer.get('claims_problem')}" if peer.get("claims_problem") else ""
    return f"labels of {heard} addresses, {count} prefixes refused{first}"


def _stale(peer: Row) -> str:
    count, long_lived = peer.get("stale"), peer.get("long_lived_stale")
    if not count:
        return ""
    return f"{count} prefixes" + (f", {long_lived} of them long-lived stale" if long_lived else "")


def _flows_of(peer: Row) -> str:
    counts = peer.get("flowspec")
    if not isinstance(counts, Mapping):
        return ""
    parts = [f"{count} {word}" for word, count in counts.items() if count and word not in {"rules", "ttl"}]
    ttl = f", each for {duration(counts.get('ttl'))}" if counts.get("ttl") else ""
    return f"{', '.join(parts) or 'none'}; at most {counts.get('rules')}{ttl}"


def routes(result: object) -> str:
    """Return one line for each path, the best of a prefix first."""
    rows: list[Sequence[object]] = []
    for route in each_of(result):
        for number, path in enumerate(each_of(route.get("paths"))):
            is_first = number == 0
            rows.append(
                (
                    _marks(path),
                    route.get("prefix") if is_first else None,
                    path.get("next_hop") or "-",
                    _whose(path),
                    path.get("as_path") or "-",
                    path.get("local_pref"),
                    path.get("med"),
                    _in_kernel(route) if is_first else None,
                    path.get("reason"),
                    _after(path),
                )
            )
    if not rows:
        return "no routes"
    heads = ("", "PREFIX", "NEXT HOP", "PEER", "AS PATH", "LOCAL PREF", "MED", "KERNEL", "REASON", "AFTER IMPORT")
    return table(heads, rows) + "\n\n* best, + shares its traffic (ECMP), s stale, S long-lived stale"


def _in_kernel(route: Row) -> str:
    """Return what the kernel has of a prefix, and why it has nothing where that is meant."""
    return ": ".join(cell(route.get(key)) for key in ("kernel", "kernel_reason") if route.get(key))


def _whose(path: Row) -> str:
    """Return the peer of a path; of several that it tells of the identifier too (RFC 7911)."""
    path_id = path.get("path_id")
    return (cell(path.get("peer")) or "local") + ("" if path_id is None else f" path {cell(path_id)}")


def _after(path: Row) -> str:
    """Return what import has made of a path, as far as it is other than what came."""
    after = path.get("after")
    changed = {k: v for k, v in after.items() if v != path.get(k)} if isinstance(after, Mapping) else {}
    by = f" ({cell(path.get('filtered'))})" if changed and path.get("filtered") else ""
    return ", ".join(f"{key} {cell(value) or 'none'}" for key, value in changed.items()) + by


def _marks(path: Row) -> str:
    best = "*" if path.get("best") else "+" if path.get("multipath") else " "
    return best + ("S" if path.get("long_lived_stale") else "s" if path.get("stale") else " ")


def kernel(result: object) -> str:
    """Return what the kernel should have and has."""
    return listing(result, ("prefix", "wanted", "actual", "kernel"), "no routes of ours")


def trace(result: object) -> str:
    """Return the stations of a prefix, numbered."""
    lines = [f"{cell(field(result, 'prefix'))}"]
    for number, station in enumerate(each_of(field(result, "stations")), 1):
        ago = station.get("ago_s")
        when = f"  ({duration(ago)} ago)" if ago is not None else ""
        lines.append(f"{number}  {cell(station.get('station')):<12} {cell(station.get('state'))}{when}")
        lines += [f"   {'':<12} {cell(detail)}" for detail in list_of(station, "details")]
    return "\n".join(lines)


def history(result: object) -> str:
    """Return one line for each event: when, what, and its keys."""
    rows = each_of(result)
    lines = [[_local(row.get("at")), _loud(row.get("level")), row.get("event"), row.get("keys")] for row in rows]
    return table(("TIME", "", "EVENT", ""), lines) if lines else "nothing is remembered of it"


def _local(at: object) -> str:
    """Return a time as this host has it, to the millisecond."""
    from datetime import datetime  # noqa: PLC0415  two milliseconds, for this command alone

    then = datetime.fromisoformat(str(at)).astimezone()
    return then.strftime("%Y-%m-%d %H:%M:%S.") + f"{then.microsecond // 1000:03}"


def _loud(level: object) -> str:
    return "" if level == "info" else cell(level).upper()


def reload(result: object) -> str:
    """Return what is in force now, and what that has done."""
    changes = field(result, "changes")
    lines = [f"in force: generation {cell(field(result, 'generation'))}", *_unconfirmed(result)]
    if field(changes, "same") is False:
        return "\n".join([*lines, "", plan(changes)])
    return "\n".join([*lines, *_warnings(result)])


def confirmed(result: object) -> str:
    """Return what is kept."""
    return f"confirmed: {field(result, 'confirmed')}"


def rollback(result: object) -> str:
    """Return to what it went back, or would go, and what that has done."""
    to, changes = cell(field(result, "to")), field(result, "changes")
    head = f"rolled back: {to}" if field(result, "rolled_back") else f"would roll back: {to}"
    return head if changes is None else f"{head}\n\n{plan(changes)}"


def _unconfirmed(result: object) -> list[str]:
    """Return the line that says what is on trial, if anything is."""
    trial = field(result, "unconfirmed")
    if trial is None:
        return []
    left = duration(field(trial, "rolls_back_s"))
    return [f"unconfirmed: {cell(field(trial, 'what'))}, rolls back in {left} (bgpmesh confirm keeps it)"]


def plan(result: object) -> str:
    """Return what a configuration would do, or has done: keys, sessions, prefixes, what waits, what is odd."""
    rows = [(row.get("key"), row.get("from"), row.get("to")) for row in each_of(field(result, "keys"))]
    lines = [table(("KEY", "FROM", "TO"), rows)] if rows else ["no difference"]
    sessions = field(result, "sessions")
    heads = ("SESSION", "IS", "BECAUSE", "PATHS", "CHANGES", "FILTERS")
    found = [
        (row.get("peer"), word, _because(row), row.get("received"), _differences(row), row.get("filters"))
        for word in ("removed", "reset", "added", "changed")
        for row in each_of(field(sessions, word))
    ]
    unchanged = field(sessions, "unchanged")
    lines += ["", table(heads, found)] if found else []
    lines += ["", f"sessions that go on as they are: {unchanged}"] if unchanged and rows else []
    prefixes = field(result, "prefixes")
    lines += [f"{word}: {cell(field(prefixes, word))}" for word in ("announced", "withdrawn") if field(prefixes, word)]
    if waiting := list_of(result, "restart"):
        lines.append(f"waits for a restart of the daemon: {cell(waiting)}")
    return "\n".join([*lines, *_warnings(result)])


def _because(row: Row) -> object:
    former = row.get("renamed_from")
    return f"renamed from {cell(former)}: resets" if former else row.get("because")


def _differences(row: Row) -> str:
    return ", ".join(
        f"{cell(each.get('field'))} {cell(each.get('from')) or '-'} -> {cell(each.get('to')) or '-'}"
        for each in each_of(row.get("changes"))
    )


def workloads(result: object) -> str:
    """Return one line for each workload."""
    columns = ("name", "namespace", "addresses", "interface", "labels", "netns", "problem")
    return listing(result, columns, "no workloads")


def objects(result: object) -> str:
    """Return one line for each object."""
    columns = ("kind", "name", "namespace", "source")
    return listing(result, columns, "no objects")


def changed(result: object) -> str:
    """Return what was applied or deleted, what was refused and what is odd, one a line."""
    lines = [f"{cell(each)} {word}" for word in ("applied", "deleted") for each in list_of(result, word)]
    return "\n".join([*lines, *_remarks(result), *_unconfirmed(result)]) or "nothing to do"


def _remarks(result: object) -> list[str]:
    """Return what was refused and what is odd, one a line."""
    lines: list[str] = []
    for word in ("refused", "warnings"):
        for row in each_of(field(result, word)):
            where = ": ".join(filter(None, (str(row.get("object") or ""), str(row.get("field") or ""))))
            lines.append(clean(f"{word.removesuffix('s')}: {where}{': ' if where else ''}{row.get('reason')}"))
    return lines


def policies(result: object) -> str:
    """Return what each workload and host endpoint is under: a line for each tier of each direction."""
    rows = [
        (
            row.get("workload"),
            row.get("phase"),
            direction,
            layer.get("tier") or "(profiles)",
            *(layer.get(key) for key in _OF_A_TIER),
        )
        for row in each_of(result)
        for direction in ("ingress", "egress")
        for layer in each_of(row.get(direction))
    ]
    heads = ("WORKLOAD", "PHASE", "DIRECTION", "TIER", "POLICIES", "STAGED", "DEFAULT")
    return table(heads, rows) if rows else "no workloads, no host endpoints"


_OF_A_TIER = ("policies", "staged", "default")


def preview(result: object) -> str:
    """Return what a change would do to objects, to workloads, and to connections, and what is not known of that."""
    lines = [
        f"{cell(each)} would be {word}" for word in ("added", "changed", "deleted") for each in list_of(result, word)
    ]
    lines += [f"{cell(each)} is as it was" for each in list_of(result, "unchanged")]
    lines += _remarks(result)
    groups: dict[tuple[str, ...], list[str]] = {}  # what changes -> for whom
    for row in each_of(field(result, "workloads")):
        phase = "" if row.get("phase") == "normal" else cell(row.get("phase"))
        what = (cell(row.get("direction")), phase, *(cell(row.get(word)) for word in _OF_A_TURN))
        groups.setdefault(what, []).append(cell(row.get("workload")))
    heads = ("WORKLOADS", "DIRECTION", "PHASE", *map(str.upper, _OF_A_TURN))
    lines += ["", table(heads, ((_some(own), *what) for what, own in groups.items()))] if groups else []
    for key, words in _FATES.items():
        count, rows = field(result, f"{key}_count"), each_of(field(result, key))
        if count or (key == "cut" and field(result, "revoke")):
            lines += ["", f"{count or 'none'} of {field(result, 'looked_at')} connections {words}"]
        lines += [table(_OF_A_FATE, map(_fate, rows))] if rows else []
        lines += [f"(the first {len(rows)})"] if isinstance(count, int) and count > len(rows) else []
    return "\n".join([*lines, *(f"not known here: {cell(each)}" for each in list_of(result, "unknown"))])


_OF_A_TURN = ("added", "removed", "changed", "staged")
_FATES = {
    "cut": "would be cut",
    "restored": "have been cut, and would come back",
    "kept": "would go on, and not begin again ([policy] revoke = false)",
}
_OF_A_FATE = ("", "SOURCE", "DESTINATION", "TRANSLATED", "WORKLOAD", "DIRECTION", "TIER", "POLICY", "RULE")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _fate(row: Row) -> list[object]:
    source = _end(row.get("source"), row.get("source_port"), row.get("from"))
    destination = _end(row.get("destination"), row.get("port"), row.get("to"))
    to = [each for key in ("source", "destination") if (each := row.get(f"translated_{key}")) is not None]
    rule = "default" if row.get("rule") is None else row.get("rule")
    kind = " ".join(cell(row.get(key)) for key in ("protocol", "icmp") if row.get(key) is not None)
    return [kind, source, destination, to, *(row.get(key) for key in ("workload", "direction", "tier", "policy")), rule]


def explanation(result: object) -> str:
    """Return the verdict, and the steps to it."""
    head = f"{cell(field(result, 'verdict'))}: {cell(field(result, 'from'))} to {cell(field(result, 'to'))}"
    heads = ("DIRECTION", "WORKLOAD", "TIER", "POLICY", "RULE", "ACTION", "TO", "PACKETS", "BYTES", "CHAIN")
    rows = [
        {**row, "action": f"{row.get('action')} (staged)"} if row.get("staged") else row
        for row in each_of(field(result, "steps"))
    ]
    steps = [table(heads, ([row.get(key.lower()) for key in heads] for row in rows))] if rows else ["nothing is asked"]
    notes = [f"not known here: {cell(each)}" for each in list_of(result, "unknown")]
    notes += [f"why not: {cell(each)}" for each in list_of(result, "why_not")]
    return "\n".join([head, "", *steps, *([""] if notes else []), *notes])


def flows(result: object) -> str:
    """Return one line for each flow, in the order in which they are asked."""
    rows = [{**row, "age": duration(row.get("age_s")), "expires": _left(row)} for row in each_of(result)]
    columns = ("peer", "rule", "match", "action", "state", "reason", "age", "expires", "packets", "bytes", "passed")
    return listing(rows, columns, "no flows")


def _left(row: Row) -> str:
    return f"in {duration(row.get('expires_s'))}" if row.get("expires_s") is not None else ""


def drops(result: object) -> str:
    """Return one line for each rule that has dropped something."""
    columns = ("policy", "tier", "rule", "action", "direction", "workload", "workloads", "packets", "bytes")
    return listing(result, columns, "nothing was dropped")


def drop(result: object) -> str:
    """Return one dropped packet on one line."""
    lost = field(result, "lost")
    if lost is not None:
        return f"({cell(lost)} or more were too fast to be shown)"
    seconds, rule, own = (field(result, key) for key in ("time", "rule", "workload"))
    at = time.strftime("%H:%M:%S", time.localtime(seconds)) if isinstance(seconds, int | float) else "-"
    which = f"rule {cell(rule)}" if rule else "default" if field(result, "tier") else None
    ends = [
        _end(field(result, address), field(result, port), field(result, name))
        for address, port, name in (("source", "source_port", "from"), ("destination", "port", "to"))
    ]
    parts = [at, field(result, "policy"), which, field(result, "direction"), f"of {cell(own)}:" if own else None]
    parts += [field(result, "protocol"), field(result, "icmp"), " > ".join(ends)]
    return " ".join(cell(part) for part in parts if part is not None)


def _end(address: object, port: object, name: object) -> str:
    shown = f"[{cell(address)}]" if ":" in str(address) and port is not None else cell(address)
    return f"{shown}{'' if port is None else f':{cell(port)}'}{'' if name is None else f' ({cell(name)})'}"


def draining(result: object) -> str:
    """Return how a drain goes, on one line."""
    rate, problem = field(result, "rate"), field(result, "problem")
    came = f"unknown: {cell(problem)}" if problem else "being measured" if rate is None else f"{cell(rate)} B/s"
    waited, limit = (duration(field(result, key)) for key in ("waited_s", "limit_s"))
    return f"{waited} of {limit}: traffic {came}, wanted below {_amount(field(result, 'below'))} B/s"


def _amount(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else cell(value)


def drained(result: object) -> str:
    """Return what a drain has come to."""
    state, reason, count = (field(result, key) for key in ("state", "reason", "workloads"))
    if state == "drained":
        kept = f"the addresses of {cell(count)} workloads stay announced, as the last choice"
        return f"drained ({cell(reason)}); {kept}"
    if state == "stopped":
        return f"drained ({cell(reason)}); nothing is announced, all sessions are closed"
    return f"not drained: {cell(reason)}"


def undrained(result: object) -> str:
    """Return whether a node is in service again."""
    if field(result, "state") == "none":
        return "in service"
    waiting = field(result, "waiting_for")
    names = f", waiting for {', '.join(map(cell, waiting))}" if isinstance(waiting, Mapping) and waiting else ""
    return f"not in service: {cell(field(result, 'state'))}{names}"


def pools(result: object) -> str:
    """Return the node's blocks, and who has which address."""
    blocks = ([row.get(key) for key in ("cidr", "pool", "used", "free")] for row in each_of(field(result, "blocks")))
    used = listing(field(result, "addresses"), ("address", "workload", "block"), "no address is in use")
    return "\n".join([table(("BLOCK", "POOL", "USED", "FREE"), blocks), "", used])


def leaks(result: object) -> str:
    """Return one line for each workload that holds addresses in vain."""
    rows = field(result, "leaks")
    return listing(rows, ("workload", "addresses", "fixed", "reason"), "no address is held in vain")


def floating_ips(result: object) -> str:
    """Return one line for each floating address."""
    columns = ("external", "workload", "address", "outbound", "announced", "from", "problem")
    return listing(result, columns, "no floating addresses")
