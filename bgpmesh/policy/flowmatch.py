"""One flow specification as matches of iptables, and its attributes as what is done; or why it cannot be.

What is said here is what the packet filter does, to the packet: a flow that cannot be said exactly is refused (Unfit),
never said wider or narrower. A flow becomes lines, of which a packet matches one at the most, so that a limit counts it
once. Where the kernel is asked for what it does otherwise than it reads, that is said beside it.

RFC 8955 §4.2.2 and §7, RFC 8956 §3 and §6.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from bgpmesh.frozen import frozen
from bgpmesh.policy.compile import MULTIPORT
from bgpmesh.policy.model import Packet
from bgpmesh.policy.rule import ICMP, ICMPV6, TCP, UDP
from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.flow import Field, Flow, Kind, Prefix

MOST_LINES = 64  # of one flow
MOST_VALUES = 256  # of one flow: to read them takes time in proportion to their square
MOST_BYTES_S = 4_000_000_000  # what hashlimit's arithmetic is good for
LEAST_BYTES_S = 16  # and what it counts in (XT_HASHLIMIT_BYTE_SHIFT)
MOST_PACKETS_S = 1_000_000
_NO_UPPER_LAYER = frozenset({0, 43, 44, 51, 60})  # IPv6 extension headers, which `-p` looks behind (RFC 8200 §4)
_ICMP_ANY = 255  # to the kernel every type of ICMP
_WIDTHS = {
    Kind.PROTOCOL: 8,
    Kind.PORT: 16,
    Kind.DESTINATION_PORT: 16,
    Kind.SOURCE_PORT: 16,
    Kind.ICMP_TYPE: 8,
    Kind.ICMP_CODE: 8,
    Kind.LENGTH: 16,
    Kind.DSCP: 6,
    Kind.FLOW_LABEL: 20,
}
_TCP_NAMES = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")
_ECN_NAMES = {0x40: "ece", 0x80: "cwr"}
_TCP_BITS = 0x0FFF  # of the thirteenth and fourteenth octet: the data offset counts as zero (RFC 8955 §4.2.2.9)

Span = tuple[int, int]  # from, to, both among them


class Unfit(Exception):  # noqa: N818  no error of ours
    """A flow that is not put in force; the text says why."""


@frozen
class Doing:
    """What is done with packets of a flow: at most so many octets and packets a second pass (None: all, 0: none).

    `goes_on`: what passes is looked at by further flows (the terminal-action bit, RFC 8955 §7.3).
    """

    bytes_s: int | None = None
    packets_s: float | None = None
    goes_on: bool = False
    remark: str = ""  # what is not done

    @property
    def drops_all(self) -> bool:
        """Whether nothing passes."""
        return 0 in {self.bytes_s, self.packets_s}

    @property
    def limits(self) -> tuple[str, ...]:
        """The matches of what is over a limit, without a name for their buckets."""
        if self.drops_all:
            return ()
        found = () if self.bytes_s is None else (f"--hashlimit-above {self.bytes_s}b/s",)
        return (*found, *(() if self.packets_s is None else (_packets(self.packets_s),)))

    def __str__(self) -> str:
        """Render as people read it: `drop`, `limit to 1000 bytes/s`."""
        if self.drops_all:
            return "drop"
        limits = [
            f"{each:.10g} {unit}/s" for each, unit in ((self.bytes_s, "bytes"), (self.packets_s, "packets")) if each
        ]
        text = f"limit to {' and '.join(limits)}" if limits else "accept"
        return f"{text}, then further flows" if self.goes_on else text


NOTHING = Doing()  # RFC 8955 §7: what is not said otherwise is accepted


def doing(attributes: PathAttributes) -> Doing:
    """Return what the extended communities ask for; of several limits each holds (RFC 8955 §7.7).

    Raises Unfit for anything that is or may be an action, and is not done here: what we do not know is no "accept".
    """
    octets: list[int] = []
    packets: list[float] = []
    goes_on, remark = False, ""
    for community in attributes.ext_communities:
        match community[0], community[1]:
            case 0x80, 0x06:
                octets.append(_bytes_s(_rate(community)))
            case 0x80, 0x0C:
                packets.append(_packets_s(_rate(community)))
            case 0x80, 0x07:
                goes_on = goes_on or bool(community[7] & 1)
                remark = "sampling is not done" if community[7] & 2 else remark
            case (0x80 | 0x81 | 0x82, 0x08) | (0x08, 0x00) | (0x01, 0x0C):
                raise Unfit("redirection is not done")
            case 0x80, 0x09:
                raise Unfit("traffic marking is not done")
            case kind, sub_kind if not _is_harmless(kind, sub_kind):
                raise Unfit(f"extended community 0x{community.hex()} is not known, and may be an action")
    for _, code, value in attributes.other:
        if code == 25 and any(value[at : at + 2] not in {b"\0\2", b"\0\3"} for at in range(0, len(value), 20)):
            raise Unfit("redirection is not done")  # IPv6 address specific (RFC 8956 §6.1, RFC 5701)
    return Doing(min(octets, default=None), min(packets, default=None), goes_on, remark)


def _is_harmless(kind: int, sub_kind: int) -> bool:
    """Tell whether an extended community says nothing about packets: where a route is from or goes, or what it is."""
    kind &= ~0x40  # transitive or not
    return (kind in {0x00, 0x01, 0x02} and sub_kind in {0x02, 0x03, 0x04}) or kind == 0x03


def _rate(community: bytes) -> float:
    """Return a rate, a negative one as zero (RFC 8955 §7.1)."""
    rate: float = struct.unpack("!f", community[4:8])[0]
    if not abs(rate) < float("inf"):  # not a number neither
        raise Unfit(f"a rate of {rate} is none")
    return max(0.0, rate)


def _bytes_s(rate: float) -> int:
    if rate > MOST_BYTES_S:
        raise Unfit(f"no more than {MOST_BYTES_S} bytes/s can be counted, and {rate:.0f} are asked for")
    return int(rate) if rate >= LEAST_BYTES_S else 0


def _packets_s(rate: float) -> float:
    if rate > MOST_PACKETS_S:
        raise Unfit(f"no more than {MOST_PACKETS_S} packets/s can be counted, and {rate:.0f} are asked for")
    return int(rate) if rate >= 1 else int(rate * 60) / 60


def _packets(rate: float) -> str:
    """Return the match of what is over so many packets a second; a second's worth may come at once."""
    if rate >= 1:
        return f"--hashlimit-above {rate:.0f}/second --hashlimit-burst {rate:.0f}"
    return f"--hashlimit-above {rate * 60:.0f}/minute --hashlimit-burst 1"


# ── the match ────────────────────────────────────────────────────────────────


def matches(flow: Flow) -> tuple[str, ...]:
    """Return the lines of a flow, each the matches of one rule; "" matches every packet. Raises Unfit."""
    for kind, why in _NEVER.items():
        if flow.of(kind) is not None:
            raise Unfit(why)
    if sum(len(each.comparisons) for each in flow.components if isinstance(each, Field)) > MOST_VALUES:
        raise Unfit(f"it has more than {MOST_VALUES} values")
    ends = [_prefix(each) for each in flow.components if isinstance(each, Prefix)]
    fields = (_protocols(flow), *_transport(flow), *_header_lines(flow))
    some = itertools.islice(itertools.product(*fields), MOST_LINES + 1)
    texts = [" ".join(filter(None, (*ends, *parts))) for parts in some]
    if len(texts) > MOST_LINES:
        raise Unfit(f"it comes to more than {MOST_LINES} rules")
    if not texts:
        raise Unfit("no packet can match it")
    return tuple(texts)


_NEVER = {
    Kind.FRAGMENT: "fragments cannot be told: connection tracking puts them together first",
    Kind.FLOW_LABEL: "iptables has no match of the flow label",
}


def _prefix(prefix: Prefix) -> str:
    if not prefix.mask:
        return ""
    mask = type(prefix.address)(prefix.mask) if prefix.offset else prefix.length
    return f"-{'d' if prefix.kind is Kind.DESTINATION else 's'} {prefix.address}/{mask}"


def _protocols(flow: Flow) -> list[str]:
    """Return the matches of the protocols: those asked for that have what else is asked for (RFC 8955 §4.2.2.4 ff.)."""
    asked = flow.of(Kind.PROTOCOL)
    needed = _needed(flow)
    if asked is None:
        return [""] if needed is None else [f"-p {number}" for number in sorted(needed)]
    assert isinstance(asked, Field)
    all_there_are = set(range(256)) - (_NO_UPPER_LAYER if flow.version == 6 else set())
    named = {number for number in all_there_are if asked.holds(number)}
    left_out = all_there_are - named
    if needed is None and len(left_out) < 2 and 0 not in left_out:
        return [f"! -p {left_out.pop()}" if left_out else ""]
    found = sorted(named if needed is None else named & needed)
    if 0 in found:  # to iptables it is every protocol
        raise Unfit("iptables has no match of protocol 0")
    return [f"-p {number}" for number in found]


def _needed(flow: Flow) -> set[int] | None:
    """Return the protocols that have every field that is asked for; None: nothing is asked for that has one."""
    found: set[int] | None = None
    for kind, has in (
        (Kind.PORT, {TCP, UDP}),
        (Kind.DESTINATION_PORT, {TCP, UDP}),
        (Kind.SOURCE_PORT, {TCP, UDP}),
        (Kind.ICMP_TYPE, {_icmp(flow)}),
        (Kind.ICMP_CODE, {_icmp(flow)}),
        (Kind.TCP_FLAGS, {TCP}),
    ):
        if flow.of(kind) is not None:
            found = has if found is None else found & has
    return found


def _icmp(flow: Flow) -> int:
    return ICMP if flow.version == 4 else ICMPV6


def _transport(flow: Flow) -> Iterator[list[str]]:
    """Yield the alternatives of each field behind the IP header."""
    for kind, option in ((Kind.DESTINATION_PORT, "--dports"), (Kind.SOURCE_PORT, "--sports")):
        if (spans := _spans(flow, kind)) is not None:
            yield _ports(option, spans)
    if (spans := _spans(flow, Kind.PORT)) is not None:
        # The second is for those whose source port is none of them: a packet matches one line.
        others = " ".join(f"-m multiport ! --sports {some}" for some in _lists(spans))
        yield [*_ports("--sports", spans), *(f"{others} {each}".strip() for each in _ports("--dports", spans))]
    kinds, codes = _spans(flow, Kind.ICMP_TYPE), _spans(flow, Kind.ICMP_CODE)
    if kinds is not None or codes is not None:
        lines = _icmp_lines(flow, [(0, 255)] if kinds is None else kinds, codes)
        yield list(itertools.islice(lines, MOST_LINES + 1))
    flags = flow.of(Kind.TCP_FLAGS)
    if isinstance(flags, Field):
        yield list(_flag_lines(flags))


def _ports(option: str, spans: list[Span]) -> list[str]:
    if spans == [(0, 65535)]:
        return [f"-m multiport {option} 0:65535"]  # a packet that has one at all
    return [f"-m multiport {option} {some}" for some in _lists(spans)]


def _lists(spans: Iterable[Span]) -> Iterator[str]:
    """Yield ports as `multiport` takes them, fifteen at a time: a range counts as two."""
    some: list[str] = []
    room = MULTIPORT
    for first, last in spans:
        size = 1 if first == last else 2
        if size > room:
            yield ",".join(some)
            some, room = [], MULTIPORT
        some.append(f"{first}" if first == last else f"{first}:{last}")
        room -= size
    if some:
        yield ",".join(some)


def _icmp_lines(flow: Flow, kinds: list[Span], codes: list[Span] | None) -> Iterator[str]:
    name = "icmp --icmp-type" if flow.version == 4 else "icmp6 --icmpv6-type"
    if codes in (None, [(0, 255)]) and kinds == [(0, 255)]:
        yield ""
        return
    for kind in _each(kinds):
        if kind == _ICMP_ANY and flow.version == 4:
            raise Unfit("iptables has no match of ICMP type 255")
        if codes in (None, [(0, 255)]):
            yield f"-m {name} {kind}"
        else:
            yield from (f"-m {name} {kind}/{code}" for code in _each(codes or ()))


def _header_lines(flow: Flow) -> Iterator[list[str]]:
    """Yield the alternatives of each field of the IP header."""
    if (spans := _spans(flow, Kind.LENGTH)) is not None:
        yield [""] if spans == [(0, 65535)] else [f"-m length --length {first}:{last}" for first, last in spans]
    if (spans := _spans(flow, Kind.DSCP)) is not None:
        points = set(_each(spans))
        if len(points) == 64:
            yield [""]
        elif len(points) == 63:
            yield [f"-m dscp ! --dscp {(set(range(64)) - points).pop()}"]
        else:
            yield [f"-m dscp --dscp {point}" for point in sorted(points)]


def _each(spans: Iterable[Span]) -> Iterator[int]:
    return itertools.chain.from_iterable(range(first, last + 1) for first, last in spans)


def _spans(flow: Flow, kind: Kind) -> list[Span] | None:
    """Return the values that a component means, as spans in order; None where the flow has no such component."""
    field = flow.of(kind)
    if not isinstance(field, Field):
        return None
    end = 1 << _WIDTHS[kind]
    edges = {0, end}  # between two of them nothing changes
    for each in field.comparisons:
        value = each.value & 0x3F if kind is Kind.DSCP else each.value  # RFC 8955 §4.2.2.11
        edges |= {edge for edge in (value, value + 1) if edge < end}
    points = sorted(edges)
    found: list[Span] = []
    for first, after in itertools.pairwise(points):
        if not holds(field, first):
            continue
        if found and found[-1][1] == first - 1:
            found[-1] = (found[-1][0], after - 1)
        else:
            found.append((first, after - 1))
    return found


def holds(field: Field, value: int) -> bool:
    """Tell whether a value of the field is meant; the bits that are no part of the field do not count."""
    if field.kind is not Kind.DSCP:
        return field.holds(value)
    masked = tuple(replace(each, value=each.value & 0x3F) for each in field.comparisons)
    return replace(field, comparisons=masked).holds(value)


def _flag_lines(flags: Field) -> Iterator[str]:
    """Yield the matches of TCP flags: each bit that is asked for is set, is not, or does not matter."""
    asked = 0
    for each in flags.comparisons:
        asked |= each.value & _TCP_BITS
    if unknown := asked & ~0xFF:
        raise Unfit(f"iptables has no match of the TCP flags 0x{unknown:x}")
    bits = [1 << bit for bit in range(8) if asked >> bit & 1]
    for mask, value in _cubes(flags.holds, bits):
        names = [(name, bool(value >> bit & 1)) for bit, name in enumerate(_TCP_NAMES) if mask >> bit & 1]
        parts: list[str] = []
        if names:
            is_set = ",".join(name for name, is_on in names if is_on) or "NONE"
            parts.append(f"-m tcp --tcp-flags {','.join(name for name, _ in names)} {is_set}")
        parts += [
            f"-m ecn {'' if value & bit else '! '}--ecn-tcp-{name}" for bit, name in _ECN_NAMES.items() if mask & bit
        ]
        yield " ".join(parts)


def _cubes(is_in: Callable[[int], bool], bits: list[int], mask: int = 0, value: int = 0) -> list[tuple[int, int]]:
    """Return (bits that matter, those of them that are set), no two of which have a value in common."""
    if not bits:
        return [(mask, value)] if is_in(value) else []
    first, *others = bits
    clear = _cubes(is_in, others, mask, value)
    is_set = _cubes(is_in, others, mask, value | first)
    same = [cube for cube in clear if (cube[0], cube[1] | first) in is_set]
    clear = [(m | first, v) for m, v in clear if (m, v) not in same]
    is_set = [(m | first, v) for m, v in is_set if (m, v & ~first) not in same]
    return same + clear + is_set


# ── one packet ───────────────────────────────────────────────────────────────


def judge(flow: Flow, packet: Packet) -> tuple[bool, tuple[str, ...]]:
    """Tell whether a packet may be one of a flow, and what would have to be known for it to be sure.

    It is the first of its connection: of TCP it has SYN and no other flag.
    """
    unknown: list[str] = []
    needed = _needed(flow)
    if needed is not None and packet.protocol not in needed:
        return False, ()
    for component in flow.components:
        if isinstance(component, Prefix):
            address = packet.destination if component.kind is Kind.DESTINATION else packet.source
            is_met: bool | None = component.holds(address)
        elif component.kind is Kind.PORT:
            either = [None if port is None else component.holds(port) for port in (packet.source_port, packet.port)]
            is_met = True if True in either else None if None in either else False
        else:
            value = _field(component.kind, packet)
            is_met = None if value is None else holds(component, value)
        if is_met is False:
            return False, ()
        if is_met is None:
            unknown.append(str(Flow(flow.key, (component,))))
    return True, tuple(unknown)


def _field(kind: Kind, packet: Packet) -> int | None:
    """Return a field of the packet as far as it is known."""
    match kind:
        case Kind.PROTOCOL:
            return packet.protocol
        case Kind.DESTINATION_PORT:
            return packet.port
        case Kind.SOURCE_PORT:
            return packet.source_port
        case Kind.ICMP_TYPE:
            return None if packet.icmp is None else packet.icmp.type
        case Kind.ICMP_CODE:
            return None if packet.icmp is None else packet.icmp.code
        case Kind.TCP_FLAGS:
            return 0x02
    return None
