"""Which packet filter is used, and what its program says when it refuses."""

from __future__ import annotations

import pytest

from bgpmesh.kernel.chains import _reason, choose


@pytest.mark.parametrize(
    ("foreign", "ours", "expected"),
    [
        ({"nft": 0, "legacy": 12}, [], "legacy"),
        ({"nft": 3, "legacy": 0}, [], "nft"),
        ({"nft": 3, "legacy": 0}, ["legacy"], "nft"),
        ({"nft": 0, "legacy": 0}, [], "nft"),
        ({"nft": 0, "legacy": 0}, ["legacy"], "legacy"),
        ({"nft": 0, "legacy": 0}, ["nft", "legacy"], "nft"),
        ({"nft": 3, "legacy": 12}, ["legacy"], "nft"),
    ],
)
def test_the_packet_filter_of_others_is_ours_too(foreign: dict[str, int], ours: list[str], expected: str) -> None:
    """Where others use none or both, ours stay where they are or go where `iptables` writes; it is said why."""
    backend, why = choose("nft", foreign, ours)
    assert backend == expected
    assert why


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        (
            "iptables-restore v1.8.9 (nf_tables): Set bm-4-x doesn't exist.\n\nError occurred at line: 4\n",
            "Set bm-4-x doesn't exist",
        ),
        (
            "# Warning: iptables-legacy tables present\niptables-restore: line 3 failed\n",
            "iptables-restore: line 3 failed",
        ),
        (
            "iptables-nft-restore v1.8.9 (nf_tables): \nline 2: RULE_APPEND failed (No such file or directory)\n",
            "line 2: RULE_APPEND failed (No such file or directory)",
        ),
        ("iptables-nft-save/1.8.9 (nf_tables) Failed to initialize nft", "Failed to initialize nft"),
        ("", ""),
    ],
)
def test_the_reason_is_the_first_line_that_says_something(stderr: str, expected: str) -> None:
    """Without the program's name and version, which the error has already."""
    assert expected == _reason(stderr)
