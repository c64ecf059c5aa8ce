"""Against torch.nn.init itself: names, signatures, errors, warnings. Its values are its own."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import init

import initstats

INF, NAN = math.inf, math.nan
NAMES = [
    name
    for name, value in vars(init).items()
    if inspect.isfunction(value) and value.__module__ == init.__name__ and name[0] != "_"
]
RANDOM = [
    name for name in NAMES if "generator" in inspect.signature(getattr(init, name)).parameters
]
SCALED = ["xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"]


def outcome(module: Any, name: str, make: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
    """The error that a call raises, and the warnings that it gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            getattr(module, name)(make(), *args, **kwargs)
            error = None
        except Exception as raised:  # noqa: BLE001  # whatever torch raises is the expectation
            error = raised
    return error, [(w.category, str(w.message), w.filename) for w in caught]


def test_every_function_of_torch_is_there_in_its_list_too() -> None:
    assert len(NAMES) == 26
    assert [name for name in NAMES if name not in initstats.__all__] == []


def test_private_functions_that_user_code_calls_take_torchs_arguments() -> None:
    private = {
        name
        for name, value in vars(init).items()
        if inspect.isfunction(value) and value.__module__ == init.__name__ and name[0] == "_"
    }
    private.remove("_make_deprecate")  # makes the deprecated names, and is of no use afterwards
    assert len(private) == 7
    for name in private:
        theirs = inspect.signature(getattr(init, name)).parameters
        ours = inspect.signature(getattr(initstats.init, name)).parameters
        assert [*ours][: len(theirs)] == [*theirs], name
        assert all(p.kind is p.KEYWORD_ONLY for p in [*ours.values()][len(theirs) :]), name


@pytest.mark.parametrize("shape", [(3, 5), (4, 2, 3, 3), (0, 4), (7,)])
@pytest.mark.parametrize("mode", ["fan_in", "FAN_OUT", "fan_avg"])
def test_the_fan_of_a_mode_is_torchs(shape: tuple[int, ...], mode: str) -> None:
    w = torch.empty(shape)
    try:
        expected = init._calculate_correct_fan(w, mode)
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            initstats.init._calculate_correct_fan(w, mode)
    else:
        assert initstats.init._calculate_correct_fan(w, mode) == expected


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_in_the_drop_in_module(name: str) -> None:
    assert getattr(initstats.init, name) is getattr(initstats, name)
    assert name in initstats.init.__all__
    assert set(init.__all__) <= {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_signature_begins_with_torchs_and_the_rest_is_by_keyword(name: str) -> None:
    theirs = list(inspect.signature(getattr(init, name)).parameters.values())
    ours = list(inspect.signature(getattr(initstats, name)).parameters.values())
    if [p.kind for p in theirs] == [
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
    ]:
        return  # a deprecated name of torch takes anything
    assert [(p.name, p.kind, p.default) for p in ours[: len(theirs)]] == [
        (p.name, p.kind, p.default) for p in theirs
    ]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in ours[len(theirs) :])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("normal_", (0, -1)),
        ("normal_", (0.0, NAN)),
        ("normal_", ("a",)),
        ("normal_", (None,)),
        ("uniform_", (1, 0)),
        ("uniform_", (NAN, 0)),
        ("uniform_", (0, INF)),
        ("uniform_", (-3e38, 3e38)),
        ("uniform_", (0.0, "a")),
        ("trunc_normal_", (0, 1, 2, -2)),
        ("trunc_normal_", (0, 1, 0.5, -0.5)),
        ("xavier_uniform_", (-1.0,)),
        ("xavier_normal_", (-1.0,)),
        ("xavier_normal_", (NAN,)),
        ("kaiming_uniform_", (0, "fan_middle")),
        ("kaiming_normal_", (0, "fan_in", "nothing")),
        ("kaiming_normal_", (True,)),
        ("sparse_", (0.5, -1)),
        ("sparse_", (NAN,)),
        ("sparse_", ("a",)),
        ("dirac_", (2,)),
        ("eye_", ()),
        ("orthogonal_", ("a",)),
    ],
)
def test_what_torch_refuses_is_refused_as_that_error_in_its_words(
    name: str, arguments: tuple[object, ...]
) -> None:
    shape = {"dirac_": (3, 4, 2), "eye_": (3, 4, 1)}.get(name, (3, 4))
    theirs, _ = outcome(init, name, lambda: torch.zeros(shape), *arguments)
    x = torch.zeros(shape)
    ours, _ = outcome(initstats, name, lambda: x, *arguments)
    assert theirs is not None
    assert isinstance(ours, type(theirs)), repr(ours)
    if not isinstance(theirs, TypeError) and "NaN" not in str(theirs):
        assert str(theirs) in str(ours)
    assert not x.any()


@pytest.mark.parametrize("name", [*RANDOM, "dirac_"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.float8_e5m2], ids=str)
def test_tensors_of_other_dtypes_are_refused_as_by_torch(name: str, dtype: torch.dtype) -> None:
    if not name.endswith("_") or name == "dirac_":
        return
    arguments = (0.5,) if name == "sparse_" else ()

    def make() -> torch.Tensor:
        return torch.zeros(3, 4).to(dtype)

    theirs, _ = outcome(init, name, make, *arguments)
    ours, _ = outcome(initstats, name, make, *arguments)
    assert isinstance(theirs, NotImplementedError)
    if name == "orthogonal_":
        assert isinstance(ours, TypeError)
        return
    assert isinstance(ours, NotImplementedError), repr(ours)
    assert isinstance(ours, TypeError)
    assert str(theirs) in str(ours)


@pytest.mark.parametrize("fill", [initstats.normal_, lambda x: initstats.foreach_normal_([x])])
def test_sparse_tensors_are_a_type_error(fill: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(TypeError, match=r"expected a dense tensor, got layout=torch.sparse_coo"):
        fill(torch.zeros(3, 4).to_sparse())


def test_refusals_leave_every_generator_where_it_was() -> None:
    state = torch.get_rng_state()
    for arguments in ((0, -1), (0, NAN)):
        with pytest.raises(RuntimeError, match="normal expects std"):
            initstats.normal_(torch.zeros(3), *arguments)
    with pytest.raises(NotImplementedError, match="normal_kernel_cpu"):
        initstats.normal_(torch.zeros(3, dtype=torch.int32))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "arguments",
    [(0.0, 1.0, 5.0, 6.0), (3.0, 0.5, -1.0, 1.0), (0.0, 1.0, -2.0, 2.0), (0.0, 1.0, 2.0, 3.0)],
)
def test_truncation_far_from_the_mean_warns_as_torch_does(arguments: tuple[float, ...]) -> None:
    _, theirs = outcome(init, "trunc_normal_", lambda: torch.zeros(3), *arguments)
    _, ours = outcome(initstats, "trunc_normal_", lambda: torch.zeros(3), *arguments)
    assert [w[:2] for w in ours] == [w[:2] for w in theirs]
    assert all(file == __file__ for _, _, file in ours)
    _, keyed = outcome(initstats, "trunc_normal_", lambda: torch.zeros(3), *arguments, seed=1)
    assert keyed == []


@pytest.mark.parametrize("name", ["kaiming_uniform_", "kaiming_normal_"])
def test_empty_tensors_warn_as_torch_does(name: str) -> None:
    _, theirs = outcome(init, name, lambda: torch.zeros(0, 3))
    _, ours = outcome(initstats, name, lambda: torch.zeros(0, 3))
    assert [w[:2] for w in ours] == [w[:2] for w in theirs] != []
    assert all(file == __file__ for _, _, file in ours)


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("_")])
def test_parts_of_a_parameter_are_filled_as_torch_fills_them(name: str) -> None:
    shape = (6, 4, 3) if name == "dirac_" else (6, 4)
    arguments = {"sparse_": (0.5,), "constant_": (2.0,)}.get(name, ())
    for module in (init, initstats):
        w = torch.nn.Parameter(torch.full(shape, 7.0))
        getattr(module, name)(w[:2], *arguments)
        assert not bool((w[:2] == 7).any())
        assert bool((w[2:] == 7).all())
        assert w.is_leaf


@pytest.mark.parametrize("name", SCALED)
def test_views_of_a_fill_are_what_gives_the_fans(name: str) -> None:
    w = torch.nn.Parameter(torch.zeros(8, 4))
    getattr(initstats, name)(w.t(), seed=1)
    expected = getattr(initstats, name)(torch.zeros(4, 8), seed=1)
    assert torch.equal(w.detach().t(), expected)
