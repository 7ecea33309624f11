"""A bundle for whoever is asked for help: what the daemon, this host and `doctor` say, in one archive.

No secret is in it: neither the file of the configuration nor what is kept of it, but what they come to, as `check`
shows it; the journal has none either. What cannot be had is in the bundle as the reason why. Nothing is changed.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bgpmesh import __version__, config, doctor
from bgpmesh.control import client
from bgpmesh.errors import ConfigError
from bgpmesh.journal.record import FILE

PATIENCE_S = 20.0  # for each question, to the daemon and to a program
ASKED: tuple[tuple[str, str, Mapping[str, object]], ...] = (
    ("status", "status", {}),
    ("history", "history", {}),
    ("peers", "peers", {}),
    ("routes", "routes", {}),
    ("routes-kernel", "routes", {"kernel": True}),
    ("workloads", "workload list", {}),
    ("pool", "pool show", {}),
    ("policy", "policy list", {}),
    ("drops", "policy drops", {}),
    ("flows", "policy flows", {}),
    ("floating-ips", "floating-ip list", {}),
)
RUN = (
    ("uname", "uname -a"),
    ("addresses", "ip -details address"),
    ("routes4", "ip -details route show table all"),
    ("routes6", "ip -6 -details route show table all"),
    ("nexthops", "ip nexthop"),
    ("rules", "ip rule"),
    ("neighbours", "ip neighbour"),
    ("sockets", "ss -tanp"),  # -i would tell the keys of TCP MD5
    ("iptables", "iptables-save -c"),
    ("ip6tables", "ip6tables-save -c"),
    ("counters", "nstat -asz"),
    ("sysctls", "sysctl -a --pattern ^net\\.ipv[46]\\.(conf|ip_forward|fib|nexthop)"),
)


def collect(file: str, node: str | None, socket_path: str | None) -> Iterator[tuple[str, bytes]]:
    """Yield each part of the bundle: its name and what is in it, but for the passwords of the file."""
    secrets = _secrets(file)
    for name, content in _parts(file, node, socket_path):
        for secret in secrets:
            content = content.replace(secret, b"[secret]")  # noqa: PLW2901  what is left of it
        yield name, content


def _secrets(file: str) -> list[bytes]:
    """Return the passwords of a file, the longest first; none where it cannot be read."""
    try:
        loaded = config.load(file)
    except ConfigError:
        return []
    passwords = {loaded.cluster.password, *(peer.password for peer in loaded.neighbours)}
    return sorted((password.encode() for password in passwords if password), key=len, reverse=True)


def _parts(file: str, node: str | None, socket_path: str | None) -> Iterator[tuple[str, bytes]]:
    yield "version.txt", f"bgpmesh {__version__}\n".encode()
    findings = [{**each._asdict(), "level": each.level} for each in doctor.examine(file, node, socket_path)]
    yield "doctor.json", _plain(findings)
    directory, path = config.state_directory(""), client.DEFAULT_SOCKET
    try:
        directory = config.state_directory(config.read(file))  # also of a file that is bad
        loaded = config.load(file)
        directory, path = loaded.state.directory, loaded.control.socket
        yield "check.json", _plain(config.shown(loaded, config.find_node(loaded, node)))
    except ConfigError as error:
        yield "check.json", _plain({"errors": [problem._asdict() for problem in error.problems]})
    for name, command, args in ASKED:
        yield f"daemon/{name}.json", _answer(socket_path or path, command, args)
    for name, line in RUN:
        yield f"host/{name}.txt", _output(line.split())
    journal = Path(directory) / FILE
    try:
        yield FILE, journal.read_bytes()
    except OSError as error:
        yield f"{FILE}.txt", f"{journal}: {error.strerror}\n".encode()


def write(parts: Iterator[tuple[str, bytes]], archive: Path, *, clock: Callable[[], float] = time.time) -> list[str]:
    """Write an archive that only its owner can read, and return the names in it; raises OSError."""
    names: list[str] = []
    folder = archive.name.removesuffix(".tar.gz")
    descriptor = os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as bundle:
        for name, content in parts:
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime, entry.mode = len(content), int(clock()), 0o600
            bundle.addfile(entry, io.BytesIO(content))
            names.append(name)
    return names


def _answer(path: str, command: str, args: Mapping[str, object]) -> bytes:
    try:
        return _plain(client.call(path, command, args, timeout_s=PATIENCE_S))
    except (client.NoDaemonError, client.RefusedError) as error:
        return _plain({"error": str(error)})


def _output(words: list[str]) -> bytes:
    search = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            check=False,
            timeout=PATIENCE_S,
            env={**os.environ, "PATH": search, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{words[0]}: {error}\n".encode()
    return done.stdout + done.stderr


def _plain(value: object) -> bytes:
    return json.dumps(value, indent=2, default=str).encode() + b"\n"
