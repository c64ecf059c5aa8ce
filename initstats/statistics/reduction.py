"""Merge records over ranks in three all-reduces; neither order nor grouping changes a bit.

Note [All-merge]. The messages are
  1. float64 MIN: a header, and min, -max, min_abs and -count of every tensor;
  2. int64 SUM: counts, the fingerprint, sum and l1, and the histogram;
  3. int64 SUM: the second to fourth powers about the mean that message 2 gives.
Sums of integers and minima do not depend on the order, so all ranks get the same bits from a flat
and from a hierarchical reduction. A real sum S becomes the integer round(S / q). The quantum q is a
power of two that all ranks compute from what message 1 agreed on: N elements of size at most A sum
to at most N A <= 2**e, and q = 2**(e - 61), which leaves two bits for rounding. With W ranks the
error of a sum is at most W q / 2, that is W 2**-61 N A; powers use the largest distance from the
mean for A. As m2 >= A**2 there, std and kurtosis are off by at most W N 2**-61: 1e-6 for 2**32
elements on 512 ranks when one element makes up the whole of m2, and far less otherwise.

Ranks whose layouts differ would send messages of different lengths, which hangs. So message 1 has a
length that all ranks know beforehand: room for `capacity` tensors. Its header tells whether the
layouts agree; where they do not, two more messages name the ranks and tensors, on every rank. Where
there are more tensors than room, message 1 is sent again, and `capacity` grows for the next table.
Where some ranks may lack tensors, two messages tell all layouts, and message 1 is sent again, of
the tensors of all ranks in one order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from initstats.statistics.histogram import BIAS, PLACES
from initstats.statistics.record_array import (
    COUNT,
    L1,
    M2,
    M3,
    M4,
    MAX,
    MEAN,
    MIN,
    MIN_ABS,
    Floats,
    Integers,
    Records,
)

CAPACITY = 512  # tensors that message 1 has room for at first: 16 KB
_UNKNOWN = -1  # of `Contribution.numel`

_DIGEST_BYTES = 6  # 48 bits: an integer that float64 holds exactly
_RANK_BITS = 20  # of a float64 integer, below what is to be ordered
_MOST_MICROSECONDS = 1 << 32  # 71 minutes, so that both fit into 53 bits
_BITS = 61  # of a sum: 63 without sign, less two for rounding
# Sums that can leave the range of float64 get a quantum that puts 2**1024 at 2**40; infinity is
# 2**41, so that a sum of 2**21 of them still fits, and comes back as infinity.
_LARGEST_EXPONENT, _OVERFLOWING, _INFINITE = 1020, 1024 - 40, 2.0**41
_LONGEST_COUNT = 1 << 31  # histograms of fewer elements travel as pairs in an int64
_EXTREMA = 4  # columns of message 1

Array = npt.NDArray[Any]


class Message(NamedTuple):
    """An array that becomes the minimum or the sum over all ranks, element by element."""

    op: Literal["min", "sum"]
    data: Array  # float64 for "min", int64 for "sum", [length]


Messages = Generator[Message, Array, "Merged"]


@dataclass(frozen=True, eq=False)
class Contribution:
    """What one rank adds to the merged records of n tensors.

    Attributes:
        names: Names of the tensors, the same on all ranks.
        shapes: For each what else must agree, such as the shape of the whole tensor, as text.
        records: NumPy records `[n]`; `Records.empty` for a tensor that this rank does not count.
        places: Histograms, int64 `[n, 512 << scale]`, or None.
        scale: Scale of the histograms.
        numel: Elements of every tensor over all ranks, int64 `[n]`; -1 where no rank knows.
        fingerprint: Tells whether the records have one.
        rank: Number of this rank, to be named; at most 2**20 - 1.
        ranks: How many there are.
        seconds: What this rank took for something that all ranks do, to name the slowest; 0 where
            it has measured none.
        histogram_of: The row of `places` that each record belongs to, int64 `[n]`, where several
            records share one; None for one each.
        checks: More integers to be summed, int64 of a length that all ranks know.
        tag: What must agree where the layout is known to; None for names, shapes and groups.
        order: For each record its place among those that may be the first with NaN, int64 `[n]`,
            each once and the same on all ranks; None for the order of the table.
        not_finite: Which records are to be named so, bool `[n]`; None for all with NaN or infinity.
        groups: What the records hold, a sum of `Groups`, for ranks that have no tensors.
        lacking: Ranks that have none of a tensor, as text, for an error; by its number.
    """

    names: tuple[str, ...]
    shapes: tuple[str, ...]
    records: Records
    places: Integers | None
    scale: int
    numel: Integers
    fingerprint: bool
    rank: int
    ranks: int
    seconds: float = 0.0
    histogram_of: Integers | None = None
    checks: Integers | None = None
    tag: str | None = None
    order: Integers | None = None
    not_finite: Array | None = None
    groups: int = 0
    lacking: Mapping[int, str] | None = None

    def digest(self) -> float:
        """Return a number that differs, but for a chance of 2**-48, when the layout does."""
        if self.tag is not None:
            return float(_hash(self.tag))
        layout = "\0".join((*self.names, *self.shapes, self._kind))
        return float(_hash(layout))

    @property
    def _kind(self) -> str:
        groups = f"histogram={self.places is not None}, fingerprint={self.fingerprint}"
        return f"scale={self.scale}, {groups}"

    def lines(self) -> bytes:
        """Return the layout as text, one tensor per line, to be compared."""
        named = zip(self.names, self.shapes, strict=True)
        return "\n".join([self._kind, *(f"{name} {shape}" for name, shape in named)]).encode()


@dataclass(frozen=True, eq=False)
class Merged:
    """The records of the whole tensors, the same bits on every rank.

    Attributes:
        records: NumPy records `[n]`.
        places: Histograms `[n, 512 << scale]`, or None.
        first_not_finite: The first tensor with NaN or infinity, and the first rank that has some
            there; None without.
        slowest: The rank with the most seconds, and they, to the microsecond; None where no rank
            has measured any.
        fastest: The rank with the fewest.
        capacity: Room to begin with the next time, the same on all ranks.
        checks: Sums of `Contribution.checks`, empty without.
    """

    records: Records
    places: Integers | None
    first_not_finite: tuple[int, int] | None
    slowest: tuple[int, float] | None
    fastest: tuple[int, float] | None
    capacity: int
    checks: Integers


Join = Callable[[Contribution], Generator[Message, Array, Contribution]]


class LayoutsDifferError(ValueError):
    """Ranks have different tensors. Every rank gets the same message."""


class RefusalError(ValueError):
    """Another rank could not take part. Every rank but those gets the same message."""


def merge_over_ranks(
    function: str,
    own: Contribution | Exception,
    capacity: int = CAPACITY,
    rank: int = 0,
    join: Join | None = None,
) -> Messages:
    """Merge the records of all ranks: a generator that yields messages and is sent their results.

    Args:
        function: The name for messages of errors.
        own: What this rank adds, or why it cannot: the others are told before this is raised.
        capacity: Room in message 1, the same on all ranks: `CAPACITY`, then `Merged.capacity`.
        rank: Number of this rank if it cannot.
        join: Called on every rank where layouts differ, with messages of its own: returns what this
            rank adds to the tensors of all of them, or raises. None to raise.

    Yields:
        What is to be reduced over all ranks.

    Returns:
        The merged records.

    Raises:
        LayoutsDifferError: On every rank, if names, shapes or groups differ between ranks.
        RefusalError: If another rank cannot take part.
        ValueError: On every rank, if the elements that were counted are not those of a tensor.

    Determinism: bitwise, for any order and hierarchy of the reduction.
    """
    if join is None:
        agreed = yield from agree(function, own, capacity, rank)
    else:
        agreed = yield from first_round(function, own, capacity, rank)
    assert isinstance(own, Contribution)
    differ = Header.read(agreed).digests_differ
    if differ and join is not None:
        own = yield from join(own)
    if differ or len(own.names) > capacity:
        room = max(capacity, len(own.names))
        agreed = yield Message("min", first_message(own, room))
    return (yield from finish(function, own, agreed))


def finish(function: str, own: Contribution, agreed: Array) -> Messages:
    """Merge after the first message, whose layouts agree and which had room for all tensors.

    Args:
        function: The name for messages of errors.
        own: What this rank adds.
        agreed: The first message, reduced.

    Yields:
        The second and the third message.

    Returns:
        The merged records.

    Raises:
        ValueError: As `merge_over_ranks`.
    """
    n, header = len(own.names), Header.read(agreed)
    extrema = agreed[_HEADER_LENGTH:].reshape(-1, _EXTREMA)
    capacity, extrema = len(extrema), extrema[:n]
    most = -extrema[:, 3].astype(np.int64) * own.ranks
    sums = _Sums(own, extrema, np.where(own.numel == _UNKNOWN, most, own.numel))
    sums.take_sums((yield Message("sum", sums.message())))
    _check_counts(function, own, sums.counts[:, COUNT])
    sums.take_powers((yield Message("sum", sums.powers())))
    first = header.first_not_finite
    if first is not None and own.order is not None:
        first = int(np.flatnonzero(own.order == first[0])[0]), first[1]
    return Merged(
        sums.records(),
        sums.places,
        first,
        header.slowest,
        header.fastest,
        capacity,
        sums.checks,
    )


def agree(
    function: str, own: Contribution | Exception, capacity: int, rank: int
) -> Generator[Message, Array, Array]:
    """Agree on the layout by the first message.

    Args:
        function: The name for messages of errors.
        own: What this rank adds, or why it cannot.
        capacity: Room for extrema.
        rank: Number of this rank if it cannot.

    Yields:
        The first message, and two more where layouts differ.

    Returns:
        The first message, reduced.

    Raises:
        LayoutsDifferError: As `merge_over_ranks`.
        RefusalError: As `merge_over_ranks`.
    """
    agreed = yield from first_round(function, own, capacity, rank)
    assert isinstance(own, Contribution)
    header = Header.read(agreed)
    if header.digests_differ:
        yield from _name_difference(function, own, header)
    return agreed


def first_round(
    function: str, own: Contribution | Exception, capacity: int, rank: int
) -> Generator[Message, Array, Array]:
    """Send the first message, and raise where a rank cannot take part."""
    if isinstance(own, Exception):
        yield Message("min", _refusal(rank, capacity))
        raise own
    agreed = yield Message("min", first_message(own, capacity))
    header = Header.read(agreed)
    if not math.isinf(header.refuses):
        msg = (
            f"initstats.{function}: expected every rank of the group to take part, got none from"
            f" rank {int(header.refuses)}; its own error says why"
        )
        raise RefusalError(msg)
    return agreed


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest(), "big")


# ---- message 1: header and extrema


class Header(NamedTuple):
    """What rides in the first message beside the extrema, all of it a minimum."""

    digest: float
    minus_digest: float
    not_finite: float  # tensor and rank
    fast: float  # microseconds and rank, infinite where none were measured
    slow: float  # minus microseconds, and rank; the same
    refuses: float  # rank

    @classmethod
    def of(cls, own: Contribution) -> Header:
        """Return the header of one rank."""
        digest = own.digest()
        bad = np.flatnonzero(
            own.records.finite < own.records.counts[:, COUNT]
            if own.not_finite is None
            else own.not_finite
        )
        places = bad if own.order is None else own.order[bad]
        first = _ranked(int(places.min()), own.rank) if bad.size else math.inf
        microseconds = min(round(own.seconds * 1e6), _MOST_MICROSECONDS)
        fast = slow = math.inf
        if microseconds:
            fast, slow = _ranked(microseconds, own.rank), _ranked(-microseconds, own.rank)
        return cls(digest, -digest, first, fast, slow, math.inf)

    @classmethod
    def read(cls, message: Array) -> Header:
        """Return the header of a first message."""
        return cls(*message[:_HEADER_LENGTH].tolist())

    @property
    def digests_differ(self) -> bool:
        """Whether ranks have different layouts or tags."""
        return self.digest != -self.minus_digest

    @property
    def first_not_finite(self) -> tuple[int, int] | None:
        """Place of the first tensor with NaN or infinity, and the first rank with some there."""
        return None if math.isinf(self.not_finite) else _unranked(self.not_finite)

    @property
    def slowest(self) -> tuple[int, float] | None:
        """The rank with the most seconds, and they; None where no rank has measured any."""
        if math.isinf(self.slow):
            return None
        microseconds, rank = _unranked(self.slow)
        return rank, -microseconds / 1e6

    @property
    def fastest(self) -> tuple[int, float] | None:
        """The rank with the fewest seconds, and they; None where no rank has measured any."""
        if math.isinf(self.fast):
            return None
        microseconds, rank = _unranked(self.fast)
        return rank, microseconds / 1e6


_HEADER_LENGTH = len(Header._fields)


def _ranked(value: int, rank: int) -> float:
    """Return one exact number that orders by the value and names the rank."""
    return float((value << _RANK_BITS) + rank)


def _unranked(number: float) -> tuple[int, int]:
    return int(number) >> _RANK_BITS, int(number) & ((1 << _RANK_BITS) - 1)


def _own_extrema(own: Contribution) -> Floats:
    """Return min, -max, min_abs and -count, `[n, 4]`; +inf where there is nothing."""
    m = own.records.moments
    columns = (m[:, MIN], -m[:, MAX], m[:, MIN_ABS], -own.records.counts[:, COUNT])
    extrema: Floats = np.stack(columns, 1)
    extrema[np.isnan(extrema)] = math.inf
    return extrema + 0.0  # no -0, which a minimum may or may not prefer to +0


def first_message(own: Contribution, capacity: int) -> Floats:
    """Return the first message: a header, then extrema, all of them infinite without room."""
    extrema = _own_extrema(own)
    message = np.full(_HEADER_LENGTH + _EXTREMA * capacity, math.inf)
    message[:_HEADER_LENGTH] = Header.of(own)
    if len(extrema) <= capacity:
        message[_HEADER_LENGTH : _HEADER_LENGTH + extrema.size] = extrema.ravel()
    return message


def _refusal(rank: int, capacity: int) -> Floats:
    message = np.full(_HEADER_LENGTH + _EXTREMA * capacity, math.inf)
    message[_HEADER_LENGTH - 1] = rank
    return message


def _name_difference(
    function: str, own: Contribution, header: Header
) -> Generator[Message, Array, None]:
    """Raise the error that names two ranks and where their layouts differ, on every rank."""
    mine, text = own.digest(), own.lines()
    is_first, is_other = mine == header.digest, mine == -header.minus_digest
    who = (own.rank if is_first else math.inf, own.rank if is_other else math.inf, -len(text))
    first, other, minus_length = (yield Message("min", np.array(who))).tolist()
    both = np.zeros((2, -int(minus_length)), dtype=np.int64)
    for line, rank in enumerate((first, other)):
        if own.rank == rank:
            both[line, : len(text)] = np.frombuffer(text, dtype=np.uint8)
    both = (yield Message("sum", both.ravel())).reshape(2, -1)
    a, b = (bytes(row[row > 0].astype(np.uint8)).decode().split("\n") for row in both)
    only_a, only_b = [x for x in a if x not in set(b)], [x for x in b if x not in set(a)]
    what = "; ".join(
        f"only rank {int(rank)} has {', '.join(map(repr, only[:_NAMED]))}"
        + (f" and {len(only) - _NAMED} more" if len(only) > _NAMED else "")
        for rank, only in ((first, only_a), (other, only_b))
        if only
    )
    msg = (
        f"initstats.{function}: expected the same tensors on all ranks of the group, got"
        f" differences between rank {int(first)} and rank {int(other)}: {what or 'their order'}"
    )
    raise LayoutsDifferError(msg)


_NAMED = 3  # tensors per rank in that error


def _check_counts(function: str, own: Contribution, counted: Integers) -> None:
    """Raise where the ranks together do not hold every element once."""
    bad = np.flatnonzero((own.numel != _UNKNOWN) & (counted != own.numel))
    if bad.size:
        i = int(bad[0])
        lacking = (own.lacking or {}).get(i)
        msg = (
            f"initstats.{function}: expected the {own.numel[i]} elements of {own.names[i]!r} once"
            f" over the ranks of the group, got {counted[i]}; the group must hold every shard"
            + (f", and {lacking} have none of it in their tables" if lacking else "")
        )
        raise ValueError(msg)


# ---- messages 2 and 3: sums


class _Sums:
    """The sums of the second and third message: own ones first, then those of all ranks."""

    def __init__(self, own: Contribution, extrema: Floats, numel: Integers) -> None:
        self._own = own
        self._low, self._high = extrema[:, 0], -extrema[:, 1] + 0.0
        self._min_abs = extrema[:, 2]
        self._numel = np.frexp(numel.astype(np.float64))[1]  # N <= 2**this
        self._n = own.records.finite.astype(np.float64)
        self._there = np.isfinite(self._low)
        largest = np.maximum(abs(self._low), abs(self._high))
        self._sum_exponent = self._quantum(largest, 1)
        self._columns = 5 + own.fingerprint
        self._buckets: _Buckets | None = None
        if own.places is not None:
            rows = np.arange(len(numel)) if own.histogram_of is None else own.histogram_of
            self._buckets = _Buckets.agreed(
                own.scale, rows, len(own.places), (self._low, self._high, self._min_abs), numel
            )
        self.checks: Integers = np.empty(0, dtype=np.int64)
        self.counts = np.zeros((len(numel), own.records.counts.shape[-1]), dtype=np.int64)
        self.places: Integers | None = None

    def _quantum(self, largest: Floats, power: int) -> Integers:
        """Return the exponent of the quantum of a sum over N elements of at most largest**power."""
        size = np.frexp(np.where(self._there, largest, 0.0))[1]
        exponent = self._numel + power * size
        overflows = exponent > _LARGEST_EXPONENT
        return np.where(overflows, _OVERFLOWING, exponent - _BITS).astype(np.int64)

    def _moment(self, column: int) -> Floats:
        """Return a column of the own records, 0 where nothing is finite."""
        return np.where(self._n > 0, self._own.records.moments[:, column], 0.0)

    def message(self) -> Integers:
        own, e = self._own, self._sum_exponent
        with np.errstate(all="ignore"):
            # Scaled before the product: the sum itself may leave the range of float64.
            total = np.rint(np.ldexp(self._moment(MEAN), -e) * self._n).astype(np.int64)
            l1 = _to_integers(self._moment(L1), e)
        parts = [own.records.counts[:, : self._columns].T.ravel(), total, l1]
        if self._buckets is not None:
            assert own.places is not None
            parts.append(self._buckets.pack(own.places))
        if own.checks is not None:
            parts.insert(0, own.checks)
        return np.concatenate(parts)

    def take_sums(self, agreed: Integers) -> None:
        """Read the second message, and with it the mean."""
        n, columns = len(self._n), self._columns
        if self._own.checks is not None:
            self.checks, agreed = np.split(agreed, [len(self._own.checks)])
        self.counts[:, :columns] = agreed[: n * columns].reshape(columns, n).T
        total, l1 = agreed[n * columns : n * (columns + 2)].reshape(2, n)
        finite = Records(np.empty(0), self.counts).finite.astype(np.float64)
        with np.errstate(all="ignore"):
            mean = np.ldexp(total / np.where(finite > 0, finite, 1.0), self._sum_exponent)
            self._l1 = np.ldexp(l1.astype(np.float64), self._sum_exponent)
            self._mean = np.clip(mean, self._low, self._high)
        if self._buckets is not None:
            self.places = self._buckets.unpack(agreed[n * (columns + 2) :])

    def powers(self) -> Integers:
        """Return the third message: own second to fourth powers about the mean of all."""
        n = self._n
        with np.errstate(all="ignore"):
            m2, m3, m4 = self._moment(M2), self._moment(M3), self._moment(M4)
            d = np.where(n > 0, self._own.records.moments[:, MEAN] - self._mean, 0.0)
            d[self._low == self._high] = 0.0  # one value alone: its powers are 0 exactly
            sums = (
                m2 + n * d * d,
                m3 + 3 * d * m2 + n * d * d * d,
                m4 + 4 * d * m3 + 6 * d * d * m2 + n * d * d * d * d,
            )
            spread = np.maximum(self._high - self._mean, self._mean - self._low)
            self._exponents = [self._quantum(spread, power) for power in (2, 3, 4)]
            pairs = zip(sums, self._exponents, strict=True)
            return np.concatenate([_to_integers(x, e) for x, e in pairs])

    def take_powers(self, agreed: Integers) -> None:
        """Read the third message."""
        rows = agreed.reshape(3, -1).astype(np.float64)
        with np.errstate(all="ignore"):
            self._central = [np.ldexp(x, e) for x, e in zip(rows, self._exponents, strict=True)]

    def records(self) -> Records:
        """Return the merged records."""
        merged = Records.empty(len(self._n)).moments
        there = self._there
        columns = (self._mean, *self._central, self._l1, self._low, self._high)
        for column, values in zip((MEAN, M2, M3, M4, L1, MIN, MAX), columns, strict=True):
            merged[there, column] = values[there]
        has_size = np.isfinite(self._min_abs)
        merged[has_size, MIN_ABS] = self._min_abs[has_size]
        return Records(merged, self.counts)


def _to_integers(sums: Floats, exponents: Integers) -> Integers:
    """Return sums as multiples of 2**exponents; what is not finite as an infinity of its sign."""
    scaled = np.ldexp(sums, -exponents)
    outside = ~np.isfinite(sums)
    scaled[outside] = np.where(sums[outside] < 0, -_INFINITE, _INFINITE)
    return np.rint(scaled).astype(np.int64)


class _Buckets:
    """The buckets of histograms that extrema allow, and how they travel.

    Histograms of fewer than 2**31 elements travel as two counts in an int64: no sum of them can
    carry from the lower half into the upper one.
    """

    def __init__(self, where: Sequence[Array], shape: tuple[int, int]) -> None:
        self._where, self._shape = where, shape  # flat places: of short histograms, of long ones

    @classmethod
    def agreed(
        cls,
        scale: int,
        row_of: Integers,
        rows: int,
        extrema: tuple[Floats, Floats, Floats],
        numel: Integers,
    ) -> _Buckets:
        """Find the places that any element can be in.

        Args:
            scale: Of the histograms.
            row_of: For each record the histogram that counts its elements, `[n]`.
            rows: Number of histograms.
            extrema: Smallest, largest and smallest size of each record, `[n]`; infinite for none.
            numel: Elements of each record at most, `[n]`.
        """
        low, high = np.full(rows, math.inf), np.full(rows, -math.inf)
        min_abs, elements = np.full(rows, math.inf), np.zeros(rows, dtype=np.int64)
        np.minimum.at(low, row_of, extrema[0])
        np.maximum.at(high, row_of, extrema[1])
        np.minimum.at(min_abs, row_of, extrema[2])
        np.add.at(elements, row_of, numel)
        is_short = elements < _LONGEST_COUNT
        side = PLACES << scale
        first = _place(min_abs, scale, upper=False)
        last = (_place(high, scale, upper=True), _place(-low, scale, upper=True))
        is_there = (high > 0, low < 0)  # elements of either sign
        found = []
        for i in np.flatnonzero(np.isfinite(min_abs)).tolist():
            for sign in (0, 1):
                if is_there[sign][i]:
                    at = (2 * i + sign) * side
                    found.append((i, np.arange(at + first[i], at + last[sign][i] + 1)))
        nothing = np.empty(0, dtype=np.int64)
        where = [
            np.concatenate([nothing, *(r for i, r in found if is_short[i] == short)])
            for short in (True, False)
        ]
        return cls(where, (rows, 2 * side))

    def pack(self, places: Integers) -> Integers:
        flat = places.ravel()
        short = flat[self._where[0]].astype(np.uint32)
        pairs = np.concatenate((short, np.zeros(len(short) % 2, dtype=np.uint32)))
        return np.concatenate((pairs.view(np.int64), flat[self._where[1]]))

    def unpack(self, message: Integers) -> Integers:
        length = len(self._where[0])
        pairs = -(-length // 2)
        places = np.zeros(self._shape[0] * self._shape[1], dtype=np.int64)
        places[self._where[0]] = message[:pairs].copy().view(np.uint32)[:length]
        places[self._where[1]] = message[pairs:]
        return places.reshape(self._shape)


def _place(sizes: Floats, scale: int, *, upper: bool) -> Integers:
    """Return a place at or beyond that of sizes > 0, by at most one power of two.

    What csrc/math/stats/buckets.h counts as too small or too large has the first or last of them.
    """
    power = np.frexp(np.where(np.isfinite(sizes), sizes, 1.0))[1] + (0 if upper else -2)
    place = ((power + BIAS) << scale) - (1 if upper else 0)
    clipped: Integers = np.clip(place, (1 << scale) - 1, (PLACES - 1) << scale)
    return clipped
