"""Line charts as inline SVG, for pages that open from disk: no script, and the page's own colours, light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from diffwave_sde.names import printable

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 34
POINTS = 240
"""Points of a line at most: more of them are averaged, a stretch of steps each."""

COLOURS = 7


@dataclass(frozen=True)
class Line:
    """What is drawn as one line: its name, and the points. What is not finite leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    log_x: bool = False,
    log_y: bool = False,
    marks: Sequence[float] = (),
    marked: str = "",
    last: bool = True,
) -> str:
    """A figure in HTML; "" where there is nothing to draw.

    Args:
        title: what is drawn, with its unit.
        lines: at most seven have a colour of their own.
        x_label: what x is, with its unit.
        log_x, log_y: logarithmic axes; what is not positive is left out there.
        marks: places on the x axis that are marked by a line from top to bottom.
        marked: what these are.
        last: whether the last value of each line stands beside its name.
    """
    drawn = [(k, line, _points(line, log_x, log_y)) for k, line in enumerate(lines)]
    drawn = [(k, line, points) for k, line, points in drawn if any(points)]
    if not drawn:
        return ""
    every = [point for _, _, parts in drawn for part in parts for point in part]
    across = _Axis.over([x for x, _ in every], log_x, LEFT, WIDTH - RIGHT, pad=False)
    up = _Axis.over([y for _, y in every], log_y, HEIGHT - BOTTOM, TOP)
    parts = []
    for value in up.ticks():
        y = up.place(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(value)}</text>')
    for value in across.ticks():
        x = across.place(value)
        parts.append(f'<line class="grid" y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="{x:.1f}" x2="{x:.1f}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{_number(value)}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{_markup(x_label)}</text>'
    )
    inside = [across.place(x) for x in marks if across.low <= across.scale(x) <= across.high]
    parts += [f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>' for x in inside]
    for k, line, stretches in drawn:
        for stretch in stretches:
            at = [(across.place(x), up.place(y)) for x, y in stretch]
            if len(at) == 1:
                parts.append(f'<circle class="c{k % COLOURS} dot" cx="{at[0][0]:.1f}" cy="{at[0][1]:.1f}" r="3"/>')
            else:
                path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
                parts.append(f'<polyline class="c{k % COLOURS}" points="{path}"><title>{_markup(line.name)}</title>')
                parts.append("</polyline>")
    legend = [
        f'<li><i class="c{k % COLOURS}"></i>{_markup(line.name)}'
        f"{f' <b>{_number(_last(line.y))}</b>' if last else ''}</li>"
        for k, line, _ in drawn
    ]
    if inside and marked:
        legend.append(f'<li><i class="mark"></i>{_markup(marked)} <b>{len(inside)}</b></li>')
    return (
        f'<figure class="chart"><figcaption>{_markup(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_markup(title)}">{"".join(parts)}</svg>'
        f"<ul>{''.join(legend)}</ul></figure>"
    )


def _points(line: Line, log_x: bool, log_y: bool) -> list[list[tuple[float, float]]]:
    """The points of a line, in stretches without a gap."""
    points = [
        (x, y) if math.isfinite(x) and math.isfinite(y) and not (log_x and x <= 0) and not (log_y and y <= 0) else None
        for x, y in zip(line.x, line.y, strict=True)
    ]
    every = math.ceil(len(points) / POINTS)
    stretches: list[list[tuple[float, float]]] = [[]]
    for first in range(0, len(points), max(every, 1)):
        some = [p for p in points[first : first + every] if p is not None]
        if not some:  # a gap of a whole stretch
            stretches.append([])
            continue
        stretches[-1].append((sum(x for x, _ in some) / len(some), sum(y for _, y in some) / len(some)))
    return [stretch for stretch in stretches if stretch]


@dataclass(frozen=True)
class _Axis:
    """Where a value lies: `low` and `high`, scaled, lie at `first` and `last` of the drawing."""

    low: float
    high: float
    log: bool
    first: float
    last: float

    @staticmethod
    def over(values: Sequence[float], log: bool, first: float, last: float, pad: bool = True) -> _Axis:
        scaled = [math.log10(v) if log else v for v in values]
        low, high = min(scaled), max(scaled)
        if high - low < 1e-12 * max(abs(high), 1e-9) or high == low:
            low, high = (low - 0.5, high + 0.5) if log else (low - max(abs(low), 1) / 2, high + max(abs(high), 1) / 2)
        room = (high - low) * 0.06 if pad else 0.0
        return _Axis(low - room, high + room, log, first, last)

    def scale(self, value: float) -> float:
        return value if not self.log else math.log10(value) if value > 0 else -math.inf

    def place(self, value: float) -> float:
        return self.first + (self.scale(value) - self.low) / (self.high - self.low) * (self.last - self.first)

    def ticks(self) -> list[float]:
        """Round values within it, two to eight of them."""
        if self.log:
            for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8)):
                decades = range(math.floor(self.low), math.ceil(self.high) + 1)
                found = [d * 10.0**e for e in decades for d in digits]
                found = [v for v in found if self.low <= math.log10(v) <= self.high]
                if len(found) >= 3:
                    return found[:: math.ceil(len(found) / 7)]
        low, high = (10**self.low, 10**self.high) if self.log else (self.low, self.high)
        rough = (high - low) / 4
        size = 10 ** math.floor(math.log10(rough))
        step = next(size * m for m in (1, 2, 2.5, 5, 10) if size * m >= rough)
        return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _last(values: Sequence[float]) -> float:
    """The last value that is finite."""
    return next(v for v in reversed(values) if math.isfinite(v))


def _number(value: float) -> str:
    """As short as it can be read: 0.25, 1,500, 1e-4."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _markup(text: str) -> str:
    return escape(printable(text))
