"""What befell a cluster in a lab comes out again as it did then, from the journals of its daemons."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from bgpmesh import log
from bgpmesh.journal.story import Handled, Story, Took, Worked, read
from tests.outcome import outcome

HERE = Path(__file__).parent
JOURNALS = sorted(HERE.glob("*/*.journal"))
FEWEST = 2  # stories
LARGEST = 100_000  # octets of a journal


def told(story: Story) -> dict[str, object]:
    """Return what people were told and when, how many keys were given to the kernel, and what it all came to.

    The seconds count from the first line. The log's form keeps floats short.
    """
    notes: list[str] = []
    written: Counter[str] = Counter()
    began = now = None
    for record, engine in story.replay():
        match record:
            case Took(_, name, keys):
                written[name] += len(keys)
            case Handled(_, _, at) | Worked(_, _, at):
                now = at
                began = at if began is None else began
        while engine.notes:
            note = engine.notes.popleft()
            since = 0.0 if now is None or began is None else now - began
            notes.append(f"{since:.2f} {note.level.value} {log.render(note.name, dict(note.keys))}")
    return {"notes": notes, "written": dict(written), **outcome(engine)}


def test_there_are_stories_and_each_is_explained() -> None:
    """A journal without an explanation is half a test, and none at all passes for nothing."""
    stories = {path.parent for path in JOURNALS}
    assert len(stories) >= FEWEST
    assert stories == {path.parent for path in HERE.glob("*/README.md")}
    for path in JOURNALS:
        words = (path.parent / "README.md").read_text("utf-8")
        assert f"`{path.name}`" in words, f"{path.parent.name} says nothing of it"
        assert "```\n" in words, "the topology is drawn"
        assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("path", JOURNALS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_story_ends_as_it_did(path: Path, *, is_updating_golden: bool) -> None:
    """The notes in their order, and every table."""
    expected = path.with_suffix(".json")
    found = told(read(path))
    if is_updating_golden:
        expected.write_text(json.dumps(found, indent=1) + "\n", "ascii")
    assert json.loads(expected.read_text("ascii")) == json.loads(json.dumps(found))
