"""Chains and sets against a real kernel, in namespaces of the test's own, with either kind of iptables."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import re
import shutil
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace

import pytest

from bgpmesh.errors import KernelError
from bgpmesh.events import (
    ChainsRead,
    ChainsWritten,
    EndpointAdded,
    EndpointRemoved,
    Event,
    ObjectsChanged,
    SetsWritten,
)
from bgpmesh.kernel import chains as kernel_chains
from bgpmesh.kernel import sets as kernel_sets
from bgpmesh.kernel.chains import uninstall
from bgpmesh.kernel.sets import IN_PLACE, Sets
from bgpmesh.policy.chains import HASH_IP_PORT, HASH_NET, AddressSet, ChainKey, identified, member_text, port_member
from bgpmesh.policy.objects import Key
from bgpmesh.policy.rule import Direction, Policy
from bgpmesh.policy.selector import parse
from bgpmesh.route.nlri import parse_nlri
from bgpmesh.workload.endpoint import Endpoint
from tests.netns.host import FILE, OFF, ON, THEIRS, Story, World, apart, run, sets_of_ours, without_net_admin
from tests.waiting import DEADLINE_S

RULES = 8  # of ours, both families


def test_masquerading_is_made_changed_and_taken_away(world: Callable[[Story], None]) -> None:
    """Our hook is first, other people's rules stay; what nobody wants goes, sets after chains."""

    async def story(here: World) -> None:
        before = here.saved(4), here.saved(6)
        async with here.running():
            await here.settled()
            for family in (4, 6):
                hooks = [line for line in here.saved(family) if line.startswith("-A POSTROUTING")]
                assert len(hooks) == 2
                assert hooks[0].endswith("-j bm-POSTROUTING")
                assert any("-j MASQUERADE --random-fully" in line for line in here.saved(family))
            assert here.engine.packets.rules_in_force == RULES
            assert len(here.applied) == 1
            inside = here.engine.packets.sets.actual["bm-4-inside"]
            assert sets_of_ours()["bm-4-inside"] == inside
            assert {member_text(member) for member in inside.members} == {"10.244.0.0/16", "10.245.0.0/16"}

            here.reload(FILE.format(four='masquerade = { exclude = ["192.0.2.0/24"], source = "192.0.2.9" }', six=""))
            await here.settled()
            assert [line for line in here.saved(6) if "bm-" in line] == []
            assert any("SNAT --to-source 192.0.2.9 --random-fully" in line for line in here.saved(4))

            here.reload(OFF)
            await here.settled()
            assert (here.saved(4), here.saved(6)) == before
            assert sets_of_ours() == {}
            assert here.engine.packets.unmade() == {}

    world(story)


def test_what_others_break_is_repaired_and_named(world: Callable[[Story], None]) -> None:
    """A chain flushed, a rule added to one, the hook deleted or no longer first, a set emptied."""

    async def story(here: World) -> None:
        async with here.running():
            await here.settled()
            whole = here.saved(4)

            async def repaired(*names: str) -> None:
                await here.until(here.repaired, f"repair of {names}")
                await here.settled()
                assert here.repaired() == [", ".join(names)]
                here.engine.notes.clear()

            hook = "chain nat POSTROUTING (IPv4)"
            here.iptables(4, "-D", "POSTROUTING", "1")
            await repaired(hook)  # within seconds
            assert here.saved(4) == whole
            here.iptables(4, "-I", "POSTROUTING", "-d", "198.51.100.1", "-j", "ACCEPT")
            await repaired(hook)
            (own,) = (line for line in whole if line.endswith("-j bm-POSTROUTING"))
            changed = own.replace('"', "").removesuffix("-j bm-POSTROUTING").split()
            here.iptables(4, *changed, "-j", "LOG", "--log-prefix", 'it\'s; `x` "y" ')
            await repaired(hook)
            here.iptables(4, "-D", "POSTROUTING", "-d", "198.51.100.1", "-j", "ACCEPT")
            assert here.saved(4) == whole
            here.iptables(4, "-F", "bm-nat-outgoing")
            here.read_back()
            await repaired("chain nat bm-nat-outgoing (IPv4)")
            here.iptables(4, "-A", "bm-POSTROUTING", "-j", "ACCEPT")
            here.read_back()
            await repaired("chain nat bm-POSTROUTING (IPv4)")
            with closing(Sets()) as sets:
                sets.write("bm-4-inside", AddressSet(4, frozenset()), here.engine.packets.sets.actual["bm-4-inside"])
            here.read_back()
            await repaired("set bm-4-inside")
            here.restore(4, [THEIRS[4]])
            await repaired(
                "chain nat POSTROUTING (IPv4)",
                "chain nat bm-POSTROUTING (IPv4)",
                "chain nat bm-nat-outgoing (IPv4)",
            )
            assert here.saved(4) == whole
            assert here.engine.notes.drift_repaired == 9

    world(story)


def test_a_read_back_runs_as_few_programs_as_it_can(
    world: Callable[[Story], None], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """iptables-nft-save takes as long for a table as for all of its family."""
    ran: list[str] = []
    execute = kernel_chains._execute

    def counted(program: str, *rest: object) -> str:
        ran.append(program)
        return execute(program, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(kernel_chains, "_execute", counted)

    async def story(here: World) -> None:
        here.attached = (
            Endpoint("web", "shop", (), (ipaddress.ip_address("10.244.1.2"),), "bgpm-web", "/run/netns/web"),
        )
        async with here.running():
            await here.settled()
            actual = here.engine.packets.chains.actual
            tables = {(key.family, key.table) for key in actual}
            assert {table for _, table in tables} >= {"nat", "filter", "mangle", "raw"}

            def read() -> tuple[set[ChainKey], int]:
                ran.clear()  # in the thread, where nothing else runs meanwhile
                return set(here.edge._host.read(tables, {}).chains), len(ran)

            expected = {"nft": 2, "legacy": len(tables)}[backend]
            assert await here.edge._in_thread(read) == (set(actual), expected)

    world(story)


def test_a_restart_writes_nothing_and_changes_only_what_differs(world: Callable[[Story], None]) -> None:
    """Rules are known again by their ids, sets by their members; what nobody wants any longer goes."""

    async def story(here: World) -> None:
        async with here.running():
            await here.settled()
        assert here.engine.packets.rules_in_force == RULES
        whole = here.saved(4), here.saved(6)

        async with here.running():
            await here.settled()
            assert [type(event) for event in here.events] == [ChainsRead]
            assert (here.applied, here.engine.notes.drift_repaired, here.engine.packets.rules_in_force) == (
                [],
                0,
                RULES,
            )
        assert (here.saved(4), here.saved(6)) == whole

        here.text = ON.replace('cidr = "10.245.0.0/16"', 'cidr = "10.246.0.0/16"')
        async with here.running():
            await here.settled()
            assert [event for event in here.events if isinstance(event, ChainsWritten)] == []
            assert [event.done for event in here.events if isinstance(event, SetsWritten)] == [["bm-4-inside"]]
        assert (here.saved(4), here.saved(6)) == whole

        with closing(Sets()) as sets:  # what a life that ends in the middle of an exchange leaves
            sets.write("bm-new-left", AddressSet(4, numbers(2)), None)
        here.text = OFF
        async with here.running():
            await here.settled()
        assert [line for family in (4, 6) for line in here.saved(family) if "bm-" in line] == []
        assert sets_of_ours() == {}

    world(story)


def test_uninstall_leaves_everything_as_it_was(world: Callable[[Story], None]) -> None:
    """Also over a table of ours that others have changed; a second time there is nothing."""

    async def story(here: World) -> None:
        before = here.saved(4), here.saved(6)
        async with here.running():
            await here.settled()
        here.iptables(4, "-A", "bm-POSTROUTING", "-j", "ACCEPT")
        removed = await asyncio.to_thread(uninstall)
        assert "hook in nat POSTROUTING (IPv4)" in removed
        assert "chain nat bm-nat-outgoing (IPv6)" in removed
        assert "set bm-4-inside" in removed
        assert [line for line in removed if " stays" in line] == []
        assert (here.saved(4), here.saved(6)) == before
        assert sets_of_ours() == {}
        assert await asyncio.to_thread(uninstall) == []

    world(story)


def test_a_table_that_is_refused_stops_no_other(world: Callable[[Story], None]) -> None:
    """Its chains are named with the reason; they are written when that is gone."""

    async def story(here: World) -> None:
        async with here.running():
            await here.settled()
            bad = ChainKey(4, "filter", "bm-bad")
            here.engine.packets.chains.want(bad, identified("bm-bad", ["-j NO-SUCH-TARGET"]))
            here.engine.packets.chains.want(ChainKey(4, "nat", "bm-good"), identified("bm-good", ["-j RETURN"]))
            here.edge.kick()
            await here.until(lambda: bad in here.engine.packets.chains.refused, "the refusal")
            await here.until(lambda: ":bm-good -" in here.saved(4), "the other table")
            assert here.engine.packets.policy_errors >= 1
            (reason,) = here.engine.packets.unmade().values()
            assert reason.startswith(f"iptables-{here.backend}-restore: ")
            here.engine.packets.chains.want(bad, identified("bm-bad", ["-j RETURN"]))
            here.edge.kick()
            await here.settled()
            assert here.engine.packets.unmade() == {}

    world(story)


def test_what_is_not_installed_is_named(world: Callable[[Story], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """IPv4 is masqueraded all the same."""
    which = kernel_chains._which
    monkeypatch.setattr(kernel_chains, "_which", lambda name: None if name.startswith("ip6tables") else which(name))

    async def story(here: World) -> None:
        async with here.running():
            await here.until(lambda: here.engine.packets.rules_in_force == RULES // 2, "IPv4")
            reasons = here.engine.packets.unmade()
            assert set(reasons.values()) == {"ip6tables: is not installed, and this kernel has IPv6"}
            assert all("(IPv6)" in each for each in reasons)

    world(story)


def test_a_kernel_without_ipv6_needs_no_ip6tables(
    world: Callable[[Story], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its chains count as written. Should it have IPv6 after all they are missed, and made when they can be."""
    has_ipv6, has_program, asked = [False], [False], list[str]()
    which = kernel_chains._which

    def found(name: str) -> str | None:
        asked.append(name)
        return which(name) if has_program[0] or not name.startswith("ip6tables") else None

    monkeypatch.setattr(kernel_chains, "_which", found)
    monkeypatch.setattr(kernel_chains, "kernel_has_ipv6", lambda: has_ipv6[0])

    async def story(here: World) -> None:
        here.attached = (
            Endpoint("web", "shop", (), (ipaddress.ip_address("10.244.1.2"),), "bgpm-web", "/run/netns/web"),
        )
        async with here.running():
            packets = here.engine.packets
            await here.settled()
            assert packets.is_policy_in_force
            asked.clear()
            here.read_back()
            await here.until(lambda: asked, "read back")
            await here.edge.count(0.0)
            assert not any(name.startswith("ip6tables") for name in asked)
            assert (packets.unmade(), here.repaired()) == ({}, [])
            assert [line for line in here.saved(6) if "bm-" in line] == []
            assert any("bm-" in line for line in here.saved(4))

            hooks = {key: rules for key, rules in packets.chains.actual.items() if not key.is_ours}
            assert await here.edge._in_thread(here.edge._host.are_as, hooks)
            here.edge._rest_s = math.inf  # the look at the hooks is to find it
            has_ipv6[0] = True
            of_ipv6 = [key for key in hooks if key.family == 6]
            await here.until(lambda: all(key in packets.chains.refused for key in of_ipv6), "missed")
            assert not any(key.family == 6 for key in packets.chains.actual)  # for which links are closed
            has_program[0] = True
            await here.settled()
            assert any("bm-" in line for line in here.saved(6))

    world(story)


def test_a_kernel_without_sets_is_named(world: Callable[[Story], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A subsystem that nobody has registered stands for it; the chains that look into sets are refused too."""
    monkeypatch.setattr(kernel_sets, "_SUBSYSTEM", 60)

    async def story(here: World) -> None:
        async with here.running():
            await here.until(lambda: len(here.engine.packets.unmade()) == 4 + 6, "all refused")
            reasons = set(here.engine.packets.unmade().values())
            assert "ipset: this kernel has none (module ip_set)" in reasons
            assert any("bm-4-inside" in reason for reason in reasons)
        assert here.saved(4)[-2] == THEIRS[4]
        assert await asyncio.to_thread(uninstall) == []

    world(story)


def test_without_permission_it_says_so(world: Callable[[Story], None]) -> None:
    """Nothing ends over it."""

    async def story(here: World) -> None:
        without_net_admin()
        async with here.running():
            await here.until(lambda: len(here.engine.packets.unmade()) == 4 + 6, "all refused")
            reasons = set(here.engine.packets.unmade().values())
            assert "ipset: Operation not permitted" in reasons
            assert any(
                "ermission denied" in reason or "not permitted" in reason
                for reason in reasons - {"ipset: Operation not permitted"}
            )

    world(story)


def test_nothing_wanted_is_nothing_called(world: Callable[[Story], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for its version."""
    ran: list[str] = []
    execute = kernel_chains._execute

    def counted(program: str, arguments: Iterable[str], stdin: str = "") -> str:
        ran.append(program)
        return execute(program, arguments, stdin)

    monkeypatch.setattr(kernel_chains, "_execute", counted)

    async def story(here: World) -> None:
        here.text = OFF
        async with here.running():
            here.read_back()
            await asyncio.sleep(0)
        assert ran == []
        here.text = ON
        async with here.running():
            await here.settled()
        assert ran != []

    world(story)


def numbers(count: int) -> frozenset[bytes]:
    return frozenset(b"\x18" + (0x0A000000 + number * 256).to_bytes(4, "big") for number in range(count))


def ports(count: int) -> frozenset[bytes]:
    """Return members of a hash:ip,port: IPv6 addresses, each with another port and one of the four protocols."""
    return frozenset(
        (0xFD << 120 | number * 7919).to_bytes(16, "big") + bytes(((6, 17, 132, 136)[number % 4],)) + number.to_bytes(2)
        for number in range(count)
    )


RULE = "POSTROUTING -m set --match-set bm-test {} -j RETURN"
MAKERS = {HASH_NET: (4, numbers, "src"), HASH_IP_PORT: (6, ports, "src,src")}


@pytest.mark.parametrize("kind", [HASH_NET, HASH_IP_PORT])
def test_sets_are_changed_in_place_or_exchanged(
    world: Callable[[Story], None], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A few members come and go one by one, many at one blow; also of a set that a rule looks into."""
    family, some, ends = MAKERS[kind]
    steps = [some(3), some(3 + IN_PLACE), some(5000), some(4990), some(4000), frozenset[bytes]()]
    exchanged: list[str] = []
    replaced = Sets._replace

    def counted(self: Sets, name: str, wanted: AddressSet, verb: int) -> None:
        exchanged.append(name)
        replaced(self, name, wanted, verb)

    monkeypatch.setattr(Sets, "_replace", counted)

    async def story(here: World) -> None:
        rule = RULE.format(ends).split()
        sets = Sets()
        actual: AddressSet | None = None
        counts: list[int] = []
        for members in steps:
            wanted = AddressSet(family, members, kind)
            sets.write("bm-test", wanted, actual)
            assert sets.read() == {"bm-test": wanted}
            if actual is None:
                here.iptables(family, "-A", *rule)
            counts.append(len(exchanged))
            actual = wanted
        assert counts == [1, 1, 2, 2, 2, 3]
        with pytest.raises(KernelError, match="in use"):
            sets.remove("bm-test")
        here.iptables(family, "-D", *rule)
        sets.remove("bm-test")
        sets.remove("bm-test")
        assert sets.read() == {}
        sets.close()

    world(story)


def test_a_set_of_many_is_made_whole_and_found_again(world: Callable[[Story], None]) -> None:
    """More than the 65,536 that a set has room for by itself; what is as believed is the object believed."""

    async def story(here: World) -> None:
        del here
        hosts = frozenset(b"\x80" + (0xFD << 120 | number).to_bytes(16, "big") for number in range(70_000))
        wanted = {"bm-n": AddressSet(6, hosts), "bm-p": AddressSet(6, ports(65_536), HASH_IP_PORT)}
        with closing(Sets()) as sets:
            for name, each in wanted.items():
                sets.write(name, each, None)
            assert sets.names() == list(wanted)
            more = replace(wanted["bm-n"], members=hosts | {b"\x80" + bytes(16)})
            sets.write("bm-n", more, wanted["bm-n"])
            read = sets.read(wanted)
        assert read == wanted | {"bm-n": more}
        assert read["bm-p"] is wanted["bm-p"]

    world(story)


def test_a_set_that_others_made_too_small_is_exchanged(world: Callable[[Story], None]) -> None:
    """Adding in place finds it full; what fitted is no half of anything. Rules that look into it stay."""
    if shutil.which("ipset") is None:
        pytest.skip("needs ipset")

    async def story(here: World) -> None:
        run("ipset", "create", "bm-test", "hash:net", "maxelem", "4")
        here.iptables(4, "-A", *RULE.format("src").split())
        with closing(Sets()) as sets:
            actual = sets.read()["bm-test"]
            for count in (4, 7):
                wanted = AddressSet(4, numbers(count))
                sets.write("bm-test", wanted, actual)
                assert sets.read() == {"bm-test": wanted}
                actual = wanted
        assert "maxelem 4294967295" in run("ipset", "-t", "list", "bm-test")

    world(story)


STRANGE = {
    "an exception": ("hash:net", ["10.0.0.0/24"], ["10.0.1.0/24", "nomatch"]),
    "what goes by itself": ("hash:net timeout 600", ["10.0.0.0/24"], ["10.0.1.0/24"]),
    "what makes room": ("hash:net forceadd", ["10.0.0.0/24"], ["10.0.1.0/24"]),
    "counters": ("hash:net counters", ["10.0.0.0/24"], ["10.0.1.0/24"]),
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_set_with_more_to_it_than_members_is_exchanged(world: Callable[[Story], None], what: str) -> None:
    """It would not hold what ours does, though the members are the same."""
    if shutil.which("ipset") is None:
        pytest.skip("needs ipset")

    async def story(here: World) -> None:
        del here
        options, *members = STRANGE[what]
        run("ipset", "create", "bm-test", *options.split())
        for member in members:
            run("ipset", "add", "bm-test", *member)
        wanted = AddressSet(4, numbers(2))
        with closing(Sets()) as sets:
            actual = sets.read()["bm-test"]
            assert actual != wanted
            sets.write("bm-test", wanted, actual)
            assert sets.read() == {"bm-test": wanted}
        assert run("ipset", "save", "bm-test").count("\nadd") == 2

    world(story)


def test_a_member_of_another_kind_is_refused(world: Callable[[Story], None]) -> None:
    """Before anything is sent; a name that is too long is refused by the kernel, by its name."""

    async def story(here: World) -> None:
        del here
        with closing(Sets()) as sets:
            with pytest.raises(ValueError, match="a member of another kind or family"):
                sets.write("bm-test", AddressSet(4, ports(1)), None)
            with pytest.raises(KernelError, match=r"set bm-x+: Invalid argument"):
                sets.write("bm-" + "x" * 40, AddressSet(4, numbers(1)), None)
            assert sets.read() == {}

    world(story)


def test_the_ipset_program_reads_what_we_wrote(world: Callable[[Story], None]) -> None:
    """And we read what it wrote, of the names that are ours."""
    if shutil.which("ipset") is None:
        pytest.skip("needs ipset")

    async def story(here: World) -> None:
        sets = Sets()
        protocols = {"tcp": 6, "udp": 17, "sctp": 132, "udplite": 136}
        hosts = {4: "10.1.0.1", 6: "fd01::1"}
        for family, host in hosts.items():
            members = [port_member(ipaddress.ip_address(host), number, 53) for number in protocols.values()]
            sets.write(f"bm-{family}-ports", AddressSet(family, frozenset(members), HASH_IP_PORT), None)
            saved = run("ipset", "save", f"bm-{family}-ports")
            assert {f"{host},{name}:53" for name in protocols} == set(
                re.findall("^add [^ ]+ (.+)$", saved, re.MULTILINE)
            )
            for name in protocols:
                run("ipset", "test", f"bm-{family}-ports", f"{host},{name}:53")
            found = sets.read()[f"bm-{family}-ports"]
            assert found == AddressSet(family, frozenset(members), HASH_IP_PORT)
            sets.remove(f"bm-{family}-ports")
        both = {4: "10.1.0.0/16", 6: "fd01::/48"}
        for family, network in both.items():
            sets.write(f"bm-{family}-ours", AddressSet(family, frozenset({parse_nlri(network)})), None)
            assert f"\nadd bm-{family}-ours {network}" in run("ipset", "save", f"bm-{family}-ours")
            here.iptables(family, "-A", "POSTROUTING", "-m", "set", "--match-set", f"bm-{family}-ours", "src")
        run("ipset", "create", "bm-theirs", "hash:net", "family", "inet6")
        run("ipset", "add", "bm-theirs", "fd02::/48")
        run("ipset", "create", "theirs", "hash:ip")
        assert sets.read() == {
            **{f"bm-{f}-ours": AddressSet(f, frozenset({parse_nlri(each)})) for f, each in both.items()},
            "bm-theirs": AddressSet(6, frozenset({parse_nlri("fd02::/48")})),
        }
        sets.close()

    world(story)


def test_uninstall_leaves_no_table_that_was_not_there(world: Callable[[Story], None]) -> None:
    """With iptables-nft; a table of iptables-legacy stays, empty, as long as its network namespace does."""

    async def story(here: World) -> None:
        for family in (4, 6):
            here.iptables(family, "-F")
            if here.backend == "nft":
                kernel_chains._drop_if_empty(family, "nat", ["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"])
                assert here.saved(family) == []
        before = here.saved(4), here.saved(6)
        async with here.running():
            await here.settled()
        assert await asyncio.to_thread(uninstall) != []
        assert (here.saved(4), here.saved(6)) == before

    world(story)


def test_an_empty_table_of_others_is_not_taken(world: Callable[[Story], None]) -> None:
    """A user's chain, or a rule in another built-in chain, keeps it."""

    async def story(here: World) -> None:
        here.iptables(4, "-F")
        here.iptables(4, "-N", "THEIRS")
        here.iptables(6, "-F")
        here.iptables(6, "-A", "PREROUTING", "-j", "ACCEPT")
        before = here.saved(4), here.saved(6)
        async with here.running():
            await here.settled()
        assert await asyncio.to_thread(uninstall) != []
        assert (here.saved(4), here.saved(6)) == before

    world(story)


def test_where_others_have_moved_ours_follow(world: Callable[[Story], None]) -> None:
    """A host that goes from one kind of iptables to the other keeps no rule of ours in the old one."""

    async def story(here: World) -> None:
        async with here.running():
            await here.settled()
        for family, theirs in THEIRS.items():
            here.iptables(family, *theirs.replace("-A", "-D").split())
        old, new = here.backend, "legacy" if here.backend == "nft" else "nft"
        if shutil.which(f"iptables-{new}") is None:
            pytest.skip(f"needs iptables-{new}")
        here.backend = new
        here.iptables(4, *THEIRS[4].split())
        async with here.running():
            await here.settled()
            for family in (4, 6):
                assert len([line for line in here.saved(family) if line.endswith("-j bm-POSTROUTING")]) == 1
        here.backend = old
        assert [line for family in (4, 6) for line in here.saved(family) if line.startswith("-A")] == []

    world(story)


class Later(World):
    """The engine hears what edges report in the next turn of the loop, as in the daemon."""

    def report(self, event: Event) -> None:
        """Let the engine hear it soon."""
        asyncio.get_running_loop().call_soon(World.report, self, event)


def test_who_comes_while_the_chains_it_needs_go_finds_them_whole(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain that is on its way out is not built upon: not before the engine knows that it is gone."""
    stays, one, other = (
        Endpoint(name, "shop", (("app", app),), (ipaddress.ip_address(f"10.244.1.{n}"),), f"bgpm{name}", f"/{name}")
        for n, (name, app) in enumerate((("api", "api"), ("web1", "web"), ("web2", "web")), start=1)
    )
    closed = Policy("web", "shop", selector=parse("app == 'web'"), types=frozenset({Direction.INGRESS}))
    objects = ObjectsChanged({Key("NetworkPolicy", "shop", "web"): closed})
    is_going, may_go = threading.Event(), threading.Event()
    execute = kernel_chains._execute

    def held(program: str, arguments: Iterable[str], stdin: str = "") -> str:
        if "-X bm-ci-" in stdin and not is_going.is_set():
            is_going.set()
            assert may_go.wait(DEADLINE_S)
        return execute(program, arguments, stdin)

    monkeypatch.setattr(kernel_chains, "_execute", held)

    async def story(here: World) -> None:
        async with here.running():
            await here.settled()
            here.report(EndpointRemoved(one.key))
            await asyncio.to_thread(is_going.wait, DEADLINE_S)
            here.report(EndpointAdded(other))
            await here.until(lambda: other.key in here.engine.local.endpoints, "the other one")
            may_go.set()
            await here.until(
                lambda: not here.engine.packets.chains and here.engine.packets.is_policy_in_force, "all written"
            )
            written = [event for event in here.events if isinstance(event, ChainsWritten)]
            assert [event.failed for event in written if event.failed] == []

    apart(lambda: asyncio.run(story(Later(backend, OFF, (stays, one), known=(objects,)))))
