"""The numbers of graph networks, flows and networks of splines, and their references."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

import pytest
import torch
from torch import nn

import network_models
from initstats import recipes
from initstats.planning.initialize import init_
from initstats.planning.planner import plan
from initstats.recipes import (
    Computed,
    Constant,
    Distribution,
    Kept,
    Normal,
    NormalisedRows,
    Orthogonal,
    Slices,
    Stacked,
    Transformed,
    Uniform,
)
from initstats.verification.verifier import verify
from network_models import CHANNELS, WIDTH
from promises import ONE, ZERO, check, glorot, normal, uniform
from recipe_checks import accepts, accepts_reference, initialises, rejects, rejects_wrong_std

DEFAULT = uniform(WIDTH**-0.5)


def test_gnn() -> None:
    heads = 4
    promises: dict[str, Distribution] = {
        "convs.0.lin.weight": glorot(WIDTH, heads * WIDTH),
        "convs.0.att_*": glorot(heads, WIDTH),
        "convs.0.bias": ZERO,
        "convs.1.weight": DEFAULT,
        "convs.1.rnn.*": DEFAULT,
        "convs.2.nn.*": DEFAULT,
        "convs.2.eps": ZERO,
        "convs.3.weight": glorot(WIDTH, WIDTH),
        "convs.3.l1": ONE,
        "convs.3.w": ONE,
        "convs.3.l2": Constant(1 / WIDTH),
        "convs.3.b*": ZERO,
        "norm.weight": ONE,
        "norm.bias": ZERO,
        "lin.*": DEFAULT,
    }
    check(network_models.graph_network(), recipes.gnn(), dict(promises))
    model = initialises(network_models.graph_network, recipes.gnn())
    rejects_wrong_std(model, "gnn")
    # Glorot by all heads together, and torch's default in place of Glorot.
    rejects(model, "gnn", "convs.0.lin.weight", (2 * (1 + heads) / 6 / (2 / 1)) ** 0.5 / 2)
    rejects(model, "gnn", "convs.3.l2", lambda x: x.normal_())


def test_gnn_accepts_the_layers_of_pytorch_geometric() -> None:
    layers = pytest.importorskip("torch_geometric.nn")
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "gcn": layers.GCNConv(256, 256),
            "gat": layers.GATConv(256, 64, heads=4, edge_dim=8),
            "gatv2": layers.GATv2Conv(256, 64, heads=4),
            "sage": layers.SAGEConv(256, 256),
            "gin": layers.GINConv(nn.Linear(256, 256), train_eps=True),
            "cheb": layers.ChebConv(256, 256, 3),
            "arma": layers.ARMAConv(256, 256, num_stacks=2),
            "rgcn": layers.RGCNConv(256, 256, 3, num_bases=2),
            "ggnn": layers.GatedGraphConv(256, 2),
            "transformer": layers.TransformerConv(256, 64, heads=4, beta=True),
            "gps": layers.GPSConv(256, None, heads=4),
            "hgt": layers.HGTConv(256, 256, (["a", "b"], [("a", "t", "b")]), 2),
        }
    )
    accepts(model, "gnn")
    rejects_wrong_std(model, "gnn")


def test_what_pytorch_geometric_leaves_unwritten_is_found() -> None:
    layers = pytest.importorskip("torch_geometric.nn")
    layer = layers.RGATConv(64, 32, 3)
    with torch.no_grad():
        layer.l2.fill_(3.0)
        layer.reset_parameters()
    (failure,) = verify(layer, "gnn").failures
    assert failure.name == "l2"


def test_glow() -> None:
    promises: dict[str, Distribution] = {
        "*.loc": ZERO,
        "*.actnorm.scale": ONE,
        "*.invconv.weight": Orthogonal(CHANNELS, CHANNELS),
        "*.net.4.*": ZERO,
        "*.prior.*": ZERO,
        "*.bias": ZERO,
        "*.weight": normal(0.05),
    }
    check(network_models.Glow(), recipes.glow(), dict(promises))
    accepts_reference(network_models.Glow, recipes.glow())
    model = initialises(network_models.Glow, recipes.glow())
    rejects(model, "glow", "*.net.4.conv.weight", lambda x: x.normal_(0, 0.05))
    rejects(model, "glow", "*.invconv.weight", 1.05)


def test_activation_norms_of_glow_are_left_after_the_first_batch() -> None:
    model = network_models.Glow()
    init_(model, "glow", seed=0)
    norm = model.blocks[0]["flows"][0]["actnorm"]
    with torch.no_grad():  # what the first batch writes
        norm.scale.fill_(0.3)
        norm.loc.fill_(-1.0)
    assert {entry.name.rpartition(".")[2] for entry in verify(model, "glow").failures} == {
        "loc",
        "scale",
    }
    kept = recipes.glow(actnorm="kept")
    accepts(model, kept)
    init_(model, kept, seed=1)
    assert (norm.scale == torch.full_like(norm.scale, 0.3)).all()


def test_rotations_of_glow_in_parts_are_left() -> None:
    class InvConv2dLU(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w_l, self.w_u = (nn.Parameter(torch.eye(4)) for _ in "12")
            self.w_s = nn.Parameter(torch.zeros(4))

    model = nn.ModuleDict({"invconv": InvConv2dLU(), "coupling": nn.Conv2d(4, 4, 1)})
    kept = {entry.name for entry in plan(model, "glow") if isinstance(entry.distribution, Kept)}
    assert kept == {"invconv.w_l", "invconv.w_u", "invconv.w_s"}


def test_kan() -> None:
    # Norms of the rows of the pseudo-inverse of the basis at the points of the grid.
    growth = (0.4986833, 1.5400256, 1.8151843, 1.8550396)
    noise = 0.1 / 10 / math.sqrt(3)
    planned = {entry.name: entry.distribution for entry in plan(network_models.KAN(), "kan")}
    got = planned["layers.0.spline_weight"]
    assert isinstance(got, Stacked)
    assert got.dim == 2
    stds = [part.distribution.std for part in got.parts]
    assert stds == pytest.approx([noise * g for g in (*growth, *growth[::-1])], rel=1e-6)
    assert {type(part.distribution) for part in got.parts} == {Normal}
    assert planned["layers.0.base_weight"] == planned["layers.0.spline_scaler"] == DEFAULT
    ends = {"start": pytest.approx(-2.2), "end": pytest.approx(2.2)}
    grid = planned["layers.0.grid"]
    assert isinstance(grid, Computed)
    assert dict(grid.arguments) == ends


def test_kan_in_the_names_of_pykan() -> None:
    noise, narrow = 0.5 / 10, WIDTH**-0.5
    scale = Computed("linspace", (WIDTH, WIDTH), {"start": narrow, "end": narrow})
    recipe = recipes.kan(variant="pykan")
    planned = {
        entry.name: entry.distribution for entry in plan(network_models.pykan_layer(), recipe)
    }
    assert planned.pop("act_fun.0.scale_base") == DEFAULT
    assert planned.pop("act_fun.0.scale_sp") == scale
    assert planned.pop("act_fun.0.mask") == ONE
    coefficients, grid = planned.pop("act_fun.0.coef"), planned.pop("act_fun.0.grid")
    assert isinstance(coefficients, Stacked)
    assert coefficients.parts[3].distribution.std == pytest.approx(1.8550396 * noise / 3**0.5)
    assert isinstance(grid, Computed)
    assert dict(grid.arguments) == {"start": pytest.approx(-2.2), "end": pytest.approx(2.2)}
    nodes = {name.rpartition(".")[2]: fill for name, fill in planned.items()}
    zeros = ("mask", "affine", "node_bias_0", "subnode_bias_0")
    assert nodes == {
        **dict.fromkeys(zeros, ZERO), "node_scale_0": ONE, "subnode_scale_0": ONE,
    }  # fmt: skip
    initialises(network_models.pykan_layer, recipe)


def test_kan_of_the_reference_has_the_deviations_of_the_recipe() -> None:
    """Of the fit of noise only the distribution differs: sums of uniforms, not uniforms."""
    torch.manual_seed(0)
    model = network_models.KAN()
    model.init_weights()
    accepts(model, "kan", ignore={"shape", "extremes"})
    parts = {e.name.partition("[")[0] for e in verify(model, "kan").failures}
    assert parts <= {"layers.0.spline_weight", "layers.1.spline_weight"}
    spoilt = model.layers[0].spline_weight
    with torch.no_grad():
        spoilt.mul_(1.03)
    assert verify(model, "kan", ignore={"shape", "extremes"}).failures
    started = initialises(network_models.KAN, recipes.kan())
    rejects_wrong_std(started, "kan")
    rejects(started, "kan", "*.base_weight", math.sqrt(3))


def test_kan_accepts_the_layer_of_pykan() -> None:
    layer = pytest.importorskip("kan.KANLayer")
    torch.manual_seed(0)
    model = nn.ModuleDict({"act_fun": layer.KANLayer(64, 64)})
    accepts(model, recipes.kan(variant="pykan"), ignore={"shape", "extremes"})


def test_edm2() -> None:
    promises: dict[str, Distribution] = {
        "*gain": ZERO,
        "*.freqs": normal(2 * math.pi),
        "*.phases": Uniform(0.0, 2 * math.pi),
        "*.weight": normal(1.0),
    }
    check(network_models.Edm2(), recipes.edm2(), dict(promises))
    accepts_reference(network_models.Edm2, recipes.edm2())
    model = initialises(network_models.Edm2, recipes.edm2())
    rejects(model, "edm2", "*.emb_gain", lambda x: x.fill_(1.0))


def test_modula() -> None:
    promises: dict[str, Distribution] = {
        "embed.weight": NormalisedRows(WIDTH),
        "conv.weight": Slices(Orthogonal(16, 8), (2, 3)),
        "up.weight": Orthogonal(2 * WIDTH, WIDTH),
        "head.weight": Orthogonal(8, WIDTH),
        "*.bias": ZERO,
    }
    recipe = recipes.modula()
    planned = plan(network_models.modula_network(), recipe)
    for entry in planned:
        pattern = next(p for p in promises if fnmatchcase(entry.name, p))
        assert entry.distribution == promises[pattern], entry.name
    forward = {entry.name: entry.multipliers.forward for entry in planned}
    assert forward["up.weight"] == pytest.approx(2**0.5)
    assert forward["head.weight"] == pytest.approx((8 / WIDTH) ** 0.5)
    assert forward["conv.weight"] == pytest.approx(2**0.5 / 9)
    assert forward["embed.weight"] == pytest.approx(WIDTH**0.5)
    model = initialises(network_models.modula_network, recipe)
    rejects(model, recipe, "up.weight", 1.03)
    rejects(model, recipe, "embed.weight", 1.03)


def test_mamba3() -> None:
    default, output = uniform(WIDTH**-0.5), uniform((512 * 3) ** -0.5)
    promises: dict[str, Distribution] = {
        "*.embedding.weight": normal(0.02),
        "*.dt_bias": Transformed.time_step(0.001, 0.1, floor=1e-4),
        "*.D": ONE,
        "*.[BC]_bias": ONE,
        "*.mimo_z": ONE,
        "*.mimo_[xo]": Constant(1 / 4),
        "*norm.weight": ONE,
        "*.in_proj.weight": default,
        "*.out_proj.weight": output,
    }
    check(network_models.Mamba3(), recipes.mamba3(), dict(promises))
    model = initialises(network_models.Mamba3, recipes.mamba3())
    rejects_wrong_std(model, "mamba3")
    rejects(model, "mamba3", "*.out_proj.weight", 3**0.5, cause="as torch leaves it")
    rejects(model, "mamba3", "*.dt_bias", lambda x: x.fill_(1.0))
    found = plan(network_models.Mamba3(), "llama").unmatched
    assert {name.rpartition(".")[2] for name in found} == {
        "dt_bias", "D", "B_bias", "C_bias", "mimo_x", "mimo_z", "mimo_o",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("glow", {"actnorm": "data"}, "expected actnorm among identity, kept"),
        ("glow", {"std": 0.0}, "expected std finite and > 0"),
        ("mamba3", {"residuals": 0}, "expected residuals >= 1, got residuals=0"),
        ("kan", {"variant": "fast"}, "expected variant among efficient_kan, pykan"),
        ("kan", {"noise": -1.0}, "expected noise finite and > 0"),
        ("kan", {"order": 0}, "expected order >= 1, got order=0"),
        ("kan", {"low": 1.0}, "expected low < high, got low=1.0 and high=1.0"),
    ],
)
def test_options_out_of_range_are_refused(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=f"initstats.{name}: {message}"):
        getattr(recipes, name)(**options)


def test_too_few_coefficients_are_refused() -> None:
    with pytest.raises(ValueError, match="more than order=8 coefficients, got layers"):
        plan(network_models.KAN(), recipes.kan(order=8))
