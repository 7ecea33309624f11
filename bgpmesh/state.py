"""What must survive a restart of the daemon: a few JSON documents in one directory, each replaced whole.

| document       | says                                                         | lost or garbled, it costs            |
|----------------|--------------------------------------------------------------|--------------------------------------|
| `peers`        | the peers whose paths this node holds, established or stale  | every configured peer is waited for  |
| `last_life`    | the network stack, whether it had no route of ours there,    | without routes: a first boot; else   |
|                | how many prefixes each program (`[process.*]`) announced     | each program's first word            |
| `kernel`       | how our routes are marked: their protocol and table          | those of an earlier mark stay        |
| `next_hops`    | the BGP next hops with a nexthop object in the kernel        | objects are recognised when used     |
| `neighbours`   | who was found on links (`[peer.*] interface`), and our ends  | they are found anew, after seconds   |
| `endpoints`    | the workloads attached here                                  | labels; the links' aliases have more |
| `floating_ips` | the floating addresses that commands made here               | themselves; those of the file stay   |
| `drain`        | how far this node has left service                           | it is in service                     |
| `objects`      | the objects of packet policy, in their last good form        | packets stay as they are, see daemon |
| `config`       | the configuration in force, the one before, and the file     | the operator's file decides          |

Rules:
 1. A document that is not there is no problem (a first boot); one that cannot be read or is not what we
    wrote (its checksum tells) is a problem in words and no value, never an exception: the daemon starts.
 2. Unknown fields are ignored, so that an older daemon reads what a newer one wrote.
 3. `config`, `objects`, `floating_ips` and `drain` are forced to the disk, because they are obeyed after a power cut.
    The others are not: what they speak of (sessions, kernel objects, namespaces) is gone then too, and `peers` is
    written on the way to a session.
 4. One daemon at a time: the directory is locked, and the lock says by whom.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from bgpmesh.errors import refused
from bgpmesh.events import DrainChanged
from bgpmesh.frozen import frozen
from bgpmesh.restart import LastLife
from bgpmesh.rib.drain import Drain
from bgpmesh.route.nlri import IPAddress, link_of
from bgpmesh.workload.endpoint import Endpoint
from bgpmesh.workload.floating import FloatingIp, in_order

DOCUMENTS = (
    "peers",
    "last_life",
    "kernel",
    "next_hops",
    "neighbours",
    "endpoints",
    "floating_ips",
    "drain",
    "objects",
    "config",
)
LOCK = "lock"

T = TypeVar("T")


@frozen
class Loaded(Generic[T]):
    """A document read back: its value, or None and the problem in words ("": it was never written)."""

    value: T | None
    problem: str = ""


class Marks(NamedTuple):
    """How the routes of a daemon are known in the kernel."""

    protocol: int
    table: int


@frozen
class KeptConfig:
    """A configuration in force: its text, and the operator's file it stands for with that file's digest then.

    `previous` is the text that was kept before; "" where there is none.
    """

    text: str
    file: str
    digest: str
    previous: str = ""


class State:
    """The state directory of one node."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock: int | None = None

    def open(self, node: str) -> None:
        """Make the directory where it is missing (mode 0700) and lock it until `close` or the end of the process.

        One that has become full or read-only since it was made is locked all the same: what it holds is true, and
        what cannot be saved is told by each `save_`. Raises ConfigError where there is none and none can be
        made, or where another daemon has it, naming that one.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = self._lock_file()
        except OSError as error:
            raise refused("state.directory", self._directory, os.strerror(error.errno or 0)) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(lock, 500, 0).decode(errors="replace").strip() or "another daemon"
            os.close(lock)
            raise refused("state.directory", self._directory, f"in use by {holder}") from error
        with contextlib.suppress(OSError):  # the lock is what counts, not who signed it
            os.truncate(lock, 0)
            os.write(lock, f"the daemon of node {node}, pid {os.getpid()}\n".encode())
        self._lock = lock

    def _lock_file(self) -> int:
        path = self._directory / LOCK
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            if not path.exists():
                raise
            return os.open(path, os.O_RDONLY)  # as good to lock

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # Every `save_` returns "" or the problem in words; the old document stands then.

    def save_peers(self, names: Iterable[str]) -> str:
        """Keep the names of the peers whose paths this node holds.

        On a disk that is full the old document is written over: a list that lacks somebody would cost its routes at the
        next start, and one that is garbled by half of a write costs none.
        """
        kept = sorted(names)
        problem = self._save("peers", kept)
        if problem:
            with contextlib.suppress(OSError), (self._directory / "peers.json").open("r+b") as file:
                file.write(_document("peers", kept).encode())
                file.truncate()
                problem = ""
        return problem

    def peers(self) -> Loaded[tuple[str, ...]]:
        """Return the names that `save_peers` kept."""
        return self._load("peers", lambda kept: tuple(_text(name) for name in _list(kept)))

    def save_last_life(self, network: str, life: LastLife) -> str:
        """Keep what the next life has to know of this one, which runs in a network stack of this name."""
        return self._save("last_life", {"network": network, "bare": life.is_bare, "announced": life.announced})

    def last_life(self, network: str) -> Loaded[LastLife]:
        """Return what `save_last_life` kept, as it is to be seen in a network stack of this name ("": not known)."""
        return self._load("last_life", lambda kept: _last_life(kept, network))

    def save_kernel(self, marks: Marks | None) -> str:
        """Keep how routes are marked as ours; None: this node writes none."""
        return self._save("kernel", marks and {"protocol": marks.protocol, "table": marks.table})

    def kernel(self) -> Loaded[Marks]:
        """Return the marks that `save_kernel` kept."""
        return self._load("kernel", _marks)

    def save_next_hops(self, addresses: Iterable[IPAddress]) -> str:
        """Keep the BGP next hops that have an object in the kernel."""
        return self._save("next_hops", sorted(map(str, addresses)))

    def next_hops(self) -> Loaded[tuple[IPAddress, ...]]:
        """Return the addresses that `save_next_hops` kept."""
        return self._load("next_hops", lambda kept: tuple(_address(text) for text in _list(kept)))

    def save_neighbours(self, found: Mapping[str, tuple[IPAddress, IPAddress]]) -> str:
        """Keep our end and the neighbour's of each link where one was found."""
        return self._save("neighbours", [[str(ours), str(theirs)] for _, (ours, theirs) in sorted(found.items())])

    def neighbours(self) -> Loaded[dict[str, tuple[IPAddress, IPAddress]]]:
        """Return what `save_neighbours` kept, by the names of the links."""
        return self._load("neighbours", _neighbours)

    def save_endpoints(self, endpoints: Iterable[Endpoint]) -> str:
        """Keep the workloads attached to this node."""
        return self._save("endpoints", [_rendered(e) for e in sorted(endpoints, key=lambda e: e.key)])

    def endpoints(self) -> Loaded[tuple[Endpoint, ...]]:
        """Return the workloads that `save_endpoints` kept."""
        return self._load("endpoints", lambda kept: _consistent(tuple(_endpoint(each) for each in _list(kept))))

    def save_objects(self, objects: Mapping[str, object]) -> str:
        """Keep what `Store.saved` says; a date that YAML or TOML has made is kept as text."""
        return self._save("objects", objects, is_forced=True)

    def objects(self) -> Loaded[dict[str, dict[str, list[object]]]]:
        """Return what `save_objects` kept."""
        return self._load("objects", _sources)

    def save_floating_ips(self, floating: Iterable[FloatingIp]) -> str:
        """Keep the floating addresses that commands have made on this node."""
        rows = [
            {"external": str(each.external), "workload": each.workload, "outbound": each.outbound}
            for each in in_order(floating)
        ]
        return self._save("floating_ips", rows, is_forced=True)

    def floating_ips(self) -> Loaded[tuple[FloatingIp, ...]]:
        """Return the floating addresses that `save_floating_ips` kept."""
        return self._load("floating_ips", _floating_ips)

    def save_drain(self, drain: DrainChanged) -> str:
        """Keep how far this node has left service."""
        document = {"state": drain.drain.value, "stop": drain.is_to_stop, "text": drain.text}
        wait = {"limit": drain.limit, "below": drain.below, "begun_at": drain.begun_at}
        return self._save("drain", document | wait, is_forced=True)

    def drain(self) -> Loaded[DrainChanged]:
        """Return what `save_drain` kept."""
        return self._load("drain", _drain)

    def save_config(self, config: KeptConfig) -> str:
        """Keep a configuration to come back to. An unconfirmed one is not kept: that is how it is rolled back."""
        document = {
            "text": config.text,
            "file": config.file,
            "digest": config.digest,
            "previous": config.previous,
        }
        return self._save("config", document, is_forced=True)

    def config(self) -> Loaded[KeptConfig]:
        """Return the configuration that `save_config` kept."""
        return self._load("config", _kept_config)

    def _save(self, name: str, value: object, *, is_forced: bool = False) -> str:
        target, fresh = self._directory / f"{name}.json", self._directory / f"{name}.json.new"
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(fd, "w", encoding="utf-8") as file:  # noqa: PTH123  the mode is given at creation
                file.write(_document(name, value))
                file.flush()
                if is_forced:
                    os.fsync(file.fileno())
            fresh.replace(target)
            if is_forced:
                self._force_names()
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink()
            return f"{target} cannot be written: {error.strerror}"
        return ""

    def _force_names(self) -> None:
        """Have the disk know which file has which name (fsync(2): that of a file says nothing of its name)."""
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with contextlib.suppress(OSError):  # some file systems cannot
                os.fsync(fd)
        finally:
            os.close(fd)

    def _load(self, name: str, parse: Callable[[object], T | None]) -> Loaded[T]:
        path = self._directory / f"{name}.json"
        try:
            return Loaded(parse(_read(path.read_text(encoding="utf-8"), name)))
        except FileNotFoundError:
            return Loaded(None)
        except OSError as error:
            return Loaded(None, f"{path} cannot be read: {error.strerror}")
        except (ValueError, RecursionError) as error:
            return Loaded(None, f"{path} is garbled: {error}")


def _document(name: str, value: object) -> str:
    text = json.dumps(value, default=str)  # `dump` and `indent` are not written in C
    return f'{{"{name}": {text}, "crc32": {zlib.crc32(text.encode())}}}\n'


# ── strict reading: each returns its kind of value or raises ValueError in words ──


def _read(text: str, name: str) -> object:
    document: object = json.loads(text)
    value = _member(document, name)
    checksum = zlib.crc32(json.dumps(value).encode())
    if isinstance(document, dict) and document.get("crc32", checksum) != checksum:  # an older daemon wrote none
        raise ValueError("it is not as it was written")
    return value


def _member(value: object, name: str) -> object:
    if not isinstance(value, dict) or name not in value:
        raise ValueError(f"no {name}")
    found: object = value[name]
    return found


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r:.40} is not a list")  # noqa: TRY004  one exception for all that is garbled
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is not a text")  # noqa: TRY004  the same
    return value


def _field(value: object, name: str) -> str:
    return _text(_member(value, name))


def _kept_config(kept: object) -> KeptConfig:
    text, file, digest = (_field(kept, name) for name in ("text", "file", "digest"))
    has_previous = isinstance(kept, dict) and "previous" in kept  # or an older daemon wrote it
    return KeptConfig(text, file, digest, _field(kept, "previous") if has_previous else "")


def _last_life(kept: object, network: str) -> LastLife:
    announced = _member(kept, "announced")
    if not (isinstance(announced, dict) and all(type(count) is int for count in announced.values())):
        raise ValueError(f"{announced!r:.40} are no numbers by name")
    is_here = bool(network) and _field(kept, "network") == network
    return LastLife(is_here and _member(kept, "bare") is True, announced)


def _address(value: object) -> IPAddress:
    return ipaddress.ip_address(_text(value))


def _neighbours(kept: object) -> dict[str, tuple[IPAddress, IPAddress]]:
    rows = ((_address(ours), _address(theirs)) for ours, theirs in (_row(each, 2) for each in _list(kept)))
    found = {link_of(theirs): (ours, theirs) for ours, theirs in rows}
    if "" in found or any(link_of(ours) != link for link, (ours, _) in found.items()):
        raise ValueError("an end is of no link, or of another one than the other end")
    return found


def _row(value: object, width: int) -> list[object]:
    row = _list(value)
    if len(row) != width:
        raise ValueError(f"{value!r:.40} has not {width} parts")
    return row


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r:.40} is not a number")  # noqa: TRY004  the same
    return value


def _real(value: object) -> float:
    return value if isinstance(value, float) else _number(value)


def _marks(value: object) -> Marks | None:
    if value is None:
        return None
    marks = Marks(*(_number(_member(value, name)) for name in Marks._fields))
    if marks.protocol not in range(5, 256):  # below are the kernel's own and those of `ip route`
        raise ValueError(f"protocol {marks.protocol} is not ours")
    return marks


def _port(value: object) -> tuple[str, str, int]:
    name, protocol, number = _row(value, 3)
    return _text(name), _text(protocol), _number(number)


def _inode(value: object) -> tuple[int, int] | None:
    """Return which namespace a workload is in, None where an older daemon wrote the document."""
    if not isinstance(value, dict) or value.get("netns_inode") is None:
        return None
    device, number = _row(value["netns_inode"], 2)
    if not (type(device) is int and type(number) is int):
        raise ValueError(f"{value['netns_inode']!r:.40} is no inode")
    return device, number


def _label(value: object) -> tuple[str, str]:
    key, text = _row(value, 2)
    return _text(key), _text(text)


def _sources(kept: object) -> dict[str, dict[str, list[object]]]:
    if not isinstance(kept, dict):
        raise ValueError(f"{kept!r:.40} is no table of sources")  # noqa: TRY004  the same
    parts = ("documents", "problems")
    return {name: {part: _list(_member(each, part)) for part in parts} for name, each in kept.items()}


def _rendered(endpoint: Endpoint) -> dict[str, object]:
    return {
        "name": endpoint.name,
        "namespace": endpoint.namespace,
        "labels": endpoint.labels,
        "addresses": [str(address) for address in endpoint.addresses],
        "interface": endpoint.interface,
        "netns": endpoint.netns,
        "ports": endpoint.ports,
        "netns_inode": endpoint.netns_inode,
    }


def _endpoint(value: object) -> Endpoint:
    return Endpoint(
        name=_field(value, "name"),
        namespace=_field(value, "namespace"),
        labels=tuple(sorted(_label(each) for each in _list(_member(value, "labels")))),
        addresses=tuple(_address(each) for each in _list(_member(value, "addresses"))),
        interface=_field(value, "interface"),
        netns=_field(value, "netns"),
        ports=tuple(_port(each) for each in _list(_member(value, "ports"))),
        netns_inode=_inode(value),
    )


def _drain(value: object) -> DrainChanged:
    step = DrainChanged(Drain(_field(value, "state")), _member(value, "stop") is True, _field(value, "text"))
    if not isinstance(value, dict) or value.get("begun_at") is None:  # it does not wait, or an older daemon wrote it
        return step
    limit, below, begun_at = (_real(_member(value, name)) for name in ("limit", "below", "begun_at"))
    return replace(step, limit=limit, below=below, begun_at=begun_at)


def _floating_ips(value: object) -> tuple[FloatingIp, ...]:
    found: dict[IPAddress, FloatingIp] = {}
    for each in _list(value):
        external, outbound = _address(_member(each, "external")), _member(each, "outbound")
        if not isinstance(outbound, bool):
            raise ValueError(f"{outbound!r:.40} is not true or false")  # noqa: TRY004  one exception for all
        if external in found:
            raise ValueError(f"{external} is there twice")
        found[external] = FloatingIp(external, _field(each, "workload"), outbound)
    return tuple(found.values())


def _consistent(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """Return them where no two share what is one workload's alone."""
    for what, values in (
        ("workload", [endpoint.key for endpoint in endpoints]),
        ("interface", [endpoint.interface for endpoint in endpoints]),
        ("address", [str(address) for endpoint in endpoints for address in endpoint.addresses]),
    ):
        if len(set(values)) < len(values):
            raise ValueError(f"{what} {max(values, key=values.count)} is there twice")
    return endpoints
