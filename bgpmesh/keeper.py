"""The objects of packet policy between the commands, the policy directory, the disk and the engine.

What changes is on disk before it is in force, so that a daemon that dies here comes back with it. The store
(`policy/store.py`) decides what is taken; here are only the files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from bgpmesh import log, objects
from bgpmesh.errors import refused
from bgpmesh.events import Event, ObjectsChanged
from bgpmesh.policy.objects import Remark
from bgpmesh.policy.store import APPLIED, Answer, Store
from bgpmesh.state import State

WATCH_S = 1.0  # the policy directory is looked at this often; a change counts when it is as old


class Keeper:
    """Keeps the store, its file and the policy directory together; `report` takes what the engine is to hear."""

    def __init__(self, state: State, report: Callable[[Event], None]) -> None:
        self.store = Store()
        self._state = state
        self._report = report
        self._stamps: objects.Stamps | str = {}
        self._is_saved = True
        self._unknown = ""  # why it is not known what was in force
        self._before: Store | None = None  # while what was applied last is not confirmed

    def restore(self, directory: Path) -> bool:
        """Have the objects of the last life, and those of the directory; False where the former cannot be read.

        Then nothing is put in force: without them workloads would be open to all. They are on a disk where nobody
        but a failure, or a hand, spoils them, so whoever knows is asked.
        """
        kept = self._state.objects()
        if kept.problem:
            self._unknown = f"{kept.problem}: policies stay as they stand; mend the file, or remove it, and restart"
            log.error("state.unreadable", file="objects", reason=kept.problem)
            return False
        for remark in self.store.restore(kept.value or {}):
            log.error("object.lost", value=remark.object, reason=_words(remark))
        self._stamps, found = objects.snapshot(directory)
        self._take(found)
        self._report(ObjectsChanged(self.store.objects()))
        return True

    def problems(self) -> list[str]:
        """Return what is wrong with objects, in words."""
        said = [f"{remark.object}: {_words(remark)}" for remark in self.store.problems()]
        return [self._unknown, *said] if self._unknown else said

    def save(self) -> str:
        """Write what is not on disk yet; return what is wrong with that, "" if nothing is."""
        if self._is_saved:
            return ""
        saved = self.store.saved()
        if self._before is not None:
            saved[APPLIED] = self._before.saved()[APPLIED]  # a restart comes back to that
        problem = self._state.save_objects(saved)
        self._is_saved = not problem
        return problem

    def apply(self, documents: list[object]) -> Answer:
        """Take the objects in the documents; raises ConfigError where it is not known what is in force."""
        self.check_is_known()
        return self._changed(self.store.apply(documents))

    def try_out(self, documents: list[object]) -> Answer:
        """Take them until `confirm` or `take_back`, and not over a restart; raises as `apply` does."""
        self.check_is_known()
        before = self.store.copy()
        answer = self.store.apply(documents)
        self._before = before if answer.done else None
        return self._changed(answer)

    def confirm(self) -> str:
        """Keep what was tried out; return what is wrong with that, "" if nothing is."""
        before, self._before, self._is_saved = self._before, None, False
        if problem := self.save():
            self._before = before
        return problem

    def take_back(self) -> None:
        """Have what commands have given as it was before `try_out`."""
        if self._before is not None:
            self.store.put_back(self._before)
            self._before = None
            self._is_saved = False
            self._report(ObjectsChanged(self.store.objects()))

    def delete(self, documents: list[object]) -> Answer:
        """Delete the objects in the documents; raises as `apply` does."""
        self.check_is_known()
        return self._changed(self.store.delete(documents))

    def delete_named(self, kind: str, name: str, namespace: str | None) -> Answer:
        """Delete the object that these words mean; raises as `apply` does."""
        self.check_is_known()
        return self._changed(self.store.delete_named(kind, name, namespace))

    async def watch(self, directory: Callable[[], Path]) -> None:
        """Take what changes in the policy directory, until cancelled.

        Nothing is taken as long as it goes on changing: a file that is being written is empty at first, and an empty
        one deletes what stood in it.
        """
        seen = self._stamps
        while not self._unknown:
            await asyncio.sleep(WATCH_S)
            place = directory()
            before, seen = seen, await asyncio.to_thread(objects.stamps, place)
            if seen != before or seen == self._stamps:
                continue
            stamps, found = await asyncio.to_thread(objects.snapshot, place)
            if stamps == seen:
                self._stamps = stamps
                self._take(found)

    def _take(self, found: Mapping[str, list[object] | str] | str) -> None:
        before = self.store.problems()
        if not self.store.files(found):
            return
        for remark in self.store.problems():
            if remark not in before:
                log.warning("object.refused", value=remark.object, reason=_words(remark))
        self._changed(None)

    def _changed(self, answer: Answer | None) -> Answer:
        if answer is None or answer.done or answer.refused:
            self._is_saved = False
            self._report(ObjectsChanged(self.store.objects()))
        return answer or Answer()

    def check_is_known(self) -> None:
        """Raise ConfigError where it is not known what is in force."""
        if self._unknown:
            raise refused("state.directory", "", self._unknown)


def _words(remark: Remark) -> str:
    return f"{remark.field} {remark.reason}".strip()
