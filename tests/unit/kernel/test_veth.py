"""The writer of links where it cannot be had."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bgpmesh.kernel import veth


def test_a_writer_that_cannot_be_made_keeps_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again and again, until there is one to be had."""

    def refuse() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(veth, "IPRoute", refuse)
    before = sorted(Path("/proc/self/fd").iterdir())
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        veth.VethWriter()
    assert sorted(Path("/proc/self/fd").iterdir()) == before
