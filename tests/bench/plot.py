"""The medians as a drawing: a panel for each scenario, a bar for each daemon, each panel with a scale of its own.

Standard library only; what comes out is one SVG file without fonts, styles or scripts from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from xml.sax.saxutils import escape, quoteattr

COLOURS = {"bgpmesh": "#c2410c", "bird": "#1d4ed8", "frr": "#64748b", "gobgp": "#0f766e"}
OTHER_COLOUR = "#a1a1aa"
COLUMNS, PANEL, MARGIN, LABEL, FIGURE = 2, 520, 20, 70, 90  # widths in pixels
TITLE, ROW, BAR, GAP, HEAD, FOOT = 22, 20, 13, 16, 40, 26  # heights in pixels


@dataclass(frozen=True, slots=True)
class Bar:
    """One daemon: its median with the spread, and the median as it is read."""

    name: str
    median: float
    least: float
    most: float
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One scenario; the limit is what the kernel alone takes, in the unit of the bars."""

    title: str
    bars: tuple[Bar, ...]
    limit: float | None = None

    @property
    def height(self) -> int:
        """In pixels."""
        return TITLE + ROW * len(self.bars) + GAP


def drawing(title: str, panels: Sequence[Panel]) -> str:
    """Return the SVG document."""
    parts: list[str] = []
    top = HEAD
    for row in zip_longest(*(panels[start::COLUMNS] for start in range(COLUMNS))):
        for column, panel in enumerate(row):
            if panel is not None:
                parts += _panel(panel, MARGIN + column * PANEL, top)
        top += max(panel.height for panel in row if panel is not None)
    width, height = MARGIN + COLUMNS * PANEL, top + FOOT
    note = "thin line: lowest and highest run; dashed: what the kernel alone takes; every panel has a scale of its own"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    lines = [
        f'{head} font-family="sans-serif" font-size="12" fill="#18181b">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="24" font-size="16" font-weight="bold">{escape(title)}</text>',
        *parts,
        f'<text x="{MARGIN}" y="{height - 10}" fill="#52525b">{escape(note)}</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _panel(panel: Panel, left: int, top: int) -> Iterator[str]:
    room = PANEL - MARGIN - LABEL - FIGURE
    scale = room / (max([bar.most for bar in panel.bars] + [panel.limit or 0.0]) or 1.0)
    start = left + LABEL
    yield f'<text x="{left}" y="{top + 14}" font-weight="bold">{escape(panel.title)}</text>'
    for number, bar in enumerate(panel.bars):
        y = top + TITLE + number * ROW
        middle = y + BAR / 2
        colour = quoteattr(COLOURS.get(bar.name, OTHER_COLOUR))
        least, most = start + bar.least * scale, start + bar.most * scale
        yield f'<text x="{start - 6}" y="{y + 11}" text-anchor="end">{escape(bar.name)}</text>'
        yield f'<rect x="{start}" y="{y}" width="{max(bar.median * scale, 1):.1f}" height="{BAR}" fill={colour}/>'
        yield f'<path d="M{least:.1f} {middle}H{most:.1f}" stroke="#18181b" stroke-width="1.5"/>'
        yield f'<text x="{max(most, start + 1) + 6:.1f}" y="{y + 11}">{escape(bar.text)}</text>'
    if panel.limit is not None:
        x, bottom = start + panel.limit * scale, top + TITLE + ROW * len(panel.bars) - ROW + BAR + 3
        yield f'<path d="M{x:.1f} {top + TITLE - 3}V{bottom}" stroke="#18181b" stroke-dasharray="4 3"/>'
