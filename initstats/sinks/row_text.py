"""Convert a row to lines of JSON and back."""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from initstats.diagnostics.checked_values import (
    boolean,
    counts,
    fields,
    floats,
    integer,
    listed,
    mapping,
    maybe,
    number,
    one_of,
    sequence,
    text,
)
from initstats.diagnostics.findings import Finding, finding_of
from initstats.monitoring.row import WINDOWED, Part, Places, RankInfo, Row, Shard, Table, Taken
from initstats.statistics.histogram import MAX_SCALE, PLACES
from initstats.statistics.record_array import COUNT_NAMES, MOMENT_NAMES, Floats, Integers, Records

SCHEMA = "initstats.monitor/1"
# Tensors of a row: far above any model, and at 16 KB of histogram each a bound on memory.
_MOST_NAMES = 100_000
# What reading a line that is no row raises: no JSON, no such field, another kind or number.
_NO_ROW = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


def layout_key(names: tuple[str, ...]) -> str:
    """Return a short name for a list of names: the CRC-32 of its text."""
    return f"{zlib.crc32(json.dumps(names).encode()):08x}"


def to_lines(row: Row, written: set[str]) -> Iterator[str]:
    """Write a row as lines without line ends: names that are new, then the row.

    Args:
        row: The row.
        written: Keys of the names that the file holds; new ones are added.

    Yields:
        Lines of JSON. NaN becomes null; infinities the strings "inf" and "-inf".
    """
    tables = {}
    for kind, table in row.tables.items():
        key = layout_key(table.names)
        if key not in written:
            written.add(key)
            yield json.dumps({"schema": SCHEMA, "names": table.names, "layout": key})
        tables[kind] = {"layout": key, **_columns(table)}
    before = row.gradient_norm_before_clipping
    # All of them, in the order of the model, where one is not called once per step.
    calls = row.calls if any(n != 1 for n in row.calls.values()) else {}
    rates = {name: _jsonable(rate) for name, rate in row.learning_rates.items()}
    yield json.dumps(
        {
            "schema": SCHEMA,
            "step": row.step,
            "first_step": row.first_step,
            "steps": row.steps,
            "time": row.time,
            "gradient_norm": _numbers(row.gradient_norm),
            **({"gradient_norm_before_clipping": _numbers(before)} if before.size else {}),
            **({"ranks": dataclasses.asdict(row.ranks)} if row.ranks is not None else {}),
            **({"shards": row.shards} if row.shards else {}),
            **({"part": _part(row.part)} if row.part is not None else {}),
            **({"loss": _numbers(row.loss)} if row.loss.size else {}),
            **({"learning_rates": rates} if rates else {}),
            **({"calls": calls} if row.calls else {}),
            **({"smooth": row.smooth} if row.smooth else {}),
            "missing": row.missing,
            "alerts": [_finding(finding) for finding in row.alerts],
            "tables": tables,
        },
        allow_nan=False,
    )


def from_lines(lines: Iterable[str]) -> Iterator[Row]:
    """Read the lines of `to_lines`.

    Args:
        lines: Lines of JSON, with or without line ends.

    Yields:
        The rows; a line that is no row is passed over.
    """
    layouts: dict[str, tuple[str, ...]] = {}
    for line in lines:
        try:
            value = json.loads(line)
            if not isinstance(value, dict) or value.get("schema") != SCHEMA:
                continue
            if "names" in value:
                layouts[text(value["layout"])] = sequence(value["names"][:_MOST_NAMES], text)
                continue
            row = _row(value, layouts)
        except _NO_ROW:
            continue
        yield row


def step_of_line(line: bytes) -> int | None:
    """Return the step of a row from its line; None for other lines."""
    if b'"step"' not in line:
        return None
    try:
        value = json.loads(line)
        is_row = isinstance(value, dict) and value.get("schema") == SCHEMA and "step" in value
        return integer(value["step"]) if is_row else None
    except (TypeError, ValueError, OverflowError):
        return None


def _columns(table: Table) -> dict[str, Any]:
    records = table.records
    moments = zip(MOMENT_NAMES, records.moments.T, strict=True)
    out: dict[str, Any] = {name: _numbers(column) for name, column in moments}
    out |= {name: records.counts[:, i].tolist() for i, name in enumerate(COUNT_NAMES)}
    if any(table.low[name] is not table.high[name] for name in table.low):
        for label, columns in (("low", table.low), ("high", table.high), ("avg", table.average)):
            out[label] = {name: _numbers(column) for name, column in columns.items()}
    if table.places is not None:
        out["histogram"] = _sparse(table.places)
    return out


def _sparse(places: Places) -> dict[str, Any]:
    """Write each side of each histogram as the place of its first bucket, then counts."""
    used = places.counts.astype(bool)
    width = used.shape[2]
    if width == 0:  # nothing but NaN, zeros and infinities
        empty: list[list[int]] = [[] for _ in used]
        return {"scale": places.scale, "positive": empty, "negative": empty}
    first = np.where(used.any(axis=2), used.argmax(axis=2), 0)
    end = np.where(used.any(axis=2), width - used[:, :, ::-1].argmax(axis=2), 0)
    sides: dict[str, list[list[int]]] = {"positive": [], "negative": []}
    for s, side in enumerate(sides.values()):
        starts, ends = first[:, s].tolist(), end[:, s].tolist()
        rows = places.counts[:, s].tolist()
        side.extend(
            [places.first + a, *row[a:b]] if b else []
            for a, b, row in zip(starts, ends, rows, strict=True)
        )
    return {"scale": places.scale, **sides}


def _part(part: Part) -> dict[str, Any]:
    norm = part.local_norm
    return {
        "peers": part.peers,
        "seconds": part.seconds,
        "steps": part.steps,
        "squares": [_numbers(row) for row in part.squares],
        **({"unclipped": [_numbers(row) for row in part.unclipped]} if any(part.clipped) else {}),
        "clipped": part.clipped,
        **({} if norm is None else {"local_norm": _jsonable(norm)}),
        "products": {name: [_numbers(r) for r in rows] for name, rows in part.products.items()},
        "product_steps": part.product_steps,
        "prints": part.prints,
        **({} if part.taken is None else {"taken": part.taken}),
        **({"without_loss": part.without_loss} if part.without_loss else {}),
        **(
            {"by_step": {k: _by_step(*each) for k, each in part.by_step.items()}}
            if part.by_step
            else {}
        ),
    }


def _by_step(steps: tuple[int, ...], records: Records) -> dict[str, Any]:
    out: dict[str, Any] = {"steps": steps}
    for i, name in enumerate(MOMENT_NAMES):
        out[name] = [_numbers(row) for row in records.moments[..., i]]
    return out | {name: records.counts[..., i].tolist() for i, name in enumerate(COUNT_NAMES)}


def _numbers(column: Floats) -> list[float | str | None]:
    values: list[Any] = column.tolist()
    return values if np.isfinite(column).all() else [_jsonable(value) for value in values]


def _jsonable(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else str(float(value))


def _finding(finding: Finding) -> dict[str, Any]:
    values = finding.to_dict()
    for name in ("value", "threshold"):
        values[name] = _jsonable(values[name])
    return values


def _row(value: dict[str, Any], layouts: dict[str, tuple[str, ...]]) -> Row:
    steps = sequence(value["steps"], integer)
    return Row(
        step=integer(value["step"]),
        first_step=integer(value["first_step"]),
        measured=len(steps),
        time=number(value["time"]),
        tables={k: _table(t, layouts[t["layout"]]) for k, t in value["tables"].items()},
        gradient_norm=floats(value["gradient_norm"]),
        gradient_norm_before_clipping=floats(value.get("gradient_norm_before_clipping", [])),
        loss=floats(value.get("loss", [])),
        learning_rates=mapping(value.get("learning_rates", {}), number),
        calls=_calls(value, layouts),
        smooth=sequence(value.get("smooth", []), text),
        steps=steps,
        missing=mapping(value["missing"], lambda reasons: mapping(reasons, text)),
        alerts=sequence(value["alerts"], finding_of),
        ranks=_ranks(value["ranks"]) if "ranks" in value else None,
        shards=mapping(value.get("shards", {}), lambda shard: Shard(*sequence(shard, integer))),
        part=_part_of(value["part"], value["tables"], layouts) if "part" in value else None,
    )


def _calls(value: dict[str, Any], layouts: dict[str, tuple[str, ...]]) -> dict[str, float]:
    """Return the calls of all modules: those that are not written are called once per step."""
    if "calls" not in value:
        return {}
    tables = value["tables"]
    table = tables.get("activations", tables.get("inputs"))
    once = {} if table is None else dict.fromkeys(layouts[table["layout"]], 1.0)
    calls = mapping(value["calls"], number)
    return calls | {name: 1.0 for name in once if name not in calls}


def _part_of(value: Any, tables: Mapping[str, Any], layouts: Mapping[str, tuple[str, ...]]) -> Part:
    n = {kind: len(layouts[table["layout"]]) for kind, table in tables.items()}
    part = Part(**fields(value, _PART, optional=_NOT_IN_EVERY_PART))
    shape = len(part.steps), n.get("gradients", 0)
    if part.squares.shape != shape and part.squares.size:
        raise ValueError(f"expected squares of shape {shape}, got {part.squares.shape}")
    if part.unclipped.size and part.unclipped.shape != shape:
        raise ValueError(f"expected unclipped squares of {shape}, got {part.unclipped.shape}")
    if len(part.clipped) != len(part.steps):
        raise ValueError(f"expected {len(part.steps)} marks, got {len(part.clipped)}")
    each = len(part.product_steps), 3
    if wrong := [name for name, of in part.products.items() if of.shape != each]:
        raise ValueError(f"expected products of shape {each}, got others of {wrong[0]}")
    if wrong := [k for k, (_, of) in part.by_step.items() if of.moments.shape[1] != n.get(k)]:
        raise ValueError(f"expected records of every tensor, got others of {wrong[0]}")
    if wrong := [kind for kind, prints in part.prints.items() if len(prints) != n.get(kind)]:
        raise ValueError(f"expected fingerprints of every tensor, got others of {wrong[0]}")
    return part


def _taken(taken: Taken) -> Taken:
    if taken.usual < 1:
        raise ValueError(f"expected at least one step of an optimizer, got {taken.usual}")
    return taken


def _records_by_step(value: Any) -> tuple[tuple[int, ...], Records]:
    steps = sequence(value["steps"], integer)
    moments = np.stack([_rows(value[name]) for name in MOMENT_NAMES], -1)
    numbers = np.zeros(moments.shape, dtype=np.int64)
    for i, name in enumerate(COUNT_NAMES):
        rows = sequence(value[name], counts)
        numbers[..., i] = np.stack(rows) if rows else 0
    if len(moments) != len(steps) or len(set(steps)) < len(steps):
        raise ValueError(f"expected {len(steps)} different steps, got {len(moments)} records")
    return steps, Records(moments, numbers)


def _rows(value: Any) -> Floats:
    rows = sequence(value, floats)
    return np.stack(rows) if rows else np.empty((0, 0))


_PART: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("peers", "steps", "product_steps", "without_loss"), listed(integer)),
    "products": lambda products: mapping(products, _rows),
    "seconds": number,
    **dict.fromkeys(("squares", "unclipped"), _rows),
    "clipped": listed(boolean),
    "local_norm": number,
    "prints": lambda kinds: mapping(kinds, listed(maybe(integer))),
    "taken": lambda taken: _taken(Taken(*sequence(taken, integer))),
    "by_step": lambda kinds: mapping(kinds, _records_by_step),
}
_NOT_IN_EVERY_PART = (
    "unclipped",
    "local_norm",
    "products",
    "product_steps",
    "taken",
    "by_step",
    "without_loss",
)


def _ranks(value: dict[str, Any]) -> RankInfo:
    return RankInfo(**fields(value, _RANK_INFO, optional=_RANK_INFO))


def _pair(value: list[Any] | None) -> tuple[int, float] | None:
    if value is None:
        return None
    rank, seconds = value
    return integer(rank), number(seconds)


_RANK_INFO: dict[str, Callable[[Any], Any]] = {
    "rank": integer,
    "scope": lambda scope: one_of(scope, ("merged", "rank")),
    "world": integer,
    "run": text,
    "restarts": integer,
    "slowest": _pair,
    "fastest": _pair,
    "learning_rates": lambda ranks: mapping(ranks, lambda rates: mapping(rates, number)),
}


def _table(value: dict[str, Any], names: tuple[str, ...]) -> Table:
    n = len(names)
    moments = np.column_stack([floats(value[name], n) for name in MOMENT_NAMES])
    numbers = np.zeros((n, 8), dtype=np.int64)
    for i, name in enumerate(COUNT_NAMES):
        numbers[:, i] = counts(value[name], n)
    records = Records(moments.reshape(n, 8), numbers)
    if "low" in value:
        low, high, average = (
            {name: floats(value[label][name], n) for name in WINDOWED}
            for label in ("low", "high", "avg")
        )
    else:
        low = high = average = {name: records.column(name) for name in WINDOWED}
    places = None
    if "histogram" in value:
        places = _dense(value["histogram"], n)
    return Table(names, records, places, low, high, average)


def _dense(value: dict[str, Any], n: int) -> Places:
    scale = integer(value["scale"])
    sides = (value["positive"], value["negative"])
    if not 0 <= scale <= MAX_SCALE or any(len(side) != n for side in sides):
        raise ValueError(f"expected histograms of {n} tensors, got other lengths or scale={scale}")
    full: Integers = np.zeros((n, 2, PLACES << scale), dtype=np.int64)
    for s, side in enumerate(sides):
        for i, row in enumerate(side):
            if row:
                first, buckets = integer(row[0]), counts(row[1:])
                if not 0 <= first <= full.shape[2] - len(buckets):
                    raise ValueError(f"expected places below {full.shape[2]}, got {first}")
                full[i, s, first : first + len(buckets)] = buckets
    return Places.cut(full.reshape(n, -1), scale)
