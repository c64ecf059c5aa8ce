"""The results of the transfer across width: the best rate stays under mup and moves without it."""

from __future__ import annotations

import pytest

from benchmarks import mup_transfer


@pytest.fixture(scope="module")
def best() -> dict[str, dict[int, float]]:
    return mup_transfer.best_rates(mup_transfer.read())


def test_every_model_was_trained() -> None:
    runs = {(r["recipe"], r["width"], r["rate"], r["seed"]) for r in mup_transfer.read()["runs"]}
    assert runs == {
        (name, width, rate, seed)
        for name in mup_transfer.RECIPES
        for width in mup_transfer.WIDTHS
        for rate in mup_transfer.rates(name, width)
        for seed in range(mup_transfer.SEEDS[width])
    }


def test_the_best_rate_stays_within_a_factor_of_two_under_mup(
    best: dict[str, dict[int, float]],
) -> None:
    rates = best["mup"].values()
    assert max(rates) / min(rates) <= 2


def test_the_best_rate_falls_with_the_width_under_gpt2(best: dict[str, dict[int, float]]) -> None:
    rates = [best["gpt2"][width] for width in mup_transfer.WIDTHS]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] / rates[-1] > 2


def test_no_best_rate_is_at_the_edge_of_those_that_were_tried(
    best: dict[str, dict[int, float]],
) -> None:
    for name, by_width in best.items():
        for width, rate in by_width.items():
            tried = mup_transfer.rates(name, width)
            assert min(tried) < rate < max(tried), (name, width)


def test_the_guide_has_the_table_of_these_results() -> None:
    found = mup_transfer.BLOCK.search(mup_transfer.PAGE.read_text())
    assert found is not None
    assert found[2] == mup_transfer.table(mup_transfer.read())


def test_the_guide_says_by_how_much_the_best_rates_fall(best: dict[str, dict[int, float]]) -> None:
    falls = {name: max(r.values()) / min(r.values()) for name, r in best.items()}
    words = f"falls by a factor {falls['gpt2']:.1f} under `gpt2`, and by {falls['mup']:.1f} under"
    assert words in mup_transfer.PAGE.read_text()


def test_a_parabola_finds_its_minimum() -> None:
    runs = [
        {"recipe": "r", "width": 64, "rate": 2.0**x, "seed": 0, "loss": (x + 0.25) ** 2}
        for x in range(-3, 3)
    ]
    runs.append({"recipe": "r", "width": 64, "rate": 2.0**3, "seed": 0, "loss": None})
    assert mup_transfer.best_rates({"runs": runs})["r"][64] == pytest.approx(2.0**-0.25)
