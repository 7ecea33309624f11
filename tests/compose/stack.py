"""Docker for a test: a daemon of its own where none answers, stand-ins for images that cannot be had.

The daemon started here lives in a network and a mount namespace of its own, so its bridges and its
iptables rules never show on the host. Where no registry is reachable, the base image is made by
debootstrap from the package source that this machine itself uses, and kept in a cache folder, since
that is most of a minute; it goes by the public image's name, so the files under test are used as
they are. It carries the packages that the Dockerfile asks for, and wheels of what pip will ask for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

ROOT = Path(__file__).parents[2]
BASE_IMAGE = "debian:bookworm-slim"
PROMETHEUS_IMAGE = "prom/prometheus:v2.53.4"
BASE_PACKAGES = ("iproute2", "ipset", "iptables", "iputils-ping", "python3", "python3-venv")

T = TypeVar("T")


def eventually(probe: Callable[[], T], is_right: Callable[[T], bool], what: str, deadline_s: float = 90) -> T:
    """Return the first answer of `probe` that is right; fail with the last one when the time is up."""
    end = time.monotonic() + deadline_s
    while not is_right(seen := probe()):
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {deadline_s} s; last seen: {seen!r}")
        time.sleep(0.5)
    return seen


def run(*command: str, env: dict[str, str] | None = None, timeout_s: float = 480) -> str:
    """Return what the command printed; fail with all of it where the command did."""
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=timeout_s, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


@dataclass(frozen=True)
class Stack:
    """The compose file as one project of one Docker daemon."""

    env: dict[str, str]
    project: str
    is_ours: bool  # the daemon was started here

    def compose(self, *words: str) -> str:
        """Run docker-compose, or `docker compose` where only that is there."""
        program = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        return run(*program, "--project-name", self.project, *words, env=self.env)

    def docker(self, *words: str) -> str:
        """Run the Docker client."""
        return run("docker", *words, env=self.env)

    def container(self, service: str) -> str:
        """Return the identifier of a service's container; empty where it does not run."""
        return self.docker(
            "ps", "--quiet", *self._labels(), "--filter", f"label=com.docker.compose.service={service}"
        ).strip()

    def attempt(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a service's container and return how it went, whichever way."""
        return subprocess.run(
            ["docker", "exec", self.container(service) or service, *command],
            env=self.env,
            text=True,
            capture_output=True,
            timeout=180,
            check=False,
        )

    def leftovers(self) -> str:
        """Return what is still there of the project: containers, networks, volumes."""
        kinds = (("ps", "--all"), ("network", "ls"), ("volume", "ls"))
        return "".join(self.docker(*kind, "--quiet", *self._labels()) for kind in kinds)

    def has_image(self, name: str) -> bool:
        """Tell whether the daemon has the image."""
        return bool(self.docker("images", "--quiet", name).strip())

    def _labels(self) -> tuple[str, str]:
        return "--filter", f"label=com.docker.compose.project={self.project}"


@contextlib.contextmanager
def docker() -> Iterator[Stack]:
    """Yield a Stack on the Docker daemon that answers, or on one started for the time being.

    Skips, with the reason, where there can be none.
    """
    if os.geteuid():
        pytest.skip("docker: needs root")
    _require("docker")
    project = f"bgpmesh-test-{os.getpid()}"
    if _answers(dict(os.environ)):
        yield Stack(dict(os.environ), project, is_ours=False)
        return
    _require("dockerd", "unshare", "ip")
    cgroups = _cgroups()
    with (
        tempfile.TemporaryDirectory(prefix="bgpmesh-") as runtime,
        (Path(runtime) / "log").open("w+") as log,
    ):
        env = {**os.environ, "DOCKER_HOST": f"unix://{runtime}/docker.sock"}
        data = f"{runtime}/data"
        folders = f"--data-root {data} --exec-root {runtime}/x --pidfile {runtime}/pid"
        # Its images and containers, under a gigabyte, lie in memory: the files are many, and on a disk
        # it takes longer to remove them than all the tests. They are gone with the mount namespace.
        prepare = f"ip link set lo up && mkdir {data} && mount -t tmpfs none {data}"
        script = f"{prepare} && exec dockerd --host {env['DOCKER_HOST']} {folders}"
        command = ["unshare", "-nm", "--propagation", "private", "sh", "-c", script]
        daemon = subprocess.Popen(command, stdout=log, stderr=log)  # each execs the next: one process to end
        try:
            end = time.monotonic() + 180
            while not _answers(env):
                if daemon.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    pytest.skip(f"docker: the daemon does not start here: {log.read()[-600:]}")
                time.sleep(0.3)
            yield Stack(env, project, is_ours=True)
        finally:
            daemon.terminate()
            try:
                daemon.wait(60)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
            end = time.monotonic() + 10
            while _remove(_cgroups() - cgroups) and time.monotonic() < end:
                time.sleep(0.3)


def provide_images(stack: Stack) -> None:
    """Make the public images of Dockerfile and compose file available, or stand-ins by their names."""
    for name, make in ((BASE_IMAGE, _import_base), (PROMETHEUS_IMAGE, _import_prometheus)):
        if not stack.has_image(name) and not _pull(stack, name):
            make(stack)


def _remove(folders: set[Path]) -> set[Path]:
    """Remove control groups; return those in use, by what still ends or by another Docker of this machine."""
    busy = set()
    for folder in folders:
        try:
            for inner, _, _ in os.walk(folder, topdown=False):  # a newer Docker's builder has one below
                Path(inner).rmdir()
        except OSError:
            busy.add(folder)
    return busy


def _answers(env: dict[str, str]) -> bool:
    return subprocess.run(["docker", "version"], env=env, capture_output=True, check=False).returncode == 0


def _require(*programs: str) -> None:
    if missing := [name for name in programs if not shutil.which(name)]:
        pytest.skip(f"docker: not installed: {' '.join(missing)}")


def _cgroups() -> set[Path]:
    """Return the control groups that a Docker daemon leaves behind, of either hierarchy."""
    return {found for pattern in ("docker", "*/docker") for found in Path("/sys/fs/cgroup").glob(pattern)}


def _pull(stack: Stack, name: str) -> bool:
    command = ["docker", "pull", "--quiet", name]
    return subprocess.run(command, env=stack.env, capture_output=True, check=False).returncode == 0


def _cache_folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache") / "bgpmesh-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _import_base(stack: Stack) -> None:
    _require("debootstrap")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheels = [*project["project"]["dependencies"], *project["build-system"]["requires"], "wheel"]
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    key = hashlib.sha256(json.dumps([BASE_PACKAGES, wheels]).encode()).hexdigest()[:12]
    tarball = _cache_folder() / f"base-{release}-{key}.tar"
    if not tarball.exists():
        with tempfile.TemporaryDirectory(prefix="base-", dir=_cache_folder()) as folder:
            tree = Path(folder) / "root"
            _bootstrap(tree, release)
            _add_wheels(tree, wheels)
            made = Path(folder) / "base.tar"
            run("tar", "--numeric-owner", "-C", str(tree), "-cf", str(made), ".")
            made.rename(tarball)
    stack.docker("import", str(tarball), BASE_IMAGE)


def _bootstrap(tree: Path, release: str) -> None:
    """Install a minimal system of this machine's own release, without a word in it of where it came from."""
    address, components = _package_source(release)
    include = f"--include={','.join(BASE_PACKAGES)}"
    # A mount namespace of its own: what debootstrap mounts below the tree is gone with it.
    private = ("unshare", "-m", "--propagation", "private")
    options = ("--variant=minbase", f"--components={','.join(components)}", include)
    run(*private, "debootstrap", *options, release, str(tree), address, timeout_s=600)
    for listed in (tree / "etc/apt").glob("sources.list*"):
        shutil.rmtree(listed) if listed.is_dir() else listed.unlink()
    for folder in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(tree / folder)


def _package_source(release: str) -> tuple[str, Sequence[str]]:
    """Return the address and the components from which this machine has the packages of its release."""
    folder = Path("/etc/apt")
    for listed in sorted(folder.glob("sources.list.d/*.sources")):
        for stanza in listed.read_text(encoding="utf-8").split("\n\n"):
            lines = [line for line in stanza.splitlines() if ":" in line and not line.startswith("#")]
            fields = {name.strip(): value.split() for name, value in (line.split(":", 1) for line in lines)}
            if release in fields.get("Suites", ()) and "deb" in fields.get("Types", ()):
                return fields["URIs"][0], fields["Components"]
    for listed in (folder / "sources.list", *sorted(folder.glob("sources.list.d/*.list"))):
        for line in listed.read_text(encoding="utf-8").splitlines() if listed.exists() else ():
            words = [word for word in line.split() if not word.startswith("[") and not word.endswith("]")]
            if words[:1] == ["deb"] and words[2:3] == [release]:
                return words[1], words[3:]
    return pytest.skip(f"docker: no package source of {release} is configured in /etc/apt")


def _add_wheels(tree: Path, wheels: Sequence[str]) -> None:
    """Put what pip will want into the tree, all of it pure Python, and tell pip to look nowhere else."""
    folder = tree / "opt/wheels"
    download = ("download", "--quiet", "--only-binary=:all:", "--dest", str(folder))
    run(sys.executable, "-m", "pip", *download, *wheels)
    (tree / "etc/pip.conf").write_text("[global]\nno-index = true\nfind-links = /opt/wheels\n", encoding="utf-8")


def _import_prometheus(stack: Stack) -> None:
    """Import this machine's Prometheus with the libraries that it loads, started as the public image does."""
    _require("prometheus")
    program = str(shutil.which("prometheus"))
    needed = run("ldd", program)
    with tempfile.TemporaryDirectory(dir=_cache_folder()) as folder:
        tarball = Path(folder) / "prometheus.tar"
        with tarfile.open(tarball, "w", dereference=True) as tar:
            tar.add(program, "bin/prometheus")
            for library in {word for word in needed.split() if word.startswith("/")}:
                tar.add(library, library)
        command = '["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]'
        changes = ("--change", 'ENTRYPOINT ["/bin/prometheus"]', "--change", f"CMD {command}")
        stack.docker("import", *changes, str(tarball), PROMETHEUS_IMAGE)
