"""What the audit records is what a direct computation gives: units, rows and inputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from initstats.diagnostics.unit_records import unit_records
from initstats.diagnostics.weight_rows import row_report
from recorded_models import Calls, evidence, flows, normal, same

# --- units


@pytest.mark.parametrize(
    ("shape", "axis"), [((6, 5), 1), ((3, 4, 5), -1), ((3, 4, 5, 2), 1), ((7, 1), 1)]
)
def test_records_of_units_and_their_merge_are_those_of_torch(
    shape: tuple[int, ...], axis: int
) -> None:
    first, second = normal(*shape).relu(), normal(*shape, seed=1) + 3
    both = torch.cat([first, second])
    records = unit_records(first, axis)
    other = unit_records(second, axis)
    assert records is not None
    assert other is not None
    for found, tensor in ((records, first), (records.merge(other), both)):
        units = tensor.movedim(axis, 0).reshape(shape[axis], -1)
        assert (found.count, len(found)) == (units.shape[1], units.shape[0])
        torch.testing.assert_close(found.zero, (units == 0).float().mean(1))
        assert torch.equal(found.min, units.amin(1))
        assert torch.equal(found.max, units.amax(1))
        # Three roundings of float32 where the merge adds means and squares.
        torch.testing.assert_close(found.mean, units.mean(1), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.std, units.std(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 5), (0, 5), (3, 0)])
def test_units_with_a_single_value_have_no_records(shape: tuple[int, int]) -> None:
    assert unit_records(torch.zeros(shape), 1) is None


def views() -> list[tuple[Callable[[Tensor], Tensor], int]]:
    return [
        (lambda x: x.relu(), 6),
        (lambda x: x.flatten(2).relu(), 6),
        (lambda x: x.flatten(2).transpose(1, 2).tanh(), 6),
        (lambda x: x.permute(0, 2, 3, 1).sigmoid(), 6),
        (lambda x: x.flatten(1).relu(), 6 * 4 * 4),  # no dimension of units is left
    ]


@pytest.mark.parametrize(("then", "units"), views())
def test_views_keep_the_units_of_the_layer_that_made_them(
    then: Callable[[Tensor], Tensor], units: int
) -> None:
    model = Calls(then)
    model.linear = nn.Conv2d(3, 6, 3, padding=1)
    found = flows(model, normal(2, 3, 4, 4))
    (name,) = (name for name in found if name.endswith("()"))
    assert list(found[name].units) == [("linear", units)]


# --- rows


def row_cases() -> dict[str, Tensor]:
    repeated = normal(8, 5)
    repeated[[2, 5, 7]] = repeated[0].clone()
    signed = torch.zeros(4, 3)
    signed[1] = -0.0
    return {
        "random": normal(20, 7),
        "identity": torch.eye(64),
        "permuted": normal(1, 6).repeat(6, 1)[:, torch.randperm(6)],
        "rolled": torch.stack([normal(9).roll(i) for i in range(9)]),
        "repeated": repeated,
        "constant": torch.full((5, 4), 0.3),
        "both zeros": signed,
        "half": normal(16, 3).half().repeat(2, 1),
        "double": (1 + torch.arange(6.0, dtype=torch.float64)[:, None] * 1e-15).repeat(1, 3),
        "stacked": normal(3, 4, 5).repeat(2, 1, 1),
        "two groups with equal records": torch.tensor([[1.0, 2, 3], [3, 2, 1]]).repeat(4, 1),
    }


@pytest.mark.parametrize("case", row_cases())
def test_different_rows_are_counted_as_torch_unique_counts_them(case: str) -> None:
    weight = row_cases()[case]
    report = row_report(weight)
    assert report is not None
    expected = len(torch.unique(weight.double().flatten(1) + 0.0, dim=0))
    assert (report.rows, report.distinct) == (len(weight), expected)


@pytest.mark.parametrize("weight", [torch.ones(4), torch.ones(1, 4), torch.ones(3, 0)])
def test_a_vector_and_a_single_row_have_no_row_report(weight: Tensor) -> None:
    assert row_report(weight) is None


# --- inputs


def test_the_input_of_every_module_is_what_entered_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 16), nn.Unflatten(1, (4, 4)), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8)
    )
    entered: dict[str, Tensor] = {}
    for name, module in model.named_children():

        def keep(_module: nn.Module, args: tuple[Tensor], name: str = name) -> None:
            entered.setdefault(name, args[0].detach().clone())

        module.register_forward_pre_hook(keep)
    found = evidence(model, normal(16, 8)).layers
    assert set(found) == set(entered)
    for name, layer in found.items():
        assert layer.input is not None
        assert same(layer.input, entered[name]), name
    assert [layer.producers for layer in found.values()] == [("",), ("0",), ("0",), ("2",), ("2",)]


def in_place() -> list[tuple[Callable[[Tensor], Tensor], str]]:
    return [
        (nn.ReLU(inplace=True), "then"),
        (lambda x: x.relu_(), "relu()"),
        (torch.relu_, "relu()"),
        (lambda x: functional.relu(x, inplace=True), "relu()"),
        (lambda x: x.tanh_(), "tanh()"),
        (torch.sigmoid_, "sigmoid()"),
    ]


@pytest.mark.parametrize(("then", "name"), in_place())
def test_what_is_changed_in_place_is_recorded_as_it_was_before(
    then: Callable[[Tensor], Tensor], name: str
) -> None:
    model, x = Calls(then), normal(32, 8)
    found = flows(model, x)
    before = model.linear(x).detach()
    (made,), (entered,), (left,) = found["linear"].outputs, found[name].inputs, found[name].outputs
    assert same(made, before)
    assert same(entered, before)
    assert same(left, then(before.clone()))
    assert found[name].producers == {"linear": None}


def test_a_module_that_changes_its_input_has_the_input_of_before() -> None:
    class Doubles(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2) + 1

    x = normal(32, 8)
    model = nn.Sequential(Doubles(), nn.Linear(8, 8))
    before = x.clone()
    found = flows(model, x)
    assert same(found["0"].inputs[0], before)
    assert same(found["1"].inputs[0], 2 * before + 1)
