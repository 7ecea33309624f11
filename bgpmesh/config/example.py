"""The complete commented example file, made from the metadata of every knob."""

from __future__ import annotations

from dataclasses import Field

from bgpmesh.config.options import NAMED, SINGLE
from bgpmesh.config.values import key_of, knobs, toml

_NAMES = {
    "pool": "default",
    "node": "n1",
    "peer": "tor1",
    "filter": "pods-only",
    "floating_ip": '"203.0.113.10"',
    "process": "healthcheck",
    "namespace": "shop",
}
_SECTIONS = (
    "cluster",
    "pool",
    "node",
    "peer",
    "filter",
    "floating_ip",
    "process",
    "kernel",
    "workload",
    "namespace",
    "policy",
    "metrics",
    "control",
    "state",
)
_WIDTH = 118
_INTRODUCTION = """\
# bgpmesh: one file for the whole cluster, the same on every node (/etc/bgpmesh/bgpmesh.toml).
# A node finds itself by --node, BGPMESH_NODE or its host name. Durations are seconds.
# What is commented out shows a possible value; everything else but the examples' addresses is the default.
# Made from the options of the program by `bgpmesh.config.example()`; `make check` compares.
"""


def example() -> str:
    """Return the file; `config/bgpmesh.example.toml` is this."""
    parts = [_INTRODUCTION]
    for section in _SECTIONS:
        classes = SINGLE.get(section) or (NAMED[section],)
        name = f"{section}.{_NAMES[section]}" if section in _NAMES else section
        parts.append("\n".join([f"[{name}]", *(_knob(knob, name) for cls in classes for knob in knobs(cls))]) + "\n")
    return "\n".join(parts)


def _knob(knob: Field[object], name: str) -> str:
    """Return a key, or a table that may be there several times, with its keys."""
    inner = knob.metadata.get("tables")
    if inner is None:
        return _line(knob)
    return "\n".join([f"\n[[{name}.{key_of(knob)}]]", *map(_line, knobs(inner))])


def _line(knob: Field[object]) -> str:
    meta = knob.metadata
    shown = meta.get("shown") or meta.get("example") or toml(knob.default)
    line = f"{'# ' if 'example' in meta else ''}{key_of(knob)} = {shown}"
    remark = " ".join(filter(None, (str(meta.get("help", "")), _limits(knob))))
    if not remark:
        return line
    beside = f"{line:<36}  # {remark}"
    return beside if len(beside) <= _WIDTH else f"# {remark}:\n{line}"


def _limits(knob: Field[object]) -> str:
    meta, parts = knob.metadata, []
    match meta.get("range"):
        case (low, high):
            parts.append(f"{low} to {high}" + (f" {meta['unit']}" if "unit" in meta else ""))
    match meta.get("choices"):
        case tuple(choices):
            parts.append(", ".join(map(toml, choices)))
    return f"({'; '.join(parts)})" if parts else ""
