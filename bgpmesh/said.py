"""What programs beside the daemon (`[process.*]`) have said of prefixes, and what of it may be announced.

What several say of one prefix does not depend on who spoke first: the first of them by name is heard. What may not be
announced now counts for nothing, and comes back with a configuration that allows it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bgpmesh.events import Configured
from bgpmesh.route.attributes import PathAttributes
from bgpmesh.route.nlri import Nlri, contains, network_of, nlri_of
from bgpmesh.workload.pool import is_unicast

REMEMBERED = 16_384  # prefixes of which it was looked up whether they may be announced


class Said:
    """The words of all programs of a node."""

    def __init__(self) -> None:
        self._by_process: dict[str, dict[Nlri, PathAttributes]] = {}
        self._configured: Configured | None = None
        self._refusals: dict[Nlri, str] = {}  # by the configuration

    @property
    def nlris(self) -> Collection[Nlri]:
        """Every prefix that anybody has spoken of."""
        return {nlri for said in self._by_process.values() for nlri in said}

    def configure(self, new: Configured) -> None:
        """Judge all by this configuration."""
        self._configured = new
        self._refusals.clear()

    def spoke(self, process: str, attributes: PathAttributes | None, nlris: Sequence[Nlri]) -> set[Nlri]:
        """Take an announcement, or a withdrawal (None); return the prefixes of which that says anything new."""
        said, changed = self._by_process.setdefault(process, {}), set[Nlri]()
        for nlri in nlris:
            before = said.get(nlri)
            if attributes is None and before is not None:
                del said[nlri]
            elif attributes is not None and (before is None or not before.same_as(attributes)):
                said[nlri] = attributes
            else:
                continue
            changed.add(nlri)
        return changed

    def ended(self, process: str) -> set[Nlri]:
        """Forget what a program has said; return the prefixes."""
        return set(self._by_process.pop(process, ()))

    def of(self, nlri: Nlri) -> tuple[str, PathAttributes] | None:
        """Return which program is heard on a prefix, and what it says; None: nobody has said anything."""
        for process in sorted(self._by_process):
            attributes = self._by_process[process].get(nlri)
            if attributes is not None:
                return process, attributes
        return None

    def by(self, process: str) -> Collection[Nlri]:
        """Return the prefixes that a program has announced, whether they may be or not."""
        return self._by_process.get(process, {}).keys()

    def refusal(self, nlri: Nlri) -> str:
        """Return why the configuration lets no program announce a prefix, "" where it does."""
        refusal = self._refusals.get(nlri)
        if refusal is None:
            if len(self._refusals) >= REMEMBERED:
                self._refusals.clear()
            refusal = self._refusals[nlri] = self._refusal(nlri)
        return refusal

    def _refusal(self, nlri: Nlri) -> str:
        configured, network = self._configured, network_of(nlri)
        address = network.network_address
        if not network.prefixlen:
            return "the default route: it would draw all that leaves the cluster"
        if not is_unicast(address):
            return "not of unicast addresses that others could reach"
        if configured is None:
            return ""
        if network in (*configured.pod_cidrs, *configured.advertise):
            return f"node {configured.node} announces it by its configuration"
        if network.prefixlen == network.max_prefixlen and address in configured.taken:
            return f"the address of {configured.taken[address]}"
        if any(contains(nlri_of(own), nlri) for own in configured.pod_cidrs):
            return ""
        around = next((each for each in configured.around.space if contains(nlri_of(each), nlri)), None)
        return "" if around is None else f"in {around}, which is for pods, and in no pod CIDR of node {configured.node}"
