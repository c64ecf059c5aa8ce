"""Functions of uniforms, rows of one norm and formulas, against mpmath, scipy and NumPy."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch

from initstats.recipes import (
    Computed,
    Constant,
    Derived,
    Distribution,
    HalfBasis,
    Normal,
    NormalisedRows,
    Orthogonal,
    Slices,
    Transformed,
    TruncNormal,
    formula,
)
from initstats.recipes.distributions.computed import FORMULAS
from initstats.recipes.distributions.json import distribution_from_dict, distribution_to_dict

mp = pytest.importorskip("mpmath")
scipy_stats = pytest.importorskip("scipy.stats")

TIME_STEP = Transformed.time_step()
RADIUS = Transformed.decay_radius()
FLOORED = Transformed.time_step(0.001, 0.1, floor=0.004)
LOGS = Transformed.log_uniform(0.5, 20.0)


def exact(name: str, u: object) -> object:
    """The function in 40 digits."""
    if name == "floored":
        return mp.log(mp.expm1(max(mp.exp(u), mp.mpf("0.004"))))
    if name == "time step":
        return mp.log(mp.expm1(mp.exp(u)))
    if name == "radius":
        return mp.log(mp.expm1(-mp.log(u) / 2))
    return mp.exp(u)


CASES = {"time step": TIME_STEP, "radius": RADIUS, "floored": FLOORED, "logs": LOGS}


@pytest.mark.parametrize("name", CASES)
def test_moments_are_those_of_mpmath(name: str) -> None:
    ours = CASES[name]
    with mp.workdps(30):
        low, high = mp.mpf(ours.low), mp.mpf(ours.high)
        ends = [low, mp.log(mp.mpf("0.004")), high] if name == "floored" else [low, high]

        def moment(k: int, centre: object) -> object:
            f = lambda u: (exact(name, u) - centre) ** k  # noqa: E731
            return mp.quad(f, ends) / (high - low)

        mean = moment(1, mp.mpf(0))
        variance, fourth = moment(2, mean), moment(4, mean)
    assert ours.mean == pytest.approx(float(mean), rel=1e-10)
    assert ours.std == pytest.approx(math.sqrt(float(variance)), rel=1e-10)
    assert ours.kurtosis == pytest.approx(float(fourth / variance**2), rel=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_the_distribution_function_inverts_the_function(name: str) -> None:
    ours = CASES[name]
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        u = ours.low + share * (ours.high - ours.low)
        if name == "floored" and u < math.log(0.004):
            continue
        with mp.workdps(30):
            x = float(exact(name, mp.mpf(u)))
        want = 1 - share if name == "radius" else share
        assert ours.cdf(x) == pytest.approx(want, abs=1e-9)
    low, high = ours.bounds
    assert ours.cdf(low - 1e-6) == 0
    assert ours.cdf(high) == 1


def test_the_numbers_of_mamba_and_griffin_are_the_published_ones() -> None:
    assert TIME_STEP.bounds == pytest.approx((-6.907, -2.252), abs=5e-4)
    assert TIME_STEP.mean == pytest.approx(-4.594, abs=5e-4)
    assert TIME_STEP.std == pytest.approx(1.340, abs=5e-4)
    assert RADIUS.bounds == pytest.approx((-6.907, -2.197), abs=5e-4)


def test_a_floor_is_a_step_of_the_distribution_function() -> None:
    low, _ = FLOORED.bounds
    share = math.log(4) / math.log(100)
    assert FLOORED.cdf(low) == pytest.approx(share, rel=1e-9)
    assert FLOORED.cdf(low - 1e-9) == 0


def test_log_uniform_is_that_of_scipy() -> None:
    theirs = scipy_stats.loguniform(0.5, 20.0)
    for x in (0.4, 0.6, 3.0, 19.0, 25.0):
        assert LOGS.cdf(x) == pytest.approx(float(theirs.cdf(x)), abs=1e-12)
    assert LOGS.mean == pytest.approx(float(theirs.mean()), rel=1e-10)


@pytest.mark.parametrize("columns", [2, 3, 16, 4096])
def test_an_element_of_a_normalised_row_has_the_beta_distribution(columns: int) -> None:
    ours = NormalisedRows(columns, norm=2.0)
    theirs = scipy_stats.beta(0.5, (columns - 1) / 2)
    for x in (-2.0, -0.7, -1.0 / math.sqrt(columns), 0.0, 0.01, 1.3, 2.0):
        half = float(theirs.cdf((x / 2) ** 2)) / 2
        want = 0.5 + math.copysign(half, x) if x else 0.5
        assert ours.cdf(x) == pytest.approx(want, abs=1e-10)
    square = float(theirs.moment(2)) / float(theirs.moment(1)) ** 2
    assert ours.kurtosis == pytest.approx(square, rel=1e-9)
    assert ours.std == pytest.approx(2 * math.sqrt(float(theirs.mean())), rel=1e-9)


def test_ramps_and_logarithms_are_those_of_numpy() -> None:
    ramp = Computed("linspace", (3, 5), {"start": 3.0, "end": 6.0})
    np.testing.assert_allclose(ramp.values()[2], np.linspace(3, 6, 5), rtol=1e-15)
    column = Computed("linspace", (3, 5), {"start": 3.0, "end": 6.0, "dim": 0})
    np.testing.assert_allclose(column.values()[:, 1], np.linspace(3, 6, 3), rtol=1e-15)
    logs = Computed("log_arange", (4, 16))
    np.testing.assert_allclose(logs.values()[3], np.log(np.arange(1, 17)), rtol=1e-15)
    # S4D-real as mamba writes it: the same for every channel.
    assert logs.std == pytest.approx(float(np.log(np.arange(1, 17)).std()), rel=1e-12)
    assert logs.bounds == pytest.approx((0.0, math.log(16)))


def whisper(length: int, width: int) -> np.ndarray:
    """The sinusoids of openai/whisper model.py, in NumPy."""
    step = np.log(10000) / (width // 2 - 1)
    inverse = np.exp(-step * np.arange(width // 2))
    scaled = np.arange(length)[:, None] * inverse[None]
    return np.concatenate([np.sin(scaled), np.cos(scaled)], axis=1)


def test_sines_are_those_of_whisper_and_of_vaswani() -> None:
    ours = Computed("sincos", (50, 16), {"spacing": "closed"}).values()
    np.testing.assert_allclose(ours, whisper(50, 16), atol=1e-12)
    table = np.zeros((50, 16))  # the annotated transformer's
    position, scale = np.arange(50)[:, None], np.exp(np.arange(0, 16, 2) * -(np.log(1e4) / 16))
    table[:, 0::2], table[:, 1::2] = np.sin(position * scale), np.cos(position * scale)
    ours = Computed("sincos", (1, 50, 16), {"layout": "interleaved"}).values()
    np.testing.assert_allclose(ours[0], table, atol=1e-12)


def mae(width: int, side: int) -> np.ndarray:
    """The position embedding of MAE with its class token, in NumPy."""

    def one(half: int, at: np.ndarray) -> np.ndarray:
        omega = 1.0 / 10000 ** (np.arange(half // 2, dtype=float) / (half / 2.0))
        out = np.einsum("m,d->md", at.reshape(-1), omega)
        return np.concatenate([np.sin(out), np.cos(out)], axis=1)

    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=0)
    table = np.concatenate([one(width // 2, grid[0]), one(width // 2, grid[1])], axis=1)
    return np.concatenate([np.zeros([1, width]), table])


def test_the_table_of_a_grid_is_that_of_mae() -> None:
    ours = Computed("sincos_2d", (1, 17, 32), {"prefix": 1}).values()
    np.testing.assert_allclose(ours[0], mae(32, 4), atol=1e-12)


def test_the_three_truncations_have_names() -> None:
    assert TruncNormal.absolute(0.02) == TruncNormal(0.02, -2, 2)
    assert TruncNormal.corrected(0.02, 2) == TruncNormal.at(0.02, 2, corrected=True)
    assert TruncNormal.absolute(0.02).std == pytest.approx(0.02, rel=1e-12)
    assert TruncNormal.at(0.02, 2).std == pytest.approx(0.02 * 0.87962566, rel=1e-7)
    assert TruncNormal.corrected(0.02, 2).std == pytest.approx(0.02, rel=1e-12)


ALL: list[Distribution] = [
    *CASES.values(),
    NormalisedRows(8, 2.0),
    HalfBasis(4, "odd", "lora_A.weight"),
    Derived("sampled rows", "wte.weight"),
    Computed("linspace", (3, 5), {"start": 3.0, "end": 6.0}),
    Derived("transpose", "head.weight"),
    Slices(Orthogonal(4, 3), (2, 3)),
    Slices(Computed("log_arange", (3,)), (0,)),
]


@pytest.mark.parametrize("promised", ALL, ids=str)
def test_distributions_go_through_json_and_pickle(promised: Distribution) -> None:
    import json

    text = json.dumps(distribution_to_dict(promised), allow_nan=False)
    assert distribution_from_dict(json.loads(text)) == promised
    assert pickle.loads(pickle.dumps(promised)) == promised
    assert hash(promised) == hash(distribution_from_dict(json.loads(text)))


def test_time_constants_and_tables_are_not_scaled() -> None:
    for promised in (TIME_STEP, Computed("log_arange", (3,)), Derived("copy", "x")):
        assert promised.scaled(3.0) == promised
    assert NormalisedRows(8).scaled(-3.0) == NormalisedRows(8, 3.0)
    assert HalfBasis(4, "odd", "x").scaled(-2.0) == HalfBasis(4, "odd", "x", scale=0.2)
    assert Slices(Normal(1.0)).scaled(2.0) == Slices(Normal(2.0))


def test_a_formula_of_layer_and_channel_is_registered_by_name() -> None:
    @formula()
    def ramp_of_layer(shape: tuple[int, ...], *, layer: int, layers: int) -> torch.Tensor:
        return torch.arange(shape[-1]).double() / shape[-1] * (layer / (layers - 1))

    try:
        promised = Computed("ramp_of_layer", (2, 4), {"layers": 5, "layer": 4})
        assert promised.values().tolist() == [[0.0, 0.25, 0.5, 0.75]] * 2
        assert str(promised) == "ramp_of_layer(layer=4, layers=5)"
    finally:
        del FORMULAS["ramp_of_layer"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Transformed("sin", 0, 1), "expected function among exp"),
        (lambda: Transformed("exp", 1, 1), "expected low < high"),
        (lambda: Transformed.decay_radius(0.9, 1.0), "0 < low < high < 1"),
        (lambda: Transformed.time_step(0.0, 0.1), "time_step: expected 0 < low < high"),
        (lambda: Transformed.time_step(floor=-1.0), "floor >= 0"),
        (lambda: NormalisedRows(1), "expected columns >= 2"),
        (lambda: NormalisedRows(4, 0.0), "expected norm finite and > 0"),
        (lambda: Computed("linspaec", (3,)), "the nearest is 'linspace'"),
        (lambda: Computed("linspace", (3,), {"begin": 1}), "expected the arguments of formula"),
        (lambda: Derived("inverse", "x"), "expected how among copy"),
        (lambda: Slices(Constant(0.0), ()), "expected different dimensions"),
        (lambda: Slices(Constant(0.0), (1, 1)), "expected different dimensions"),
    ],
)
def test_numbers_out_of_range_are_refused(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]


def test_a_formula_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="to give values of shape"):
        Computed("sincos", (4, 7)).values()
