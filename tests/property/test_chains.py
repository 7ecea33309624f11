"""What is written makes a table what is wanted, whatever it was, and leaves what is somebody else's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from bgpmesh.policy.chains import ChainKey, Rules, Standing, identified, is_as, parse_listing, restore_text, rules_of

HOOKS = ("PREROUTING", "POSTROUTING")
RULES = st.lists(st.sampled_from(("-j ACCEPT", "-j RETURN", "-s 10.0.0.0/8 -j RETURN")), max_size=3).map(tuple)
CHAINS = st.dictionaries(st.sampled_from(("bm-a", "bm-b", "bm-c")), RULES)
WANTED = st.tuples(CHAINS, st.dictionaries(st.sampled_from(HOOKS), RULES.filter(bool))).map(
    lambda both: {chain: identified(chain, rules) for chain, rules in {**both[0], **both[1]}.items()}
)
# Where somebody meddles: at the head or the end of a built-in chain, or in ours; or by deleting a rule.
MEDDLING = st.lists(
    st.tuples(st.sampled_from((*HOOKS, "bm-a")), st.sampled_from(("head", "end", "delete", "flush"))), max_size=4
)


@dataclass
class Table:
    """A table as iptables-restore would change it, and iptables-save would list it."""

    chains: dict[str, list[str]] = field(default_factory=lambda: {chain: [] for chain in HOOKS})

    def restore(self, text: str) -> None:
        """Do what the text says; an error of it is one of the test."""
        for line in text.splitlines()[1:-1]:
            word, _, rest = line.partition(" ")
            chain, _, rule = rest.partition(" ")
            match word:
                case "-A":
                    self.chains[chain].append(rule)
                case "-D":
                    self.chains[chain].remove(rule)
                case "-I":
                    number, _, rule = rule.partition(" ")
                    self.chains[chain].insert(int(number) - 1, rule)
                case "-X":
                    assert not self.chains.pop(chain)
                case _:
                    assert word.startswith(":")
                    self.chains[word[1:]] = []

    def listed(self) -> dict[ChainKey, Standing]:
        """Return what is found of ours."""
        lines = ["*nat", *(f":{chain} - [0:0]" for chain in self.chains)]
        lines += [f"-A {chain} {rule}" for chain, rules in self.chains.items() for rule in rules]
        return parse_listing("\n".join([*lines, "COMMIT"]), 4)

    def foreign(self) -> list[str]:
        """Return what others have in built-in chains."""
        return [rule for chain in HOOKS for rule in self.chains[chain] if "bm:" not in rule]

    def become(self, wanted: Mapping[str, Rules]) -> int:
        """Write what differs, as the edge does; return how many chains that were."""
        found = self.listed()
        keys = found.keys() | {ChainKey(4, "nat", chain) for chain in wanted}
        rules = {key: wanted.get(key.chain) for key in keys}
        gap: dict[str, Rules | None] = {
            key.chain: want
            for key, want in rules.items()
            if want is None or key not in found or rules_of(key, found[key], (want,)) != want
        }
        if gap:
            self.restore(restore_text("nat", gap, {key.chain: each for key, each in found.items()}))
        return len(gap)

    def meddle(self, chain: str, how: str) -> None:
        """Change something behind our back."""
        rules = self.chains.get(chain, [])
        match how:
            case "head":
                rules.insert(0, f"-j THEIRS{len(rules)}")
            case "end":
                rules.append(f"-j THEIRS{len(rules)}")
            case "delete" if rules and "bm:" in rules[0]:
                rules.pop(0)
            case "flush":
                rules[:] = [rule for rule in rules if "bm:" not in rule]


@given(WANTED, MEDDLING, WANTED)
def test_the_difference_makes_the_old_the_new(
    old: dict[str, Rules], meddling: list[tuple[str, str]], new: dict[str, Rules]
) -> None:
    """Also over what others did meanwhile, whose rules stay; and then there is no difference."""
    table = Table()
    table.become(old)
    for chain, how in meddling:
        table.meddle(chain, how)
    theirs = table.foreign()
    table.become(new)
    found = table.listed()
    assert {key.chain for key in found} == new.keys()
    assert all(is_as(key, new[key.chain], standing) for key, standing in found.items())
    assert theirs == table.foreign()
    assert table.become(new) == 0
