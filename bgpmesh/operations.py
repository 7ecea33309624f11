"""What commands change on a node: workloads, floating addresses, policy, configuration, service, who follows drops.

Each is answered once it is so; where it cannot be, or does not come to be in time, the answer says why. A workload or a
floating address is taken back then. Labels and objects stay, in force as far as they can be.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace

from bgpmesh.config.checks import announced_by, taken_by_others
from bgpmesh.control import arguments, views
from bgpmesh.control.arguments import (
    address,
    documents_of,
    floating_ip_of,
    key_of,
    number_of,
    seconds_of,
    text_of,
    texts_of,
)
from bgpmesh.control.server import Request, RequestError, Stream
from bgpmesh.drain import Drainer, DrainOptions
from bgpmesh.drops import Drops
from bgpmesh.engine import Engine
from bgpmesh.errors import ConfigError, refused
from bgpmesh.events import EndpointAdded, EndpointRemoved, FloatingIpsKept
from bgpmesh.keeper import Keeper
from bgpmesh.kernel.links import LinksEdge
from bgpmesh.policy.objects import Remark
from bgpmesh.policy.store import Answer
from bgpmesh.pump import Pump
from bgpmesh.revisions import Revisions
from bgpmesh.workload.endpoint import Endpoint, interface_name
from bgpmesh.workload.floating import FloatingIp

# A workload that is not connected by then is given up: longer than chains wait for others (kernel/chains.py).
ATTACH_S = 30.0
# A change of policy that is not in force by then is answered all the same, with what is in its way.
IN_FORCE_S = 30.0
# What peers are told of a shutdown, in octets.
LONGEST_TEXT = 255


class Operations:
    """What may be changed by a request.

    The answers to `verbs` are awaited. They raise ConfigError or RequestError where the answer is no.
    """

    def __init__(
        self,
        engine: Engine,
        pump: Pump,
        revisions: Revisions,
        *,
        keeper: Keeper,
        drops: Drops,
        links: LinksEdge,
        drainer: Drainer,
    ) -> None:
        self._engine = engine
        self._pump = pump
        self._revisions = revisions
        self._keeper = keeper
        self._drops = drops
        self._links = links
        self._drainer = drainer
        self.verbs: dict[str, Callable[[Request], Awaitable[object]]] = {
            "workload add": self._attach,
            "workload del": self._detach,
            "workload label": self._label,
            "pool check": self._check_pools,
            "floating-ip add": self._float,
            "floating-ip del": self._sink,
            "apply": self._apply,
            "delete": self._delete,
            "drain": self._drain,
            "undrain": lambda _: drainer.end(),
            "diff": self._diff,
            "reload": self._reload,
            "confirm": self._confirm,
            "rollback": self._roll_back,
        }

    # ── workloads ────────────────────────────────────────────────────────────

    async def _attach(self, request: Request) -> object:
        """Give a workload its addresses, link and routes; answers once it is connected."""
        engine, local = self._engine, self._engine.local
        endpoint = self._take(request)
        key = endpoint.key
        self._pump.report(EndpointAdded(endpoint))
        self._pump.turn()  # now: the next request must find name and addresses taken

        def is_over() -> bool:
            return key not in local.endpoints or engine.endpoint_problem(key) != ""

        is_settled = await self._pump.until(is_over, ATTACH_S)
        problem = (engine.endpoint_problem(key) or "") if key in local.endpoints else "removed meanwhile"
        if is_settled and not problem:
            return views.workload(endpoint)
        if key in local.endpoints:
            self._pump.report(EndpointRemoved(key))
        raise refused("workload", key, problem or f"not connected within {ATTACH_S:g} s")

    def _take(self, request: Request) -> Endpoint:
        """Return the workload that a request is about, with its addresses; the links have its namespace."""
        args, local = request.args, self._engine.local
        self._check_has_workloads()
        key = key_of(args)
        namespace, _, name = key.partition("/")
        netns = text_of(args, "netns") or ""
        if key in local.endpoints:
            raise refused("name", key, f"already attached to {local.endpoints[key].netns}")
        if len(request.descriptors) != 1:
            raise refused("netns", netns, "no descriptor of the namespace came with the request")
        wanted = tuple(address(text) for text in texts_of(args, "ip"))
        labels = arguments.labels(texts_of(args, "label"))
        ports = arguments.ports(texts_of(args, "port"))
        try:
            descriptor = os.dup(request.descriptors[0])
        except OSError as error:
            raise refused("netns", netns, f"the daemon cannot keep it open: {error.strerror}") from error
        try:
            addresses = local.addresses.request(key, wanted, self._pump.now())
        except ConfigError:
            os.close(descriptor)
            raise
        interface, inode = interface_name(self._revisions.config.workload.prefix, key), os.fstat(descriptor)
        self._links.offer(interface, descriptor)
        return Endpoint(name, namespace, labels, addresses, interface, netns, ports, (inode.st_dev, inode.st_ino))

    async def _label(self, request: Request) -> object:
        """Change labels of a workload: `k=v` sets one, `k-` takes one away; answers once that is in force."""
        key, words = key_of(request.args), texts_of(request.args, "label")
        endpoint = self._endpoint(key)
        gone = {word[:-1] for word in words if word.endswith("-") and "=" not in word}
        new = dict(arguments.labels([word for word in words if not (word.endswith("-") and "=" not in word)]))
        if both := gone & new.keys():
            raise refused("label", min(both), "both set and taken away")
        labels = {label: value for label, value in endpoint.labels if label not in gone} | new
        endpoint = replace(endpoint, labels=tuple(sorted(labels.items())))
        self._pump.report(EndpointAdded(endpoint))
        self._pump.turn()
        if not await self._pump.until(self._is_policy_settled, IN_FORCE_S):
            raise refused("workload", key, f"its labels are not in force within {IN_FORCE_S:g} s")
        return views.workload(endpoint)

    async def _check_pools(self, request: Request) -> object:
        """Find addresses of workloads whose namespace is gone; with `fix` take those away, as `workload del` does."""
        engine, fix = self._engine, request.args.get("fix", False)
        if not isinstance(fix, bool):
            raise refused("fix", fix, "not true or false")
        leaks: list[views.JsonObject] = []
        for key, endpoint in sorted(engine.local.endpoints.items()):
            problem = engine.endpoint_problem(key) or ""
            if problem.startswith(f"network namespace {endpoint.netns}:"):
                addresses = [str(each) for each in endpoint.addresses]
                leaks.append({"workload": key, "addresses": addresses, "reason": problem, "fixed": fix})
        for leak in leaks if fix else ():
            key = str(leak["workload"])
            if key in engine.local.endpoints:  # nobody else was quicker
                await self._remove(key)
        return {"node": engine.node, "leaks": leaks}

    async def _detach(self, request: Request) -> object:
        """Take a workload's routes, link and addresses away; answers once its link is gone."""
        return await self._remove(key_of(request.args))

    async def _remove(self, key: str) -> object:
        local, endpoint = self._engine.local, self._endpoint(key)
        self._pump.report(EndpointRemoved(key))

        def is_gone() -> bool:
            another = local.endpoints.get(key, endpoint) is not endpoint  # added since: the link is its
            return another or endpoint.interface not in local.links.actual

        if not await self._pump.until(is_gone, ATTACH_S):
            raise refused("workload", key, f"its link {endpoint.interface} is still there after {ATTACH_S:g} s")
        return views.workload(endpoint)

    def _endpoint(self, key: str) -> Endpoint:
        endpoint = self._engine.local.endpoints.get(key)
        if endpoint is None:
            raise RequestError("not-found", "no such workload on this node", key="workload", value=key)
        return endpoint

    def _check_has_workloads(self) -> None:
        if not self._revisions.config.kernel.enabled:
            raise refused("kernel.enabled", "false", "this node writes no routes, so it has no workloads")

    # ── floating addresses ───────────────────────────────────────────────────

    async def _float(self, request: Request) -> object:
        """Have a floating address lead to a workload, whatever it led to; answers once it does.

        Where the packet filter refuses it is as it was before.
        """
        new, engine, config = floating_ip_of(request.args), self._engine, self._revisions.config
        floating, leads = engine.local.floating, engine.packets.leads
        self._check_has_workloads()
        self._keeper.check_is_known()
        taken = taken_by_others(config.nodes, config.neighbours, ()) | announced_by(config.nodes)
        taken |= engine.local.floating_taken(new.external)
        floating.check(new, config.pools, engine.configured.around.space, taken)
        before = floating.kept
        self._keep_floating((*floating.without(new.external), new))

        def is_over() -> bool:
            return floating.in_force.get(new.external) != new or leads.problem(new.external) != ""

        await self._pump.until(is_over, ATTACH_S)
        if floating.in_force.get(new.external) != new:
            raise refused("external", new.external, "changed meanwhile")
        problem = leads.problem(new.external)
        if problem == "" or (problem is not None and new.external in leads.wanted):
            old = tuple(each for each in before if each.external == new.external)
            self._keep_floating((*floating.without(new.external), *old))
            raise refused("external", new.external, problem or f"not in force within {ATTACH_S:g} s")
        return views.floating_ip(engine, new)

    async def _sink(self, request: Request) -> object:
        """Have a floating address lead nowhere; answers once nothing of it is left on this node."""
        external = address(text_of(request.args, "external") or "", "external")
        floating, leads = self._engine.local.floating, self._engine.packets.leads
        self._keeper.check_is_known()
        left = floating.without(external)
        if len(left) == len(floating.kept):
            reason = "no such floating address on this node"
            raise RequestError("not-found", reason, key="external", value=str(external))
        (gone,) = set(floating.kept) - set(left)
        self._keep_floating(left)

        def is_gone() -> bool:
            return external in floating.in_force or leads.is_gone(external)  # it may be here again

        if not await self._pump.until(is_gone, ATTACH_S):
            raise refused("external", external, f"its translation is still there after {ATTACH_S:g} s")
        return {"external": str(external), "workload": gone.workload, "outbound": gone.outbound}

    def _keep_floating(self, floating: tuple[FloatingIp, ...]) -> None:
        self._pump.report(FloatingIpsKept(floating))
        self._pump.turn()  # now: it is on disk, and the next request finds it

    # ── packet policy ────────────────────────────────────────────────────────

    async def _apply(self, request: Request) -> object:
        """Take objects, for good or on trial; answers once they are in force here."""
        documents, trial_s = documents_of(request.args), seconds_of(request.args, "confirm")
        if trial_s is None:
            self._revisions.check_is_free(of_objects=True)
            return await self._in_force(self._keeper.apply(documents), "applied")
        self._revisions.check_is_free()
        answer = self._keeper.try_out(documents)
        if answer.done:
            more = f" and {len(answer.done) - 1} more" if answer.done[1:] else ""
            self._revisions.begin(answer.done[0] + more, trial_s, self._keeper.confirm, self._keeper.take_back)
        return await self._in_force(answer, "applied") | {"unconfirmed": self._revisions.unconfirmed()}

    async def _delete(self, request: Request) -> object:
        """Delete objects, by their documents or one by its name; answers once that is in force here."""
        args = request.args
        self._revisions.check_is_free(of_objects=True)
        if "documents" in args:
            return await self._in_force(self._keeper.delete(documents_of(args)), "deleted")
        kind, name = text_of(args, "kind") or "", text_of(args, "name") or ""
        return await self._in_force(self._keeper.delete_named(kind, name, text_of(args, "namespace")), "deleted")

    async def _in_force(self, answer: Answer, word: str) -> dict[str, object]:
        """Return what became of a request for objects once that is in force here."""
        packets = self._engine.packets
        warnings = [remark._asdict() for remark in answer.warnings]
        if answer.done:
            self._pump.turn()
            if word == "applied" and not self._engine.configured.has_identity:  # with it, whoever read them said so
                found = [Remark(*each)._asdict() for each in packets.unknowable()]
                warnings += [each for each in found if each["object"] in answer.done]
            if not await self._pump.until(self._is_policy_settled, IN_FORCE_S):
                warnings.append({"object": "", "field": "", "reason": f"not in force within {IN_FORCE_S:g} s"})
            for what, reason in packets.unmade().items():
                warnings.append({"object": what, "field": "", "reason": f"not in force: {reason}"})
        return {word: answer.done, "refused": [remark._asdict() for remark in answer.refused], "warnings": warnings}

    def _is_policy_settled(self) -> bool:
        """Tell whether all that was said of packets is in force, and connections were looked at, or cannot be."""
        packets = self._engine.packets
        return packets.is_policy_in_force and (not packets.is_review_due or bool(packets.review.problem))

    # ── service ──────────────────────────────────────────────────────────────

    async def _drain(self, request: Request) -> Stream:
        """Begin to leave service, and tell how that goes."""
        args, config, usual = request.args, self._revisions.config, DrainOptions()
        stop = args.get("stop", False)
        if not isinstance(stop, bool):
            raise refused("stop", stop, "not true or false")
        reflectors = {node.name for node in config.nodes if node.reflector}
        if not stop and config.cluster.topology == "reflectors" and reflectors == {self._engine.node}:
            reason = "the only reflector: its clients would lose each other's routes (--stop does it all the same)"
            raise refused("node", self._engine.node, reason)
        limit, below = number_of(args, "limit", usual.limit), number_of(args, "below", usual.below)
        text = text_of(args, "text") or usual.text
        if len(text.encode()) > LONGEST_TEXT:
            raise refused("text", text, f"more than {LONGEST_TEXT} octets (RFC 9003 §2)")
        return self._drainer.begin(DrainOptions(limit, below, stop, text))

    # ── the configuration ────────────────────────────────────────────────────

    async def _diff(self, request: Request) -> object:
        """Return what a configuration would do."""
        return self._revisions.plan(text_of(request.args, "text"), text_of(request.args, "file"))

    async def _reload(self, request: Request) -> object:
        """Put a configuration in force, for good or on trial."""
        args = request.args
        return self._revisions.reload(text_of(args, "text"), text_of(args, "file"), seconds_of(args, "confirm"))

    async def _confirm(self, _: Request) -> object:
        """Keep what is on trial."""
        return self._revisions.confirm()

    async def _roll_back(self, request: Request) -> object:
        """Take back what is on trial, or go back to the configuration before; answers once that is in force."""
        answer = self._revisions.rollback(is_dry_run=request.args.get("dry_run") is True)
        self._pump.turn()
        await self._pump.until(self._is_policy_settled, IN_FORCE_S)
        return answer

    # ── drops ────────────────────────────────────────────────────────────────

    async def follow_drops(self) -> Stream:
        """Answer once the rules tell of what they drop."""
        if not self._revisions.config.kernel.enabled:
            raise refused("kernel.enabled", "false", "this node has no chains that drop")
        group, packets = self._revisions.config.policy.nflog_group, self._engine.packets
        before = set(packets.chains.refused)
        follower = self._drops.join(group)
        try:
            self._pump.turn()
            if not await self._pump.until(lambda: packets.is_policy_in_force, IN_FORCE_S):
                raise refused("policy.nflog_group", str(group), f"no rule tells of drops within {IN_FORCE_S:g} s")
            for chain in packets.chains.refused.keys() - before:
                raise refused("policy.nflog_group", str(group), f"{chain}: {packets.chains.refused[chain].reason}")
        except BaseException:
            await follower.aclose()
            raise
        return Stream({"following": "drops", "group": group}, follower)
