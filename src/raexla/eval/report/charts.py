"""Charts as SVG text: lines over steps, and bars with intervals. Colours come from the page's style sheet."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

_WIDTH, _HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 30


@dataclass(frozen=True)
class Line:
    """A series; `style` is a class of the style sheet: a, b, c, d; `dots` marks every point."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    style: str = "a"
    dots: bool = False


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers in [low, high]."""
    span = max(high - low, 1e-12)
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999), default=power * 10)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A short number for an axis."""
    if value != 0 and (abs(value) >= 10000 or abs(value) < 0.001):
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-") if abs(value) < 1 else f"{value / 1000:g}k"
    return f"{value:g}"


def smooth(values: Sequence[float], share: float = 0.04) -> list[float]:
    """Centred running mean over a share of the series."""
    half = max(0, round(len(values) * share / 2))
    return [
        sum(values[max(0, i - half) : i + half + 1]) / len(values[max(0, i - half) : i + half + 1])
        for i in range(len(values))
    ]


def line_chart(lines: Sequence[Line], title: str) -> Markup:
    """Lines over steps. The largest values of a steep start are cut off: the axis ends at the 98th percentile."""
    steps = [s for line in lines for s in line.steps if math.isfinite(s)]
    values = sorted(v for line in lines for v in line.values if math.isfinite(v))
    if not values:
        return Markup("")
    low, high = values[0], values[min(len(values) - 1, int(0.98 * len(values)))]
    pad = 0.06 * (high - low) or max(abs(high) * 0.1, 1e-6)
    low, high = (0.0 if low >= 0 and low < 0.35 * high else low - pad), high + pad
    right = max(steps) or 1.0

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / right

    def y(value: float) -> float:
        clipped = min(max(value, low), high)
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - (clipped - low) / (high - low))

    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in ticks(low, high):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        at = f'x="{_LEFT - 6}" y="{y(tick) + 3.5:.1f}"'
        parts.append(f'<text class="tick" {at} text-anchor="end">{number(tick)}</text>')
    for tick in ticks(0, right):
        at = f'x="{x(tick):.1f}" y="{_HEIGHT - 12}"'
        parts.append(f'<text class="tick" {at} text-anchor="middle">{number(tick)}</text>')
    for line in lines:
        raw = [(s, v) for s, v in zip(line.steps, line.values, strict=True) if math.isfinite(v)]
        if not line.dots and len(raw) > 40:
            parts.append(f'<polyline class="raw {line.style}" points="{_points(raw, x, y)}"/>')
            raw = list(zip([s for s, _ in raw], smooth([v for _, v in raw]), strict=True))
        parts.append(f'<polyline class="line {line.style}" points="{_points(raw, x, y)}"/>')
        if line.dots:
            parts += [f'<circle class="dot {line.style}" cx="{x(s):.1f}" cy="{y(v):.1f}" r="2.6"/>' for s, v in raw]
    parts.append("</svg>")
    return Markup("".join(parts))


def _points(pairs: Sequence[tuple[float, float]], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    return " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in pairs)


def bar_chart(
    tasks: Sequence[str],
    bars: Sequence[tuple[str, str, Mapping[str, Mapping[str, float]]]],
    ceiling: Mapping[str, Mapping[str, float]] | None = None,
) -> Markup:
    """Bars by task with 95% intervals; a dotted mark at chance, a line at the ceiling. Values are shares of 1.

    Args:
        bars: (label, style class, task -> {score, low, high, chance}), drawn side by side.
        ceiling: task -> {score}.
    """
    group = 118.0
    width, height, base, top = 44 + group * len(tasks), 260.0, 222.0, 14.0

    def y(value: float) -> float:
        return base - (base - top) * value

    parts = [f'<svg class="chart wide" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="scores by task">']
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line class="grid" x1="40" x2="{width:.0f}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="tick" x="34" y="{y(tick) + 3.5:.1f}" text-anchor="end">{100 * tick:.0f}%</text>')
    size = min(34.0, (group - 26) / max(1, len(bars)))
    for place, task in enumerate(tasks):
        middle = 44 + group * (place + 0.5)
        left = middle - size * len(bars) / 2
        for index, (label, style, values) in enumerate(bars):
            value = values.get(task)
            if value is None:
                continue
            x = left + index * size
            score, low, high = value["score"], value["low"], value["high"]
            tip = f"{label}, {task.replace('_', ' ')}: {100 * score:.1f}% ({100 * low:.0f}-{100 * high:.0f})"
            parts.append(
                f'<rect class="bar {style}" x="{x + 1:.1f}" y="{y(score):.1f}" width="{size - 2:.1f}" '
                f'height="{max(base - y(score), 0.8):.1f}" rx="2"><title>{escape(tip)}</title></rect>'
            )
            centre = x + size / 2
            parts.append(f'<line class="whisker" x1="{centre}" x2="{centre}" y1="{y(low):.1f}" y2="{y(high):.1f}"/>')
            chance = y(value["chance"])
            parts.append(f'<line class="chance" x1="{x:.1f}" x2="{x + size:.1f}" y1="{chance:.1f}" y2="{chance:.1f}"/>')
            parts.append(
                f'<text class="value" x="{centre}" y="{max(y(high) - 4, 10):.1f}" text-anchor="middle">'
                f"{100 * score:.0f}</text>"
            )
        if ceiling and task in ceiling:
            at = y(ceiling[task]["score"])
            parts.append(f'<line class="ceiling" x1="{middle - 46}" x2="{middle + 46}" y1="{at:.1f}" y2="{at:.1f}"/>')
        weight = " strong" if task == "overall" else ""
        name, place_of = escape(task.replace("_", " ")), f'x="{middle}" y="{base + 20}"'
        parts.append(f'<text class="task{weight}" {place_of} text-anchor="middle">{name}</text>')
    parts.append("</svg>")
    return Markup("".join(parts))
