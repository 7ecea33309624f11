"""The objects that this node has: those applied by command, and those of the files of the policy directory.

 1. An object that has become bad, or cannot be read any more, stays in force in its last good form, until it is mended
    or deleted; so a typo opens nothing. What is wrong with it stands in `problems` as long.
 2. What cannot be read is no deletion. A file that is there and no longer has an object deletes it, unless something
    in the file does not say which object it is.
 3. An object of a file is the file's: no command applies or deletes it. One that was applied before a file
    had it gives way to it, and comes back with the end of that.
 4. A tier with policies in it stays.

Pure: what is kept over a restart is `saved`, plain data that JSON can carry, and `restore` takes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bgpmesh.frozen import frozen
from bgpmesh.policy.objects import Key, Read, Remark, Value, read
from bgpmesh.policy.rule import Policy

Document = Mapping[object, object]
APPLIED = ""  # the source of what came by command; every other one is the name of a file


@frozen
class Kept:
    """One object in force, what it was read from, and where that stands."""

    value: Value
    document: Document
    source: str = APPLIED


@frozen
class Answer:
    """What became of a request: objects by what people call them, what was refused and what is odd."""

    done: tuple[str, ...] = ()
    refused: tuple[Remark, ...] = ()
    warnings: tuple[Remark, ...] = ()


@dataclass(slots=True)
class _Source:
    """What one file, or the commands, have given: the objects in their last good form, and what is wrong now."""

    objects: dict[Key, Kept] = field(default_factory=dict)
    problems: list[Remark] = field(default_factory=list)


class Store:
    """Objects by source; `apply`, `delete` and `files` change them, `objects` is what is in force."""

    def __init__(self) -> None:
        self._sources: dict[str, _Source] = {APPLIED: _Source()}
        self._problem: tuple[Remark, ...] = ()  # of the directory as a whole

    def copy(self) -> Store:
        """Return another one with the same objects, which may change on its own."""
        other = Store()
        other._sources = {
            name: _Source(dict(source.objects), list(source.problems)) for name, source in self._sources.items()
        }
        other._problem = self._problem
        return other

    def put_back(self, before: Store) -> None:
        """Have what commands have given as it is in another store; files stay as they are."""
        gone = self._sources[APPLIED].objects
        mine = before._sources[APPLIED]
        self._sources[APPLIED] = _Source(dict(mine.objects), list(mine.problems))
        self._keep_tiers({key: kept for key, kept in gone.items() if key not in mine.objects})

    def kept(self) -> dict[Key, Kept]:
        """Return everything in force; of the same object in two places the file's, and of two files the first's."""
        found: dict[Key, Kept] = {}
        for name in sorted(self._sources, key=lambda name: (name == APPLIED, name)):
            for key, kept in self._sources[name].objects.items():
                found.setdefault(key, kept)
        return found

    def objects(self) -> dict[Key, Value]:
        """Return the objects in force."""
        return {key: kept.value for key, kept in self.kept().items()}

    def problems(self) -> list[Remark]:
        """Return what is wrong now, with objects and files whose last good form is in force."""
        found = [*self._problem, *(remark for source in self._sources.values() for remark in source.problems)]
        owner: dict[Key, str] = {}
        for name in sorted(name for name in self._sources if name != APPLIED):
            for key in self._sources[name].objects:
                if key in owner:
                    found.append(Remark(str(key), "metadata.name", f"stands in {owner[key]} too, which counts"))
                owner.setdefault(key, name)
        return found

    def apply(self, documents: Iterable[object]) -> Answer:
        """Take the objects in the documents, each as a whole or not at all."""
        got = read(documents)
        mine = self._sources[APPLIED]
        of_files = {key: kept.source for key, kept in self.kept().items() if kept.source != APPLIED}
        refused = list(got.refused)
        done: list[str] = []
        for key, value in got.objects.items():
            if key in of_files:
                refused.append(Remark(str(key), "", f"stands in {of_files[key]}: change it there"))
                continue
            mine.objects[key] = Kept(value, got.documents[key])
            mine.problems = [remark for remark in mine.problems if remark.object != str(key)]
            done.append(str(key))
        for key, remarks in got.bad.items():
            if key in mine.objects and key not in got.objects:
                mine.problems = [remark for remark in mine.problems if remark.object != str(key)] + remarks
        return Answer(tuple(done), tuple(refused), tuple(got.warnings))

    def delete(self, documents: Iterable[object]) -> Answer:
        """Delete the objects that the documents speak of, whatever else is in them."""
        got = read(documents)
        keys = [*got.objects, *(key for key in got.bad if key not in got.objects)]
        known = {str(key) for key in keys}
        refused = [remark for remark in got.refused if remark.object not in known]
        return self._delete(keys, refused)

    def delete_named(self, kind: str, name: str, namespace: str | None) -> Answer:
        """Delete the object that these words mean."""
        keys = [key for key in self.kept() if key.answers_to(kind, name, namespace)]
        if not keys:
            called = f"{kind} {name if namespace is None else f'{namespace}/{name}'}"
            return Answer(refused=(Remark(called, "", "is not there"),))
        if len(keys) > 1:
            choice = " or ".join(key.kind for key in keys)
            return Answer(refused=(Remark(str(keys[0]), "", f"is not the only one: say {choice}"),))
        return self._delete(keys, [])

    def _delete(self, keys: Sequence[Key], refused: list[Remark]) -> Answer:
        mine, kept = self._sources[APPLIED], self.kept()
        done: list[str] = []
        # Policies go before the tier that they are in, however they stand in the file.
        for key in sorted(keys, key=lambda key: key.kind == "Tier"):
            if key in mine.objects and (holds := _policies_in(key, kept.values())):
                refused.append(Remark(str(key), "", f"still holds {holds}"))
            elif key in mine.objects:
                del mine.objects[key]
                kept.pop(key, None)
                mine.problems = [remark for remark in mine.problems if remark.object != str(key)]
                done.append(str(key))
            elif key in kept:
                refused.append(Remark(str(key), "", f"stands in {kept[key].source}: delete it there"))
            else:
                refused.append(Remark(str(key), "", "is not there"))
        return Answer(tuple(done), tuple(refused))

    def files(self, found: Mapping[str, Sequence[object] | str] | str) -> bool:
        """Take what the files of the directory say now: documents, or why a file cannot be read; tell if that is news.

        A text in place of all: why the directory cannot be read. Then everything stays as it was.
        """
        before = self.saved(), self.problems()
        if isinstance(found, str):
            has_any = any(source.objects for name, source in self._sources.items() if name)
            self._problem = (Remark("policy directory", "", found),) if has_any else ()
            return before != (self.saved(), self.problems())
        self._problem = ()
        gone: dict[Key, Kept] = {}
        for name in [name for name in self._sources if name not in found and name != APPLIED]:
            gone |= self._sources.pop(name).objects
        for name, documents in found.items():
            source = self._sources.setdefault(name, _Source())
            if isinstance(documents, str):
                source.problems = [Remark(name, "", documents)]
            else:
                gone |= _take(source, name, read(documents))
        self._keep_tiers(gone)
        return before != (self.saved(), self.problems())

    def _keep_tiers(self, gone: Mapping[Key, Kept]) -> None:
        kept = self.kept()
        for key, was in gone.items():
            if key not in kept and (holds := _policies_in(key, kept.values())):
                source = self._sources.setdefault(was.source, _Source())
                source.objects[key] = was
                source.problems.append(Remark(str(key), "", f"is gone from {was.source}, and still holds {holds}"))

    def saved(self) -> dict[str, object]:
        """Return what `restore` takes after a restart."""
        return {
            name: {
                "documents": [kept.document for kept in source.objects.values()],
                "problems": [list(remark) for remark in source.problems],
            }
            for name, source in sorted(self._sources.items())
        }

    def restore(self, saved: Mapping[str, Mapping[str, Sequence[object]]]) -> list[Remark]:
        """Have again what was saved; return what of it can no longer be read. Files that are gone go when read."""
        lost: list[Remark] = []
        for name, each in saved.items():
            got = read(each["documents"])
            objects = {key: Kept(value, got.documents[key], name) for key, value in got.objects.items()}
            problems = [Remark(*map(str, remark)) for remark in each["problems"] if isinstance(remark, list)]
            self._sources[name] = _Source(objects, problems)
            lost += got.refused
        return lost


def _take(source: _Source, name: str, got: Read) -> dict[Key, Kept]:
    """Make a source what its file says now; return what went."""
    before = source.objects
    source.objects = {key: Kept(value, got.documents[key], name) for key, value in got.objects.items()}
    stays = before.keys() if not got.is_certain else got.bad.keys() & before.keys()
    source.objects |= {key: before[key] for key in before if key in stays and key not in source.objects}
    source.problems = list(got.refused)
    return {key: kept for key, kept in before.items() if key not in source.objects}


def _policies_in(key: Key, kept: Collection[Kept]) -> str:
    """Return in words which policies a tier has, "" where it has none or is no tier."""
    if key.kind != "Tier":
        return ""
    names = sorted(each.value.key for each in kept if isinstance(each.value, Policy) and each.value.tier == key.name)
    return f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}" if names else ""
