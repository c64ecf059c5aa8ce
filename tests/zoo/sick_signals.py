"""Faults in structure, activations and input."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from zoo.injecting import (
    Fault,
    combined,
    detached,
    everywhere,
    fault,
    fed,
    filled,
    no_residual,
    patched,
    scaled,
    without,
    without_norms,
    written,
)
from zoo.perceptrons import fill, plain
from zoo.specimens import Specimen

GPT = "transformer.h.1."
FADES = "activation-growth activation-std gradient-growth gradient-ratio"
INPUT = "input-scale first-layer"


def _plain(depth: int, gain: float, activation: type[nn.Module]):
    """Another plain network for the same batch."""

    def inject(specimen: Specimen) -> Specimen:
        model = plain(specimen.batch[0].shape[1], depth, activation)
        fill(model, gain)
        return specimen.but(model=model)

    return inject


def _bytes(x: Tensor) -> Tensor:
    """Images as they are read from a file: 0 to 255."""
    return (127.5 + 64 * x).clamp(0, 255).round()


def _with_nan(x: Tensor) -> Tensor:
    x = x.clone()
    x[0].view(-1)[0] = math.nan
    return x


def _unused(specimen: Specimen) -> Specimen:
    specimen.model.add_module("extra", nn.Linear(8, 8))
    return specimen


def _negative(weight: Tensor) -> None:
    weight.copy_(-weight.abs())


def _dropped(specimen: Specimen) -> Specimen:
    specimen.model.get_submodule("2").p = 0.99
    return specimen


class Logarithm(nn.Module):
    """Infinite where its input is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(torch.relu(x))


def _logarithm(specimen: Specimen) -> Specimen:
    specimen.model.set_submodule("5", Logarithm())
    return specimen


ALL_BLOCKS = tuple(f"transformer.h.{i}" for i in range(4))

SIGNAL_FAULTS: tuple[Fault, ...] = (
    fault("gain 3, 20 layers", "mlp_relu", _plain(20, 3.0, nn.ReLU), f"{FADES} initial-loss"),
    fault("gain 0.3, 20 layers", "mlp_relu", _plain(20, 0.3, nn.ReLU), FADES),
    fault("gain 1, 30 layers of ReLU", "mlp_relu", _plain(30, 1.0, nn.ReLU), FADES),
    fault("gain 0.5, 30 layers of tanh", "mlp_relu", _plain(30, 0.5, nn.Tanh), FADES),
    fault("gain 1, 40 layers of sigmoids", "mlp_relu", _plain(40, 1.0, nn.Sigmoid), FADES),
    fault(
        "saturated by weights",
        "mlp_tanh",
        scaled(30, "4.weight"),
        "saturated-units weight-peers",
        "4 5",
    ),
    fault(
        "saturated by input",
        "mlp_tanh",
        fed(lambda x: 100 * x),
        f"{INPUT} saturated-units",
        "0 1",
    ),
    fault(
        "saturated sigmoid",
        "sigmoids",
        scaled(50, "hidden.weight"),
        "saturated-units weight-peers",
        "hidden sigmoid()",
    ),
    fault("dead ReLU", "mlp_relu", filled(-10.0, "4.bias"), "dead-units bias-scale", "4 5"),
    fault(
        "dead ReLU, everywhere",
        "mlp_relu",
        everywhere(lambda p: p.fill_(-10.0), ending="bias", matrices=False),
        "dead-units bias-scale",
    ),
    fault(
        "dead ReLU by weights",
        "mlp_relu",
        written(_negative, "4.weight"),
        "dead-units",
        "4 5",
    ),
    fault(
        "dead functional ReLU",
        "residual_100",
        filled(-10.0, "blocks.50.inner.bias"),
        "dead-units bias-scale",
        "blocks.50",
    ),
    fault(
        "half of the units dead",
        "vgg",
        written(lambda p: p[::2].fill_(-20.0), "0.1.bias"),
        "dead-units norm-identity bias-scale",
        "0.1 0.2",
    ),
    fault(
        "one block without its residual path",
        "residual_gated",
        no_residual("blocks.9"),
        "residual-path activation-growth activation-std",
        "blocks.9",
    ),
    fault(
        "one block without its residual path",
        "gpt2",
        no_residual("transformer.h.2"),
        "residual-path",
        "transformer.h.2",
    ),
    fault(
        "one block without its residual path",
        "experts",
        no_residual("3"),
        "residual-path",
        "3",
    ),
    fault(
        "no residual path at all",
        "gpt2",
        no_residual(*ALL_BLOCKS),
        "residual-path",
        "transformer.h",
    ),
    fault(
        "one block without its norm",
        "llama",
        without("model.layers.1.input_layernorm"),
        "block-structure",
        "model.layers.1",
    ),
    fault(
        "one block without its norm",
        "resnet18",
        without("layer3.1.bn1"),
        "block-structure",
        "layer3.1",
    ),
    fault(
        "no norms, 100 layers",
        "residual_100",
        without_norms,
        f"{FADES} activation-scale initial-loss block-structure",
    ),
    fault("bytes as input", "resnet18", fed(_bytes), INPUT, "conv1"),
    fault(
        "bytes as input",
        "vit",
        fed(_bytes),
        INPUT,
        "vit.embeddings.patch_embeddings.projection vit.embeddings",
    ),
    fault("features of scale 10000", "mlp_relu", fed(lambda x: 1e4 * x), INPUT, "0"),
    fault("features far from 0", "mlp_gelu", fed(lambda x: x + 50), INPUT, "0"),
    fault("features of scale 0.0001", "mlp_tanh", fed(lambda x: 1e-4 * x), INPUT, "0"),
    fault("input of zeros", "autoencoder", fed(torch.zeros_like), INPUT, "encoder.0"),
    fault("constant input", "lenet", fed(torch.ones_like), INPUT, "0"),
    fault("NaN in the input", "lenet", fed(_with_nan), "not-finite input-scale", "0"),
    fault("log of 0", "mlp_relu", _logarithm, "not-finite", "5"),
    fault("dropout of 0.99", "mlp_default", _dropped, "dead-units dropout", "2 3"),
    fault("unused parameter", "unet", _unused, "missing-gradient", "extra"),
    fault("detached block", "gpt2", detached("transformer.h.1"), "missing-gradient", "transformer"),
    fault(
        "detached router",
        "experts",
        detached("2.router"),
        "missing-gradient",
        "2.router.weight",
    ),
    fault(
        "frozen in the middle",
        "gpt2",
        lambda specimen: _frozen(specimen, "transformer.h.2"),
        "missing-gradient block-structure frozen",
        "transformer.h.2",
    ),
    fault(
        "scores grow in attention",
        "vit",
        combined(
            scaled(30, "vit.layers.0.attention.q_proj.weight"),
            scaled(30, "vit.layers.0.attention.k_proj.weight"),
        ),
        "weight-peers saturated-units",
        "vit.layers.0.attention",
    ),
    fault(
        "output of a block x1000",
        "llama",
        patched(lambda out, _: 1000 * out, "model.layers.0.mlp"),
        "activation-scale residual-path activation-growth activation-std block-structure",
        "model.layers.0",
    ),
)


def _frozen(specimen: Specimen, name: str) -> Specimen:
    specimen.model.get_submodule(name).requires_grad_(False)
    return specimen
