"""What README.md and config/README.md tell people to write and to type is taken; their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bgpmesh import cli, config, objects

REPOSITORY = Path(__file__).parents[2]
TEXTS = {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in ("README.md", "config/README.md")}
# What a file has that an example of a single feature goes into, as far as the example does not say it itself.
NEIGHBOUR = "[peer.tor1]"
AROUND = {
    "[cluster]": "asn = 64512\n",
    "[pool.default]": 'cidr = "10.244.0.0/16"\n',
    "[node.n1]": 'address = "192.0.2.1"\nreflector = true\n',
    NEIGHBOUR: 'address = "192.0.2.254"\nasn = 65001\n',
}


def blocks(kind: str) -> list[str]:
    """Return the fenced blocks of a kind; "" is what has none."""
    fenced = [
        found
        for text in TEXTS.values()
        for found in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]
    return [text for of, text in fenced if of == kind]


def commands() -> list[str]:
    """Return each command of ours in the blocks of commands, without its remark."""
    lines = [line.partition(" # ")[0] for block in blocks("") for line in block.splitlines()]
    said = [part.strip() for line in lines if line.startswith("bgpmesh ") for part in line.split(";")]
    return [line for line in said if line]


def test_there_is_something_to_look_at() -> None:
    """A README written otherwise must not pass for nothing."""
    assert len(blocks("toml")) >= 12
    assert len(commands()) >= 20


@pytest.mark.parametrize("text", blocks("toml"))
def test_an_example_is_valid(text: str) -> None:
    """In a file with the rest that a cluster needs; a password file stands for what is in it."""
    if "[[object]]" in text:
        assert objects.parse(text, "example.toml")
        return
    for table, lines in AROUND.items():
        if f"{table}\n" not in text and table != NEIGHBOUR:
            text += f"{table}\n{lines}"
        elif f"{table}\n" in text and lines.split()[0] not in text.partition(f"{table}\n")[2].partition("\n[")[0]:
            text = text.replace(f"{table}\n", f"{table}\n{lines}")
    config.parse(re.sub(r'password_file = "[^"]*"', 'password = "secret"', text), "README.md")


@pytest.mark.parametrize("line", commands())
def test_a_command_is_taken(line: str) -> None:
    """As far as its words go; what they name need not be there."""
    words = shlex.split(line)[1:]
    cli._parser(words).parse_args(words)


def links() -> list[tuple[str, str]]:
    """Return each link into the repository, with the text that it stands in."""
    found = [(name, to) for name, text in TEXTS.items() for to in re.findall(r"\]\(([^)]+)\)", text)]
    return [(name, to) for name, to in found if "://" not in to]


def anchors(text: str) -> set[str]:
    """Return the names that headings can be linked by."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize(("name", "to"), links())
def test_a_link_leads_to_a_file_and_a_heading(name: str, to: str) -> None:
    """So that a section which is renamed is still found."""
    path, _, anchor = to.partition("#")
    target = (REPOSITORY / name).parent / path if path else REPOSITORY / name
    assert target.exists()
    if anchor:
        assert anchor in anchors(target.read_text(encoding="utf-8"))
