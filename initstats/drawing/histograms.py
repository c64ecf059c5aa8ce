"""Small histograms of the audit's page: what each layer's values look like, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from initstats.auditing.report.schema import as_number
from initstats.drawing.charts import short

_WIDTH, _HEIGHT, _BASE = 150, 62, 48
_TAIL = 0.002  # Share of the values outside the picture, so that one outlier does not flatten it.
_SHOWN_ZEROS = 0.001
_STEEP = 0.02  # An end this near to zero is one of half a distribution: its edge is upright.
_ALL_OPEN = 24
OUTSIDE = ""


def histogram_groups(values: Mapping[str, Any], marked: set[str]) -> str:
    """Draw the histograms of all layers, folded by block where there are many.

    Args:
        values: A report, as in audit.json.
        marked: Layers that a finding names; their blocks are open.

    Returns:
        One `<details>` per block, and one for the layers between.
    """
    layers = values["layers"]
    parameters = {parameter["name"]: parameter for parameter in values["parameters"]}
    parts = []
    groups = grouped(layers)
    for i, (block, members) in enumerate(groups):
        is_open = len(layers) <= _ALL_OPEN or i == 0 or any(m["name"] in marked for m in members)
        name = escape(block) if block else "outside of blocks"
        cells = "".join(_layer(member, parameters) for member in members)
        parts.append(
            f'<details class="group"{" open" if is_open else ""}><summary><code>{name}</code> '
            f'<span class="muted">{_counted(len(members))}</span></summary>'
            f'<div class="multiples">{cells}</div></details>'
        )
    return f'<div class="groups">{"".join(parts)}</div>'


def grouped(layers: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Put layers together by block, in the order of the layers.

    Args:
        layers: The layers, as in audit.json.

    Returns:
        Pairs of the name of a block, or "", and its layers; the block itself comes first.
    """
    groups: list[tuple[str, list[Mapping[str, Any]]]] = []
    owners = block_of(layers)
    for layer in layers:
        owner = owners[layer["name"]]
        if not groups or groups[-1][0] != owner:
            groups.append((owner, []))
        place = 0 if layer["name"] == owner else len(groups[-1][1])
        groups[-1][1].insert(place, layer)
    return groups


def block_of(layers: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the outermost block that each layer belongs to, "" for none, by name."""
    blocks = {layer["name"] for layer in layers if layer["is_block"]}
    owners = {}
    for layer in layers:
        parts = layer["name"].split(".")
        paths = (".".join(parts[: i + 1]) for i in range(len(parts)))
        owners[layer["name"]] = next((path for path in paths if path in blocks), OUTSIDE)
    return owners


def _counted(number: int) -> str:
    """Return a number of layers in words."""
    return f"{number} layer" if number == 1 else f"{number} layers"


def _layer(layer: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """Draw what is known of one layer."""
    weight = None
    if not layer["is_block"]:
        own = [parameters[name] for name in layer["parameters"] if name in parameters]
        weight = next((p for p in own if p["is_matrix"]), own[0] if own else None)
    records = [("output", layer["activation"], 1), ("its gradient", layer["output_gradient"], 2)]
    if weight is not None:
        records += [("weight", weight["weight"], 3), ("weight gradient", weight["gradient"], 4)]
    drawn = "".join(
        _small(what, record, colour, layer["name"]) for what, record, colour in records if record
    )
    return (
        f'<section class="multiple"><h4><code>{escape(layer["name"])}</code> '
        f'<span class="muted">{escape(layer["kind"])}</span></h4><div class="row">{drawn}</div>'
        "</section>"
    )


def _small(what: str, record: Mapping[str, Any], colour: int, where: str) -> str:
    """Draw one histogram, as density over a linear axis."""
    bars = record["histogram"]
    title = f"{what} of {where}"
    std, mean = short(as_number(record["std"])), short(as_number(record["mean"]))
    broken = record["nan"] + record["pos_inf"] + record["neg_inf"]
    note = f"{broken} not finite" if broken else f"std {std}"
    tip = escape(f"{title}: {record['count']} values, mean {mean}, std {std}")
    drawn = _area(bars, record["count"], colour) if bars else ""
    if not drawn:
        words = "no histogram" if bars is None else "no finite value"
        drawn = f'<text class="tick" x="{_WIDTH / 2}" y="30" text-anchor="middle">{words}</text>'
    return (
        f'<figure class="small"><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{tip}" data-tip="{tip}"><desc>{tip}</desc>{drawn}</svg>'
        f"<figcaption>{escape(what)}<br>{'<b>' if broken else ''}{note}"
        f"{'</b>' if broken else ''}</figcaption></figure>"
    )


def _area(bars: Sequence[Sequence[float]], count: int, colour: int) -> str:
    """Draw what lies between the two tails, zeros as a bar of their own, and the axis."""
    zeros = sum(n for low, high, n in bars if low == high)
    others = [(low, high, n) for low, high, n in bars if low < high]
    parts = [f'<line class="axis" x1="2" x2="{_WIDTH - 2}" y1="{_BASE}" y2="{_BASE}"/>']
    low, high = _range(others)
    span = high - low or 1.0

    def x(value: float) -> float:
        return 4 + (_WIDTH - 8) * (value - low) / span

    inside = [bar for bar in others if bar[0] < high and bar[1] > low]
    if inside:
        densities = [n / (b - a) for a, b, n in inside]
        # Buckets next to zero are so narrow that a few values make a needle: those of two pixels
        # or less share one density.
        least = 2 * span / _WIDTH
        wide = [d for d, (a, b, _) in zip(densities, inside, strict=True) if b - a >= least]
        tallest = max(wide or densities)
        outline = "L".join(_outline(_joined(inside, least), x, tallest, low, high))
        parts.append(f'<path class="area c{colour}" d="M{outline}Z"/>')
    if zeros > _SHOWN_ZEROS * count:
        height = (_BASE - 4) * zeros / count
        at = x(0.0) if low <= 0 <= high else 4.0
        parts.append(
            f'<rect class="zeros" x="{at - 1.5:.1f}" width="3" y="{_BASE - height:.1f}" '
            f'height="{height:.1f}"/>'
        )
    ends = [(2.0, "start", low), (_WIDTH - 2.0, "end", high)]
    for place, anchor, value in ends if low < high else [(4.0, "middle", 0.0)]:
        parts.append(
            f'<text class="tick" x="{place}" y="{_HEIGHT - 2}" text-anchor="{anchor}">'
            f"{short(value)}</text>"
        )
    return "".join(parts)


def _range(bars: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Return ends of the axis that leave out thin tails, and take in zero."""
    total = sum(n for _, _, n in bars)
    low = high = 0.0
    seen = 0.0
    for a, b, n in bars:
        if seen <= _TAIL * total < seen + n:
            low = a
        if seen < (1 - _TAIL) * total <= seen + n:
            high = b
        seen += n
    return min(low, 0.0), max(high, 0.0)


def _joined(
    bars: Sequence[tuple[float, float, float]], least: float
) -> list[tuple[float, float, float]]:
    """Join neighbours until each is at least as wide as asked for."""
    joined: list[tuple[float, float, float]] = []
    for a, b, n in bars:
        if joined and joined[-1][1] - joined[-1][0] < least:
            start, _, before = joined[-1]
            joined[-1] = (start, b, before + n)
        else:
            joined.append((a, b, n))
    return joined


def _outline(
    bars: Sequence[tuple[float, float, float]], x: Any, tallest: float, low: float, high: float
) -> Iterator[str]:
    """Yield the corners of the frequency polygon: density at the middle of each bar."""
    edges = max(bars[0][0], low), min(bars[-1][1], high)
    heights = [_BASE - (_BASE - 4) * min(1.0, n / (b - a) / tallest) for a, b, n in bars]
    yield f"{x(edges[0]):.1f} {_BASE}"
    if abs(edges[0]) < abs(edges[1]) * _STEEP:
        yield f"{x(edges[0]):.1f} {heights[0]:.1f}"
    for (a, b, _), y in zip(bars, heights, strict=True):
        yield f"{x((max(a, low) + min(b, high)) / 2):.1f} {y:.1f}"
    if abs(edges[1]) < abs(edges[0]) * _STEEP:
        yield f"{x(edges[1]):.1f} {heights[-1]:.1f}"
    yield f"{x(edges[1]):.1f} {_BASE}"
