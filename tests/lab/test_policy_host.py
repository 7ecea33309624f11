"""What workloads send to their own host, where they may: without our verdict nothing new gets there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from signal import SIGKILL
from typing import cast

import pytest

from containerlab.lab import until
from tests.lab.guarded import PROGRAMS, REPAIRED_S, TRIES, Saved, Stage, staged
from tests.lab.nodes import JsonObject, file_of
from tests.lab.test_policy_failures import tools

FLOWS = {"other-host-echo": ("other", "", "host"), "no-web-host": ("web", "", "host")}  # `web` may go elsewhere only
LATE = {"no-other-host": ("other", "", "host")}  # it might, but not while nobody says so
ON_THE_WAY = ("INPUT", "bm-INPUT", "bm-to-host", "bm-accept", "bm-fd-", "bm-fw-", "bm-ce-", "bm-pe-")
HOOK, GUARD = [[(family, table, "INPUT") for family in (4, 6)] for table in ("filter", "security")]


@pytest.fixture(scope="module", params=[("nft", "allow"), ("legacy", "return")], ids="-".join)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Give a node whose workloads may reach it as their policies say; each test leaves it whole."""
    backend, to_host = request.param
    with staged(backend, file_of(rest=f'[policy]\nworkload_to_host = "{to_host}"\n')) as found:
        found.fire(FLOWS)
        yield found


@pytest.fixture(autouse=True)
def _is_whole_afterwards(stage: Stage) -> Iterator[None]:
    """See that the daemon has made everything as it was, and that what flowed flows."""
    whole = stage.whole()
    yield
    until(lambda: stage.whole() == whole, "as it was", REPAIRED_S, 0.1)
    stage.await_flow()


def test_no_chain_and_no_hook_opens_the_host_by_its_absence(stage: Stage) -> None:
    """Each on the way gone, one after the other, with no daemon there to repair it."""
    places = sorted({(table, chain) for _, table, chain in stage.saved() if chain.startswith(ON_THE_WAY)})
    assert {"filter", "mangle", "security"} <= {table for table, _ in places}
    stage.node.stop(SIGKILL)
    try:
        assert stage.opened_by_absence(places) == {}
    finally:
        stage.node.start()


def test_without_our_hook_what_is_new_is_dropped_and_what_is_established_goes_on(stage: Stage) -> None:
    """Also of who might come in; and it is the guard that drops it."""
    whole = stage.saved()
    stage.node.stop(SIGKILL)
    try:
        stage.unhook(*HOOK)
        begun = time.monotonic()
        stage.fire(LATE)  # waits for what is established, too
        stage.await_tries(TRIES)
        assert [flow for at, flow in stage.strays() if at >= begun] == []
        stage.unhook(*GUARD)
        until(lambda: len({flow for at, flow in stage.strays() if at >= begun}) == 4, "all of both, without the guard")
    finally:
        stage.senders.pop().kill()
        stage.node.start()
    until(lambda: stage.saved() == whole, "the repair", REPAIRED_S)
    stage.await_tries(1)  # what was under way has arrived
    begun = time.monotonic()
    stage.await_tries(TRIES)
    assert [flow for at, flow in stage.strays() if at >= begun] == []


def test_a_kernel_without_the_table_has_no_second_guard_and_all_else(stage: Stage) -> None:
    """Which the status says; the node is ready, what others break is mended, and so is this once it can be."""

    def warnings() -> list[JsonObject]:
        policy = cast("JsonObject", stage.node.status()["policy"])
        return [each for each in cast("list[JsonObject]", policy["warnings"]) if each["field"] == "workload_to_host"]

    rest = without_guard(stage)
    with tools(stage.node, _without_security(stage.backend)):
        stage.node.stop(SIGKILL)
        for program in PROGRAMS.values():
            for words in ("-F", "-X"):
                stage.node.sh(f"xtables-{stage.backend}-multi {program} -t security {words}")
        stage.node.start()
        stage.node.until(lambda: len(warnings()) == 2, "warnings")
        assert all("Table does not exist" in str(each["reason"]) for each in warnings())
        assert stage.node.reasons() == []
        stage.await_flow()
        stage.table(4, "filter", "-F bm-to-host")
        until(lambda: without_guard(stage) == rest, "the repair", REPAIRED_S)
    stage.node.until(lambda: warnings() == [], "the guard", REPAIRED_S)


def without_guard(stage: Stage) -> Saved:
    """Return what stands in all tables but that of the second guard."""
    return {key: rules for key, rules in stage.saved().items() if key[1] != "security"}


def _without_security(backend: str) -> str:
    """Return a script that makes iptables one on a kernel without that table."""
    return f"""
        for name in iptables ip6tables; do
            for what in "" -save -restore; do
                rm $name-{backend}$what
                cat > $name-{backend}$what <<X
#!/bin/sh
case "\\$*" in *"-t security"*)
    echo "$name v1.8.9 ({backend}): can't initialize $name table 'security': Table does not exist" >&2
    exit 3;;
esac
exec xtables-{backend}-multi $name$what "\\$@"
X
                chmod +x $name-{backend}$what
            done
        done
        """
