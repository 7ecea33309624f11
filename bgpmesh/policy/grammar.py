"""The rules that policies and flows may become, as one grammar: what is none of it never leaves.

`as_written` is the only way from a rule's text to what is written. Names that people choose do not reach the text:
chains and sets are called by hashes, and interface names are of one alphabet. Where somebody follows drops, each rule
that drops has one before it that sends the packet to a group of NFLOG.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from bgpmesh.policy.chains import identified

LOGGED_OCTETS = 128  # of a dropped packet, for who follows: its headers
# For each rule that drops, so that a flood is shown and does not become one of messages.
_LOG_LIMIT = "-m limit --limit 10/second --limit-burst 20"

_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,14}"  # of an interface: IFNAMSIZ less one
_MARK = r"0x[0-9a-f]{1,8}/0x[0-9a-f]{1,8}"
_RATE = r"[0-9]{1,10}(?:b/s|/second|/minute)(?: --hashlimit-burst [0-9]{1,7})?"
_MATCHES = "|".join(
    [
        rf"(?:! )?-[io] {_NAME}\+?",
        r"-[sd] [0-9a-f.:]{2,39}/(?:[0-9]{1,3}|[0-9a-f.:]{2,45})",
        r"(?:! )?-p [0-9]{1,3}",
        r"-m set (?:! )?--match-set bm-[46]-(?:[a-z2-7]{20}|flows) (?:src|dst)(?:,(?:src|dst))?",
        r"-m multiport (?:! )?--[sd]ports [0-9:,]{1,89}",
        r"-m icmp (?:! )?--icmp-type [0-9]{1,3}(?:/[0-9]{1,3})?",
        r"-m icmp6 (?:! )?--icmpv6-type [0-9]{1,3}(?:/[0-9]{1,3})?",
        rf"-m (?:conn)?mark --mark {_MARK}",
        r"-m conntrack --ctstate [A-Z,]{3,30}",
        r"-m rpfilter --invert",
        r"-m limit --limit [0-9]{1,3}/second --limit-burst [0-9]{1,3}",
        r"-m addrtype --dst-type LOCAL",
        r"-m tcp --tcp-flags [A-Z,]{3,23} [A-Z,]{3,23}",
        r"-m ecn (?:! )?--ecn-tcp-(?:ece|cwr)",
        r"-m length --length [0-9]{1,5}:[0-9]{1,5}",
        r"-m dscp (?:! )?--dscp [0-9]{1,2}",
        rf"-m hashlimit --hashlimit-above {_RATE} --hashlimit-name bm[a-z0-9]{{12}}",
    ]
)
_NFLOG = r"-j NFLOG --nflog-group [0-9]{1,5} --nflog-prefix bm-[A-Za-z0-9._-]{1,25}:[0-9]{1,5} --nflog-size [0-9]{1,3}"
_TARGET = "|".join(
    [
        r"-[jg] [A-Za-z0-9._-]{2,28}",
        rf"-j MARK --set-xmark {_MARK}",
        r"-j LOG --log-prefix bm-[a-z0-9-]{1,25}:",
        _NFLOG,
        r"-j CT --notrack",
    ]
)
_INTERFACE = re.compile(_NAME)
_RULE = re.compile(rf"(?:(?:{_MATCHES}) )*-m comment --comment bm:[A-Za-z0-9_-]{{16}} (?:{_TARGET})")


@functools.lru_cache(maxsize=65_536)
def as_written(chain: str, rules: tuple[str, ...], log_group: int = 0) -> tuple[str, ...]:
    """Return the rules with their ids, each looked at; where drops are followed, each with one before that tells."""
    found = identified(chain, _telling(chain, rules, log_group) if log_group else rules)
    for text in found:
        if not _RULE.fullmatch(text):
            raise ValueError(f"{chain}: {text!r} is no rule that we write")
    return found


def is_interface(name: str) -> bool:
    """Tell whether a rule may ask for an interface of this name."""
    return _INTERFACE.fullmatch(name) is not None


def told_as(rule: str) -> str:
    """Return by which prefix a rule tells of what the next one drops; "" where it is none that tells."""
    return rule.partition(" --nflog-prefix ")[2].partition(" ")[0]


def _telling(chain: str, rules: tuple[str, ...], group: int) -> Iterator[str]:
    """Yield the rules, and before each that drops one that sends its packets to a group; the prefix says whose."""
    for place, rule in enumerate(rules):
        if rule.endswith("-j DROP"):
            target = f"-j NFLOG --nflog-group {group} --nflog-prefix {chain}:{place} --nflog-size {LOGGED_OCTETS}"
            yield f"{rule.removesuffix('-j DROP')}{_LOG_LIMIT} {target}"
        yield rule
