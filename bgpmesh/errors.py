"""The four ways things go wrong, by whose problem it is.

| kind          | whose         | reach       | what happens                                         |
|---------------|---------------|-------------|------------------------------------------------------|
| `ConfigError` | the operator  | a request   | refused with every problem; the last good state runs |
| `PeerError`   | the other end | one session | NOTIFICATION and back-off, or softened by RFC 7606   |
| `KernelError` | this host     | one object  | stays in the gap and is tried again                  |
| anything else | ours          | the process | a traceback; the supervisor restarts us              |
"""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong with what an operator wrote: where, what stands there, and why it cannot be."""

    file: str  # "" for a request of the command line
    key: str  # dotted, as in the file: peer.tor1.asn
    value: str  # as the operator would recognise it
    reason: str

    def __str__(self) -> str:
        """Render as `file: key = value: reason`, leaving out what is empty."""
        shown = f"{self.key} = {self.value}" if self.value else self.key
        return ": ".join(part for part in (self.file, shown, self.reason) if part)


class ConfigError(Exception):
    """What the operator asks cannot be; carries every problem found, not only the first."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def refused(key: str, value: object, reason: str) -> ConfigError:
    """Return the error for a request (not a file) with one thing wrong."""
    return ConfigError((Problem("", key, str(value), reason),))


class PeerError(Exception):
    """The peer broke the protocol: the NOTIFICATION it earns (RFC 4271 §4.5) and the words for the operator."""

    def __init__(self, code: int, subcode: int, text: str, data: bytes = b"") -> None:
        super().__init__(text)
        self.code = code
        self.subcode = subcode
        self.text = text
        self.data = data


class KernelError(Exception):
    """The kernel refused one object; `errno` is the kernel's, 0 where there is none."""

    def __init__(self, what: str, errno: int, text: str) -> None:
        super().__init__(f"{what}: {text}")
        self.what = what
        self.errno = errno
        self.text = text
