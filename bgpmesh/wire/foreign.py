"""ExaBGP called in such a way that nothing of it escapes: its settings, its exceptions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from exabgp.bgp.message import Notify
from exabgp.environment import getenv
from exabgp.logger import log as exabgp_log

from bgpmesh.errors import PeerError
from bgpmesh.peering.message import Code


@functools.cache
def quieten() -> None:
    """Set what ExaBGP keeps for the whole process: no log (a decoded UPDATE would write one), no caches of its own."""
    settings = getenv()
    settings.log.enable = False
    settings.cache.attributes = False
    exabgp_log.init(settings)


def called(call: Callable[[], Any], code: Code) -> Any:
    """Return what ExaBGP answers; raises PeerError for what it refuses, and for what it trips over (`code`)."""
    try:
        return call()
    except Notify as error:
        if error.code == Code.HEADER:
            raise PeerError(error.code, error.subcode, "bad message length", bytes(error.data)) from error
        raise PeerError(error.code, error.subcode, bytes(error.data).decode("utf-8", "replace")) from error
    except Exception as error:  # the bytes are the peer's, and what ExaBGP trips over is not listed
        raise PeerError(code, 0, f"not understood ({type(error).__name__})") from error
