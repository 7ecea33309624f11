"""What says that built-in chains are as they were has to notice whatever becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from bgpmesh.kernel import chains as kernel_chains
from bgpmesh.kernel.snapshot import snapshot
from tests.netns.host import ON, THEIRS, Story, World, apart, run

PROGRAMS = {4: "iptables", 6: "ip6tables"}
CHANGES = {  # of somebody, to a chain with three rules
    "one comes": "-A FORWARD -j ACCEPT",
    "one goes": "-D FORWARD 2",
    "one is another": "-R FORWARD 2 -s {other} -j DROP",
    "two change places": "-D FORWARD 2;-A FORWARD -s {net} -j DROP",
    "all go": "-F FORWARD",
    "the policy": "-P FORWARD DROP",
    "another chain": "-A INPUT -j ACCEPT",
}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("what", CHANGES)
def test_what_becomes_of_a_built_in_chain_is_noticed(backend: str, family: int, what: str) -> None:
    """Counting alone is nothing."""
    net, other = {4: ("10.0.0.0/8", "11.0.0.0/8"), 6: ("fd00::/8", "fc00::/8")}[family]
    tables = {(each, table) for each in PROGRAMS for table in ("filter", "mangle")}

    def iptables(*words: str) -> None:
        run(f"{PROGRAMS[family]}-{backend}", "-w", *words)

    def story() -> None:
        for rule in (f"-s {other} -j ACCEPT", f"-s {net} -j DROP", "-j ACCEPT"):
            iptables("-A", "FORWARD", *rule.split())
        iptables("-A", "OUTPUT", "-j", "ACCEPT")
        before = snapshot(backend, tables)
        assert before is not None
        run("ping", "-c", "1", "-w", "30", {4: "127.0.0.1", 6: "::1"}[family])
        assert snapshot(backend, tables) == before
        for words in CHANGES[what].format(net=net, other=other).split(";"):
            iptables(*words.split())
        assert snapshot(backend, tables) != before

    apart(story)


def test_nobody_who_may_not_ask_is_told_that_all_is_well(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the programs are run, as ever."""

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("socket.socket", refuse)
    assert snapshot(backend, {(4, "filter")}) is None


def test_no_program_is_run_while_nothing_changes(
    world: Callable[[Story], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at the hooks after the first costs none; after a change of somebody else's it does, and finds ours."""
    ran: list[str] = []
    execute = kernel_chains._execute

    def counted(program: str, *rest: object) -> str:
        ran.append(program)
        return execute(program, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(kernel_chains, "_execute", counted)

    async def story(here: World) -> None:
        here.text = ON
        async with here.running():
            await here.settled()
            hooks = {key: rules for key, rules in here.engine.packets.chains.actual.items() if not key.is_ours}

            async def are_as() -> bool:
                return await here.edge._in_thread(here.edge._host.are_as, hooks)

            assert await are_as()
            ran.clear()
            assert await are_as()
            assert ran == []
            here.iptables(4, *THEIRS[4].split())
            assert await are_as()
            assert ran
            here.iptables(4, "-F", "POSTROUTING")
            assert not await are_as()
            await asyncio.sleep(0)

    world(story)
