"""What is missing, half there or broken at a start and later: nobody is let in unprotected, and it is said why."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from signal import SIGKILL
from subprocess import CompletedProcess
from typing import cast

import pytest

from bgpmesh.workload.endpoint import interface_name
from containerlab.lab import PATIENCE_S, Process, until
from tests.lab.cluster import packet_filter
from tests.lab.guarded import (
    FLOWS,
    FOREIGN,
    PORT,
    PROGRAMS,
    RATE,
    REPAIRED_S,
    WORKLOADS,
    Stage,
    calico,
    chosen,
    staged,
)
from tests.lab.nodes import Node, document_of, file_of, pair

STATE = "/var/lib/bgpmesh"
KILLS = 40 if os.environ.get("BGPMESH_SOAK") else 3
TRIES = 12  # of every flow, in which one that may pass would be seen to


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Give a node under policies with all flows running, for all tests of this module; each leaves it whole."""
    with staged("nft") as found:
        found.fire(FLOWS)
        yield found


@pytest.fixture(autouse=True)
def _nothing_strays(stage: Stage) -> Iterator[None]:
    """See that nothing has passed that should not, whatever the test did, and that all else flows again."""
    whole, before = stage.whole(), len(stage.strays())
    yield
    until(lambda: stage.whole() == whole, "as it was", REPAIRED_S, 0.1)
    stage.await_flow()
    assert stage.strays()[before:] == []


@contextmanager
def tools(node: Node, script: str) -> Iterator[None]:
    """Have other programs in /usr/sbin; the script makes them, in that directory."""
    node.sh(
        f"""
        over=/run/bgpmesh/over
        mkdir -p $over
        mount -t tmpfs none $over
        mkdir $over/upper $over/work
        mount -t overlay -o lowerdir=/usr/sbin,upperdir=$over/upper,workdir=$over/work none /usr/sbin
        cd /usr/sbin
        {script}
        """
    )
    try:
        yield
    finally:
        node.sh("umount -l /usr/sbin; umount -l /run/bgpmesh/over")


def refusing(table: str) -> str:
    """Return a script that has iptables-restore refuse one table, in both families."""
    return "\n".join(
        f"""
        rm {program}-nft-restore
        cat > {program}-nft-restore <<'X'
#!/bin/sh
text=$(cat)
case "$text" in "*{table}"*) echo "{program}-restore: refused on purpose" >&2; exit 4;; esac
echo "$text" | xtables-nft-multi {program}-restore "$@"
X
        chmod +x {program}-nft-restore
        """
        for program in PROGRAMS.values()
    )


def add(stage: Stage, name: str, *words: str) -> CompletedProcess[str]:
    """Ask for a workload, whatever comes of it."""
    if name not in stage.node.sh("ip netns list").split():
        stage.node.lab.add_workload_namespace("n1", name)
    return stage.node.command("workload", "add", name, "--netns", f"/run/netns/{name}", "-n", "shop", *words)


def is_up(stage: Stage, name: str) -> bool:
    """Tell whether the link of a workload is there and open."""
    return interface_name("bgpm", f"shop/{name}") in stage.node.ip("-br link show up")


@pytest.mark.parametrize(
    ("gone", "said"),
    [("ip6tables*", "ip6tables: is not installed"), ("ip*tables*", "iptables: is not installed")],
    ids=["ip6tables", "iptables"],
)
def test_without_the_program_nobody_is_let_in(stage: Stage, gone: str, said: str) -> None:
    """Nor stays in, where it cannot be told which rules stand; the command and the status say what is missing."""
    with tools(stage.node, f"rm {gone}"):
        stage.node.stop(SIGKILL)
        stage.node.start()
        refused = add(stage, "late")
        assert refused.returncode == 2
        assert said in refused.stderr
        stage.node.until(lambda: any(said in reason for reason in stage.node.reasons()), "said in the status")
        stage.node.until(lambda: not any(is_up(stage, name) for name in (*WORKLOADS, "late")), "all closed")
        stage.node.until(lambda: all(said in str(row["problem"]) for row in list_of(stage)), "said of each workload")
        answer = json.loads(stage.node.command("apply", "-f", stage.node.written(MORE), "--json").stdout)
        assert any(said in warning["reason"] for warning in answer["warnings"])
    stage.said("delete", "globalnetworkpolicy", "more")
    stage.node.until(lambda: stage.node.reasons() == [], "ready", REPAIRED_S)
    stage.said("workload", "add", "late", "--netns", "/run/netns/late", "-n", "shop")
    stage.said("workload", "del", "late", "-n", "shop")


MORE = calico(
    "GlobalNetworkPolicy",
    "more",
    order=7,
    selector="app == 'db'",
    types=["Ingress"],
    ingress=[{"action": "Deny", "source": {"nets": ["192.0.2.9/32"]}}],
)


def test_a_table_that_is_refused_keeps_who_is_new_out(stage: Stage) -> None:
    """Who is in goes on under the old chains, over a restart too; it mends itself."""
    with tools(stage.node, refusing("filter")):
        stage.node.stop(SIGKILL)
        stage.node.start()
        refused = add(stage, "late")
        assert refused.returncode == 2
        assert "refused on purpose" in refused.stderr
        answer = json.loads(stage.node.command("apply", "-f", stage.node.written(MORE), "--json").stdout)
        assert any("refused on purpose" in warning["reason"] for warning in answer["warnings"])
        stage.await_flow()
        assert not is_up(stage, "late")
    stage.said("delete", "globalnetworkpolicy", "more")
    stage.node.until(lambda: stage.node.reasons() == [], "ready", REPAIRED_S)


def test_a_guard_that_cannot_be_had_again_closes_every_link(stage: Stage) -> None:
    """The second lock is gone and stays away: no packet of a workload until it is back."""
    with tools(stage.node, refusing("mangle")):
        stage.table(4, "mangle", "-D POSTROUTING 1")
        stage.node.until(lambda: not is_up(stage, "web"), "links closed", REPAIRED_S)
        stage.node.until(lambda: any("refused on purpose" in each for each in stage.node.reasons()), "said why")
    stage.node.until(lambda: is_up(stage, "web"), "links open again", REPAIRED_S)


def test_a_daemon_that_dies_while_a_workload_comes_lets_nothing_through(stage: Stage) -> None:
    """Killed at any moment between the request and the end of it, again and again."""
    chance = chosen()
    node, where = stage.node, ("10.244.1.40", "fd00:10:244:1::40")
    closed = calico("NetworkPolicy", "late", "shop", selector="app == 'late'", types=["Ingress", "Egress"])
    stage.apply(closed)
    if "late" not in node.sh("ip netns list").split():
        node.lab.add_workload_namespace("n1", "late")
    words = ["--label", "app=late", *(word for address in where for word in ("--ip", address))]
    flows = [
        f"no-late-{to}-{f},,{stage.address(to, f)},{PORT}" for to in ("db", "other", "host", "peer.2") for f in (4, 6)
    ]
    stage.hear("late")
    senders = [
        stage.volley("late", "send", str(RATE), *flows),
        stage.volley("other", "send", str(RATE), *(f"no-other-late-{a},,{a},{PORT}" for a in where)),
    ]
    stage.senders += senders
    try:
        for _ in range(KILLS):
            asking = node.lab.start(
                "n1", ["bgpmesh", "workload", "add", "late", "--netns", "/run/netns/late", "-n", "shop", *words]
            )
            begun = partial(has_begun, asking)
            until(begun, "the command")
            time.sleep(chance.uniform(0.0, 0.6))
            node.stop(SIGKILL)
            asking.entry.wait(PATIENCE_S)
            stage.await_tries(TRIES // 2)
            node.start()
            if any('"late"' in json.dumps(row) for row in list_of(stage)):
                node.until(lambda: is_up(stage, "late"), "the link")
                stage.await_tries(TRIES // 2)
                stage.said("workload", "del", "late", "-n", "shop")
            node.until(lambda: interface_name("bgpm", "shop/late") not in node.ip("-br link"), "no link")
    finally:
        for sender in senders:
            sender.kill()
            stage.senders.remove(sender)
        stage.said("delete", "networkpolicy", "late", "-n", "shop")


def has_begun(asking: Process) -> bool:
    """Tell whether a command has come to where it runs, or is through already."""
    try:
        command = Path(f"/proc/{asking.pid}/cmdline").read_text("utf-8")
    except OSError:
        command = ""
    return "python" in command or not asking.is_running


def list_of(stage: Stage) -> list[dict[str, str]]:
    return cast("list[dict[str, str]]", stage.node.ask("workload list"))


def test_after_a_reboot_all_is_made_again_before_anybody_is_let_in(stage: Stage) -> None:
    """No link, no chain, no set, no route; the workloads are remembered."""
    node = stage.node
    node.stop(SIGKILL)
    for name in WORKLOADS:
        node.ip(f"link del {interface_name('bgpm', f'shop/{name}')}")
    for family, program in PROGRAMS.items():
        node.sh(f"for t in raw mangle filter; do {program}-nft -t $t -F; {program}-nft -t $t -X; done")
        node.sh(f"{program}-nft -A FORWARD {'-s 172.17.0.0/16' if family == 4 else '-s fd17::/16'} -j ACCEPT")
    # The kernel lets go of what rules have held a moment after they went.
    until(lambda: not node.sh("ipset destroy 2>/dev/null || ipset list -name"), "the end of all sets")
    node.sh("ip route flush proto 77; ip -6 route flush proto 77")
    node.start()
    node.until(lambda: all(is_up(stage, name) for name in WORKLOADS), "the links")


@pytest.mark.parametrize("text", ["", '{"objects": {"": {"documents": {}}}}', "\\000\\377"])
def test_where_the_objects_are_garbled_nothing_changes_and_nobody_comes_in(stage: Stage, text: str) -> None:
    """It is said which file, and what to do."""
    node = stage.node
    node.stop(SIGKILL)
    node.sh(f"cp {STATE}/objects.json /run/bgpmesh/kept; printf '{text}' > {STATE}/objects.json")
    node.start()
    (reason,) = (each for each in node.reasons() if "objects.json" in each)
    assert reason.endswith("policies stay as they stand; mend the file, or remove it, and restart")
    refused = add(stage, "late")
    assert (refused.returncode, "which policies are in force is not known" in refused.stderr) == (2, True)
    assert not is_up(stage, "late")
    for words in (["apply"], ["policy", "preview"]):
        refused = node.command(*words, "-f", stage.node.written(MORE))
        assert refused.returncode == 2
        assert "objects.json" in refused.stderr
    stage.await_flow()
    stage.await_tries(TRIES)
    node.stop(SIGKILL)
    node.sh(f"cp /run/bgpmesh/kept {STATE}/objects.json")
    node.start()
    node.until(lambda: node.reasons() == [], "ready")


DIRECTORY = "/etc/bgpmesh/policies.d"


def in_force(stage: Stage) -> set[str]:
    """Return the names of the policies in force."""
    rows = stage.node.ask("get", kind="globalnetworkpolicy")
    assert isinstance(rows, list)
    return {row["name"] for row in rows}


def test_the_policy_directory_is_followed_and_never_by_half(stage: Stage) -> None:
    """A ConfigMap, a file that is half written, one that is called oddly, a directory that is gone."""
    node = stage.node
    others = in_force(stage)
    first, second, third = (MORE | {"metadata": {"name": name}} for name in ("one", "two", "three"))
    node.sh(f"mkdir -p {DIRECTORY}/..v1 {DIRECTORY}/..v2; cd {DIRECTORY}; ln -s ..v1 ..data")
    for version, name, documents in (
        ("v1", "a", [first]), ("v1", "b", [second]), ("v2", "a", [second]), ("v2", "b", [third]),
    ):  # fmt: skip
        node.lab.write("n1", f"{DIRECTORY}/..{version}/{name}.json", document_of(*documents))
    node.sh(f"cd {DIRECTORY}; ln -s ..data/a.json a.json; ln -s ..data/b.json b.json")
    node.until(lambda: in_force(stage) == others | {"one", "two"}, "the first version")
    seen: list[set[str]] = []
    node.sh(f"cd {DIRECTORY}; ln -s ..v2 ..tmp; mv -T ..tmp ..data")

    def follow(expected: set[str]) -> bool:
        found = in_force(stage) - others
        if found not in seen[-1:]:
            seen.append(found)
        return found == expected

    node.until(lambda: follow({"two", "three"}), "the second version")
    assert all("two" in each for each in seen)
    node.sh(f"printf '{{' > {DIRECTORY}/..v2/b.json; mv {DIRECTORY}/..v2/a.json {DIRECTORY}/..v2/c.json")
    node.until(lambda: any("b.json" in each for each in node.reasons()), "the bad file named")
    assert follow({"two", "three"})
    odd = "a\\nb\\033[31m\\377 \\\\$(id).json"
    node.sh(f"printf '{{' > \"$(printf '{DIRECTORY}/{odd}X' | sed 's/X$//')\"")
    node.until(lambda: len(node.reasons()) >= 3, "the odd file named")
    table = node.command("status").stdout
    assert all(line.isprintable() for line in table.splitlines())
    assert all(line.isprintable() for line in node.daemon.output().split("\n"))
    node.sh(f"mv {DIRECTORY} {DIRECTORY}.away; touch {DIRECTORY}")
    node.until(lambda: any("policies.d cannot be read" in each for each in node.reasons()), "the directory named")
    assert follow({"two", "three"})
    node.stop(SIGKILL)
    node.start()
    assert follow({"two", "three"})
    node.sh(f"rm -r {DIRECTORY} {DIRECTORY}.away; mkdir {DIRECTORY}")
    node.until(lambda: follow(set()), "all gone")
    node.until(lambda: node.reasons() == [], "ready")


EVIL = [
    calico("GlobalNetworkPolicy", "x\n-A INPUT -j ACCEPT", selector="all()"),
    calico("GlobalNetworkPolicy", "evil", order=1, selector="app == 'x\n-A INPUT -j ACCEPT\n'", types=["Ingress"]),
    calico("GlobalNetworkPolicy", "evil2", order=1, selector="app contains '\"; -j ACCEPT #'", types=["Ingress"]),
    calico("GlobalNetworkPolicy", "evil3", order=1, selector="app == '漢字\u2028\x1b[31m'", types=["Egress"]),
    calico("GlobalNetworkSet", "evil", labels={"a": "b\nc"}, nets=["0.0.0.0/0\n"]),
    calico("NetworkPolicy", "n" * 300, "shop", selector="all()"),
    calico("NetworkPolicy", "web", "x\nx", selector="all()"),
]


def test_what_people_write_makes_no_rule_in_a_real_packet_filter(stage: Stage) -> None:
    """Of names, selectors and labels of all kinds; what is refused is said on one line each, also in the log."""
    node, before = stage.node, stage.whole()
    answer = node.command("apply", "-f", stage.node.written(*EVIL), "--json")
    found = json.loads(answer.stdout)
    assert sorted(found["applied"]) == [f"GlobalNetworkPolicy evil{n}" for n in ("", 2, 3)]
    assert {each["object"][:20] for each in found["refused"]} == {
        "GlobalNetworkPolicy ", "GlobalNetworkSet evi", "NetworkPolicy shop/n", "NetworkPolicy x\\nx/w",
    }  # fmt: skip
    assert stage.whole() == before, "nobody is selected by any of it"
    told = node.command("apply", "-f", "/run/bgpmesh/objects.json")
    assert all(line.isprintable() for line in (told.stdout + told.stderr).splitlines())
    assert all(line.isprintable() for line in node.command("get").stdout.splitlines())
    for name in ("evil", "evil2", "evil3"):
        stage.said("delete", "globalnetworkpolicy", name)
    for words in (["--label", "a=b\n-A INPUT -j ACCEPT"], ["--port", "x\n=tcp:80"], ["--label", "a\n=b"]):
        assert add(stage, "odd", *words).returncode == 2
    for name in ("o\n-A", "o'd", "漢"):
        refused = node.command("workload", "add", name, "--netns", "/run/netns/odd", "-n", "shop")
        assert refused.returncode == 2
        assert len(refused.stderr.splitlines()) == 1
    assert stage.whole() == before
    assert all(line.isprintable() for line in node.daemon.output().split("\n"))


def test_uninstall_leaves_the_packet_filter_as_it_was() -> None:
    """Both backends, with policies, masquerading and workloads in force, the daemon killed before."""
    for backend in ("nft", "legacy"):
        with pair() as lab:
            stage = Stage(Node(lab), backend)
            text = file_of().replace('cidr = "10.244.0.0/16"', 'cidr = "10.244.0.0/16"\nmasquerade = true')
            node = stage.node
            for family, program in PROGRAMS.items():
                node.sh(
                    f"{program}-{backend} -N THEIRS; {program}-{backend} -A INPUT -j THEIRS -m comment --comment 'a b'"
                )
                node.sh(
                    f"{program}-{backend} -t mangle -P FORWARD ACCEPT; {program}-{backend} -A FORWARD {FOREIGN[family]}"
                )
                node.sh(f"ipset create theirs{family} hash:net family {'inet' if family == 4 else 'inet6'}")
            before = tables_of(node)
            twice = "; ".join(f"{p}-{backend} -D FORWARD {FOREIGN[f]}" for f, p in PROGRAMS.items())
            stage.bring_up(text)
            node.sh(twice)
            assert tables_of(node) != before
            node.stop(SIGKILL)
            node.command("uninstall", "--config", "/etc/bgpmesh/bgpmesh.toml")
            assert tables_of(node) == before
            assert node.prefixes() == set()
            assert not [line for line in node.ip("-br link").splitlines() if line.startswith("bgpm")]


def tables_of(node: Node) -> list[str]:
    """Return what the packet filter holds, and the sets with their members."""
    return packet_filter(node.lab, node.name) + node.sh("ipset save").splitlines()
