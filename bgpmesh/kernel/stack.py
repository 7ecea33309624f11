"""Which network stack this is: the kernel's routes are gone with it, and a new one is not told by its looks."""

from __future__ import annotations

import socket
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_SO_NETNS_COOKIE = 71  # asm-generic/socket.h; Linux 5.14


def network_stack() -> str:
    """Return a name that no other network namespace has had or will have; "" where the kernel does not tell."""
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
            cookie = any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError:
        return ""
    return f"{boot} {int.from_bytes(cookie, 'little')}"
