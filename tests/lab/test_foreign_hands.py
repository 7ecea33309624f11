"""Others write to the same kernel: what is ours is set right again, and what is theirs stays as it is."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from bgpmesh.kernel.table import FOREIGN_ROUTE
from bgpmesh.workload.endpoint import interface_name
from tests.lab.nodes import BLOCKS, CONFIG, HANDS, Neighbour, Node, announcement, file_of, neighbour, pair, peer_of

ROUTES = ("198.51.100.0/24", "2001:db8:51::/48")
STEADY = peer_of("steady", "10.0.0.3", 65003)
FAMILIES = pytest.mark.parametrize("prefix", [*ROUTES, *sorted(BLOCKS)])


@dataclass(slots=True)
class Scene:
    """A daemon with one neighbour, which announces ROUTES."""

    node: Node
    steady: Neighbour

    def repaired(self) -> tuple[int, float]:
        """Return what status and metrics say about repairs."""
        return self.node.fib("drift_repaired"), self.node.metric("bgpmesh_fib_drift_repaired_total")

    def await_repaired(self, before: tuple[int, float], kernel: list[str]) -> None:
        """Wait until the kernel is as it was, and the repair is counted."""
        node = self.node
        node.until(lambda: snapshot(node) == kernel, f"the kernel as it was: {kernel}")
        node.until(lambda: node.fib("drift_repaired") > before[0], "a repair counted")
        node.until(lambda: len(set(self.repaired())) == 1, "as many in the metrics, once all are counted")
        node.until(lambda: node.status()["ready"], "ready")
        assert node.fib("failed") == 0


@pytest.fixture(scope="module")
def stage() -> Iterator[Scene]:
    """One for all tests of this module; each leaves it as it found it."""
    with pair() as lab:
        node = Node(lab)
        node.configure(file_of(STEADY))
        node.sh("echo 1 > /proc/sys/net/ipv6/conf/eth1/keep_addr_on_down")
        node.start()
        yield Scene(node, announcing(node))


@pytest.fixture
def scene(stage: Scene) -> Iterator[Scene]:
    """Give the scene of this module; what the daemon has logged lately is printed, and shown after a failure."""
    yield stage
    stage.node.show_log()


@pytest.fixture
def bare() -> Iterator[Node]:
    """Give a node on which nothing has run yet."""
    with pair() as lab:
        node = Node(lab)
        node.configure(file_of(STEADY))
        yield node


def announcing(node: Node) -> Neighbour:
    """Return a neighbour that has announced ROUTES."""
    steady = neighbour(node.lab, "10.0.0.3", asn=65003)
    node.await_up("steady")
    steady.send(announcement(ROUTES[:1], "10.0.0.3", [65003]) + announcement(ROUTES[1:], "2001:db8::2", [65003]))
    node.until(lambda: all(node.kernel_says(prefix) not in {None, "pending"} for prefix in ROUTES), f"{ROUTES} decided")
    return steady


def snapshot(node: Node) -> list[str]:
    """Return everything in the kernel that is marked as ours."""
    listed = [node.ip(f"-N {family} route show table all proto 77") for family in ("-4", "-6")]
    lines = [*"".join(listed).splitlines(), *node.ip("-N nexthop show proto 77").splitlines()]
    return sorted(" ".join(line.split()) for line in lines)


def family_of(prefix: str) -> str:
    """Return the word by which `ip` knows the family of a prefix."""
    return "-6" if ":" in prefix else "-4"


# ── what is ours ─────────────────────────────────────────────────────────────


@FAMILIES
@pytest.mark.parametrize("way", ["deleted", "other-gateway", "other-link", "taken-over"])
def test_route_of_ours_is_set_right(scene: Scene, prefix: str, way: str) -> None:
    """A route of ours that somebody deletes or displaces at its metric is written again, and counted as repaired."""
    node, family = scene.node, family_of(prefix)
    before, kernel = scene.repaired(), snapshot(node)
    gateway = "2001:db8::99" if family == "-6" else "10.0.0.99"

    if way == "deleted":
        node.ip(f"{family} route del {prefix} proto 77")
    elif way == "other-gateway":
        node.ip(f"{family} route replace {prefix} via {gateway} metric 32 proto 77")
    elif way == "other-link":
        node.ip(f"{family} route replace {prefix} dev lo metric 32 proto static")
    else:
        node.ip(f"{family} route replace blackhole {prefix} metric 32 proto {HANDS}")

    scene.await_repaired(before, kernel)
    assert len(node.routes(prefix)) == 1


@pytest.mark.parametrize("what", ["routes", "objects", "both"])
def test_flush_of_all_that_is_ours_is_repaired(scene: Scene, what: str) -> None:
    """All routes of ours flushed, all nexthop objects (which takes their routes along), or both: all come back."""
    before, kernel = scene.repaired(), snapshot(scene.node)
    if what != "objects":
        scene.node.sh("ip route flush table main proto 77; ip -6 route flush table main proto 77")
    if what != "routes":
        scene.node.ip("nexthop flush proto 77")

    scene.await_repaired(before, kernel)


def test_nexthop_object_of_ours_is_set_right(scene: Scene) -> None:
    """A nexthop object of ours that somebody deletes or leads elsewhere is as before, with its routes."""
    node = scene.node
    kernel = snapshot(node)
    number = next(line.split()[2] for line in node.routes(ROUTES[0]) if "nhid" in line)

    before = scene.repaired()
    node.ip(f"nexthop del id {number}")
    scene.await_repaired(before, kernel)
    node.ip(f"nexthop replace id {number} via 10.0.0.99 dev eth1 proto 77")
    node.until(lambda: snapshot(node) == kernel, f"the kernel as it was: {kernel}")


def test_routes_come_back_with_their_link(scene: Scene) -> None:
    """After a link was down, routes of both families by it are as before; the node's own were never gone."""
    node = scene.node
    kernel = snapshot(node)

    node.ip("link set eth1 down")
    node.until(lambda: node.prefixes() == BLOCKS, "no route by a link that is down")
    node.ip("link set eth1 up")

    node.until(lambda: snapshot(node) == kernel, f"the kernel as it was: {kernel}")
    for prefix in (*ROUTES, *BLOCKS):
        node.await_settled(prefix)


@pytest.mark.parametrize(("address", "prefix"), [("10.0.0.1/24", ROUTES[0]), ("2001:db8::1/64", ROUTES[1])])
def test_routes_come_back_with_an_address(scene: Scene, address: str, prefix: str) -> None:
    """Without the address that the next hop's subnet hangs on a route is gone; it is back once the address is."""
    node = scene.node
    kernel = snapshot(node)

    node.ip(f"address del {address} dev eth1")
    node.until(lambda: prefix not in node.prefixes(), f"{prefix} gone")
    node.until(lambda: node.kernel_says(prefix) == "none", f"{prefix} not wanted")
    node.ip(f"address add {address} dev eth1" + (" nodad" if ":" in address else ""))

    node.until(lambda: snapshot(node) == kernel, f"the kernel as it was: {kernel}")
    node.await_settled(prefix)


# ── what is theirs ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("prefix", ROUTES)
@pytest.mark.parametrize("how", ["before-start", "while-running"])
def test_foreign_route_that_was_first_stays(bare: Node, prefix: str, how: str) -> None:
    """In the place of a foreign route ours is `failed`, until that one is deleted by its owner."""
    node, family = bare, family_of(prefix)
    foreign = f"{family} route {{}} blackhole {prefix} metric 32 proto {HANDS}"
    if how == "before-start":
        node.ip(foreign.format("add"))
    node.start()
    if how == "while-running":
        node.ip(foreign.format("add"))
    there = node.routes(prefix)
    announcing(node)

    node.await_settled(prefix, f"failed: {FOREIGN_ROUTE}")
    assert node.fib("failed") == 1
    (other,) = set(ROUTES) - {prefix}
    node.await_settled(other)
    assert there == node.routes(prefix)

    node.ip(foreign.format("del"))
    node.await_settled(prefix)
    (written,) = node.routes(prefix)
    assert "proto 77" in written
    node.until(lambda: node.fib("failed") == 0, "no failure left")


def test_what_is_foreign_outlives_start_run_stop_and_uninstall(bare: Node) -> None:
    """Routes, nexthop objects, links and files of others stay, however like ours; of ours nothing is left behind."""
    node = bare
    node.sh(
        f"""
        echo 0 > /proc/sys/net/ipv4/nexthop_compat_mode  # else routes are listed with what their objects lead to
        for prefix in {ROUTES[0]} 10.244.1.0/26; do ip route add blackhole $prefix metric 33 proto {HANDS}; done
        for prefix in {ROUTES[1]} fd00:10:244:1::/112; do
            ip -6 route add blackhole $prefix metric 33 proto {HANDS}
        done
        ip route add 192.0.2.0/25 via 10.0.0.3 metric 32 proto static
        ip nexthop add id 1073741900 via 10.0.0.3 dev eth1 proto {HANDS}
        ip nexthop add id 7 via 10.0.0.4 dev eth1 proto static
        ip route add 192.0.2.128/25 nhid 7 proto static
        ip link add {LOOKALIKE} type bridge
        ip link set {LOOKALIKE} up alias "bgpmesh is not what this is"
        ip link add {NAMESAKE} type veth peer name other
        ip address add 192.0.2.1/32 dev {NAMESAKE}
        mkdir -p /var/lib/bgpmesh /run/bgpmesh
        touch /var/lib/bgpmesh/notes /run/bgpmesh/notes
        """
    )
    theirs = everything(node)

    node.start()
    announcing(node)
    path = node.lab.add_workload_namespace("n1", "web")
    added = node.command("workload", "add", "web", "--netns", path)
    assert added.returncode == 0, added.stderr
    for prefix in (*ROUTES, *BLOCKS):
        node.await_settled(prefix)
    assert theirs == [line for line in everything(node) if not is_ours(line)]
    node.stop()
    assert theirs == [line for line in everything(node) if not is_ours(line)]
    assert set(ROUTES) | BLOCKS < node.prefixes()

    removed = node.command("uninstall", "--config", CONFIG)

    assert removed.returncode == 0, removed.stderr
    assert theirs == everything(node)
    assert node.command("uninstall", "--config", CONFIG).stdout == "nothing of ours was there\n"


def test_link_in_the_place_of_a_workload_s_stays(bare: Node) -> None:
    """Where a foreign link has the name that a workload needs, the workload is refused by it and the link stays."""
    node, name = bare, interface_name("bgpm", "default/web")
    node.sh(f"ip link add {name} type bridge; ip link set {name} up")
    theirs = node.ip(f"-o link show {name}")
    node.start()
    path = node.lab.add_workload_namespace("n1", "web")

    refused = node.command("workload", "add", "web", "--netns", path)

    assert refused.returncode == 2
    assert name in refused.stderr
    assert theirs == node.ip(f"-o link show {name}")
    assert node.ask("workload list") == []
    assert node.command("uninstall", "--config", CONFIG).returncode == 1, "it refuses while the daemon runs"


LOOKALIKE, NAMESAKE = "bgpmabcdefghijk", "bgpm23456723456"


def everything(node: Node) -> list[str]:
    """Return every route, nexthop object, link, address and file that somebody could have put there."""
    said = node.sh(
        r"""
        ip -N route show table all; ip -N -6 route show table all; ip -N nexthop
        ip -o link | sed 's/^[0-9]*: /link /'; ip -o address | sed 's/^[0-9]*: /address /'
        find /var/lib/bgpmesh /run/bgpmesh -mindepth 1 | sed 's/^/file /'
        """
    )
    lines = (" ".join(line.replace(" tentative", "").split()) for line in said.splitlines())
    return sorted(line for line in lines if " proto 2 " not in f"{line} " and not line.startswith("multicast"))


def is_ours(line: str) -> bool:
    """Tell whether a line of `everything` is one of the daemon's."""
    words = line.split()
    kind, name = words[0], words[1].partition("@")[0].rstrip(":")
    if kind == "file":
        return not name.endswith("/notes")
    if kind in {"link", "address"}:
        return name == interface_name("bgpm", "default/web")
    return " proto 77" in line or interface_name("bgpm", "default/web") in line


# ── the host's own LAN ───────────────────────────────────────────────────────


@pytest.mark.parametrize("lan", ["2001:db8::/64", "10.0.0.0/24"])
def test_neighbour_that_announces_our_lan_captures_nothing(scene: Scene, lan: str) -> None:
    """A prefix that this host has connected is learnt and never written, so the link itself stays the way."""
    node = scene.node
    host = ipaddress.ip_network(lan)[2]
    way, kernel = node.ip(f"route get {host}"), node.routes(lan)
    via = "2001:db8::99" if ":" in lan else "10.0.0.99"
    scene.steady.send(announcement([lan], via, [65003]))

    node.until(lambda: node.path_reasons(lan) == ["only path"], f"{lan} learnt")
    node.until(lambda: node.route(lan)["kernel_reason"] == "connected on this host", f"{lan} known as connected")

    assert node.kernel_says(lan) == "none"
    assert kernel == node.routes(lan)
    assert way.split(" uid")[0] == node.ip(f"route get {host}").split(" uid")[0]
    for prefix in ROUTES:  # whose next hops are on that LAN
        node.await_settled(prefix)
