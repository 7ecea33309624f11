"""When each session is due: its own timers, and the end of a time for which it is closed."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from bgpmesh.route.path import PeerName

NEVER = float("inf")


class Agenda:
    """The monotonic seconds at which peers' sessions are to be looked at; O(log peers) for each change."""

    def __init__(self) -> None:
        self._at: dict[PeerName, float] = {}
        self._heap: list[tuple[float, PeerName]] = []  # of the same, and of what it was before: that is passed over
        self._closed_until: dict[PeerName, float] = {}

    def wake(self, name: PeerName, at: float) -> None:
        """Have a session looked at when its own timer is due, or it may begin again, whichever comes first."""
        if self._closed_until:
            at = min(at, self._closed_until.get(name, NEVER))
        if self._at.get(name) == at:
            return
        self._at[name] = at
        if len(self._heap) > 4 * len(self._at) + 64:
            self._heap = [(other, of) for of, other in self._at.items()]
            heapify(self._heap)
        else:
            heappush(self._heap, (at, name))

    def close(self, name: PeerName, until: float) -> None:
        """Have a session begin again then, and nothing of it be due before."""
        self._closed_until[name] = until
        self.wake(name, until)

    def is_closed(self, name: PeerName) -> bool:
        """Tell whether a session waits to begin again."""
        return name in self._closed_until

    def open(self, name: PeerName) -> bool:
        """Let a session begin again at once; tell whether it waited for that."""
        return self._closed_until.pop(name, None) is not None

    def forget(self, name: PeerName) -> None:
        """Remember nothing of a session."""
        self._at.pop(name, None)
        self._closed_until.pop(name, None)

    def next_due(self) -> float:
        """Return the second at which somebody is due, infinity if nobody is."""
        heap = self._heap
        while heap and self._at.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else NEVER

    def take_due(self, now: float) -> list[tuple[PeerName, bool]]:
        """Take off who is due, the earliest first, each with whether it begins again."""
        due: list[tuple[PeerName, bool]] = []
        while self.next_due() <= now:
            name = heappop(self._heap)[1]
            del self._at[name]
            due.append((name, self._closed_until.get(name, NEVER) <= now and self.open(name)))
        return due
