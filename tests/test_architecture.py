"""The house rules that a machine can keep."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import bgpmesh

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bgpmesh"

# Who may import whom, bottom up. A name that is absent from a set is a wall.
BASE = {"errors", "delta", "route"}
MAY_IMPORT: dict[str, set[str]] = {
    "frozen": set(),
    "errors": set(),
    "delta": set(),
    "route": {"errors"},
    "workload": BASE,
    "peering": BASE,
    "rib": BASE | {"peering"},
    "policy": BASE | {"workload"},
}
TOLD = set(MAY_IMPORT) | {"events", "notes"}
# The rooms of the engine: sessions know nothing of packets, workloads nothing of either, and none knows the engine.
MAY_IMPORT |= {
    "agenda": {"route"},
    "events": TOLD - {"events", "notes"},
    "notes": {"delta", "events"},
    "restart": BASE | {"peering", "events", "notes", "agenda"},
    "faults": {"route", "rib", "events", "notes"},
    "paths": {"route", "peering", "events", "notes"},
    "callers": BASE | {"peering", "events", "notes"},
    "peers": BASE | {"peering", "rib", "events", "notes", "agenda", "restart", "faults", "paths", "callers"},
    "flowspec": TOLD - {"workload", "rib", "delta"},
    "said": BASE | {"workload", "events"},
    "local": TOLD - {"peering"} | {"said"},
    "leads": TOLD - {"peering"} | {"local"},
    "packets": TOLD - {"peering"} | {"local", "leads", "flowspec"},
}
CORE = set(MAY_IMPORT) | {"engine"}
EDGES = {"wire", "kernel", "control", "metrics", "journal", "state", "bfd_agent", "helpers"}
MAY_IMPORT |= {"engine": CORE - {"engine"}, "log": set()}
MAY_IMPORT |= {edge: CORE | {"log"} for edge in EDGES}
# Of what stands around the engine in a daemon, these know no edge.
MAY_IMPORT |= {"pump": CORE, "chosen": {"errors", "log", "config", "state"}, "plan": CORE | {"config"}}
TOP = {
    "config",
    "objects",
    "keeper",
    "saved",
    "operations",
    "revisions",
    "daemon",
    "drain",
    "drops",
    "previews",
    "cli",
    "uninstall",
    "doctor",
    "diags",
    "__main__",
    "__init__",
}  # may import everything of ours

# The core sees no clock, no socket, no thread and no third party.
PURE_STDLIB = {
    "__future__",
    "abc",
    "base64",
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "hashlib",
    "heapq",
    "ipaddress",
    "itertools",
    "operator",
    "re",
    "struct",
    "typing",
}
ONLY_HERE = {"exabgp": "wire", "pyroute2": "kernel", "prometheus_client": "metrics", "yaml": "objects"}


def imported_by(source: Path) -> set[str]:
    """Return every absolute module name that `source` imports, wherever it does so."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "bgpmesh":
                found |= {f"bgpmesh.{alias.name}" for alias in node.names}
    return found


def is_allowed(home: str, name: str) -> bool:
    """Tell whether a module of the room `home` may import `name`."""
    top, _, rest = name.partition(".")
    inner = rest.partition(".")[0]
    if top == "bgpmesh":
        return home in TOP or inner in {"", home, "__version__", "frozen"} or inner in MAY_IMPORT[home]
    if top in sys.stdlib_module_names:
        return home not in CORE or top in PURE_STDLIB
    return ONLY_HERE.get(top) == home


def test_layers() -> None:
    """Nobody imports what stands above or beside it, and the core imports nothing of the world."""
    broken: list[str] = []
    sources = sorted(PACKAGE.rglob("*.py"))
    assert sources, "nothing was checked"
    for source in sources:
        home = source.relative_to(PACKAGE).with_suffix("").parts[0]
        assert home in MAY_IMPORT or home in TOP, f"{source}: a room that nobody drew"
        broken += [f"{source}: {name}" for name in sorted(imported_by(source)) if not is_allowed(home, name)]
    assert broken == []


def test_run_time_dependencies_are_the_three() -> None:
    """Nothing but ExaBGP, pyroute2 and prometheus-client is needed to run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert sorted(d.split(">")[0] for d in project["dependencies"]) == ["exabgp", "prometheus-client", "pyroute2"]


def test_the_version_is_written_once() -> None:
    """The package is the only place that says its version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "bgpmesh.__version__"}
    assert bgpmesh.__version__.count(".") == 2
