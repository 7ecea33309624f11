"""What README.md tells people to write and to type is taken by the program."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from bgpmesh import cli, config, objects

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
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
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for of, text in fenced if of == kind]


def commands() -> list[str]:
    """Return each command of ours in the blocks of commands, without its remark."""
    lines = [line.partition(" # ")[0] for block in blocks("") for line in block.splitlines()]
    said = [part.strip() for line in lines if line.startswith("bgpmesh ") for part in line.split(";")]
    return [line for line in said if line]


def test_there_is_something_to_look_at() -> None:
    """A README written otherwise must not pass for nothing."""
    assert len(blocks("toml")) >= 8
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
