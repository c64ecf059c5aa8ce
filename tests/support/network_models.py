"""Graph networks, flows and networks of splines in small, with the names of their code bases.

Those that have an `init_weights` write what the reference writes, with torch's own fills.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from named_models import Tree

WIDTH, CHANNELS = 256, 8


class GraphLinear(nn.Module):
    """The linear layer of PyTorch Geometric, which states its initialisation."""

    def __init__(self, inputs: int, outputs: int, *, glorot: bool = False) -> None:
        super().__init__()
        self.in_channels, self.weight_initializer = inputs, "glorot" if glorot else None
        self.bias_initializer = None
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = None if glorot else nn.Parameter(torch.empty(outputs))


GraphLinear.__name__ = "Linear"


class MessagePassing(nn.Module):
    """The base of all layers of PyTorch Geometric."""


class GATConv(MessagePassing):
    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.lin = GraphLinear(WIDTH, heads * WIDTH, glorot=True)
        self.att_src = nn.Parameter(torch.empty(1, heads, WIDTH))
        self.att_dst = nn.Parameter(torch.empty(1, heads, WIDTH))
        self.bias = nn.Parameter(torch.empty(heads * WIDTH))


class GatedGraphConv(MessagePassing):
    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layers, WIDTH, WIDTH))
        self.rnn = nn.GRUCell(WIDTH, WIDTH)


class GINConv(MessagePassing):
    def __init__(self) -> None:
        super().__init__()
        self.nn = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.eps = nn.Parameter(torch.empty(1))


class RGATConv(MessagePassing):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3, WIDTH, WIDTH))
        self.l1, self.b1, self.b2 = (nn.Parameter(torch.empty(1, WIDTH)) for _ in range(3))
        self.l2 = nn.Parameter(torch.empty(WIDTH, WIDTH))
        self.w, self.bias = (nn.Parameter(torch.empty(WIDTH)) for _ in range(2))


def graph_network() -> Tree:
    layers = (GATConv(), GatedGraphConv(), GINConv(), RGATConv())
    return Tree(convs=nn.ModuleList(layers), norm=nn.BatchNorm1d(WIDTH), lin=GraphLinear(WIDTH, 8))


class ActNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        shape = (1, channels, 1, 1)
        self.loc, self.scale = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.ones(shape))


class InvConv2d(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 1, 1))


class ZeroConv2d(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3)
        self.scale = nn.Parameter(torch.zeros(1, outputs, 1, 1))


class Glow(nn.Module):
    """rosinality/glow-pytorch, one block of two flows."""

    def __init__(self) -> None:
        super().__init__()
        flows = nn.ModuleList([self._flow() for _ in range(2)])
        self.blocks = nn.ModuleList([Tree(flows=flows, prior=ZeroConv2d(CHANNELS, CHANNELS))])

    def _flow(self) -> Tree:
        first, last = nn.Conv2d(CHANNELS // 2, WIDTH, 3), ZeroConv2d(WIDTH, CHANNELS)
        net = nn.Sequential(first, nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 1), nn.ReLU(), last)
        return Tree(actnorm=ActNorm(CHANNELS), invconv=InvConv2d(CHANNELS), coupling=Tree(net=net))

    @torch.no_grad()
    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.normal_(0, 0.05)
                module.bias.zero_()
            elif isinstance(module, InvConv2d):
                rotation = torch.linalg.qr(torch.randn(CHANNELS, CHANNELS)).Q
                module.weight.copy_(rotation[:, :, None, None])
        for module in self.modules():
            if isinstance(module, ZeroConv2d):
                module.conv.weight.zero_()


class KANLinear(nn.Module):
    """efficient-kan 7b6ce1c: 5 intervals and cubic splines."""

    GRID, ORDER = 5, 3

    def __init__(self, inputs: int = WIDTH, outputs: int = WIDTH) -> None:
        super().__init__()
        grid, order = self.GRID, self.ORDER
        knots = torch.arange(-order, grid + order + 1) * (2 / grid) - 1
        self.register_buffer("grid", knots.expand(inputs, -1).contiguous())
        self.base_weight = nn.Parameter(torch.empty(outputs, inputs))
        self.spline_weight = nn.Parameter(torch.empty(outputs, inputs, grid + order))
        self.spline_scaler = nn.Parameter(torch.empty(outputs, inputs))

    def splines(self, x: Tensor) -> Tensor:
        """Return the basis at points, [points, coefficients]."""
        t = self.grid[0]
        basis = ((x[:, None] >= t[:-1]) & (x[:, None] < t[1:])).float()
        for k in range(1, self.ORDER + 1):
            left = (x[:, None] - t[: -(k + 1)]) / (t[k:-1] - t[: -(k + 1)])
            right = (t[k + 1 :] - x[:, None]) / (t[k + 1 :] - t[1:-k])
            basis = left * basis[:, :-1] + right * basis[:, 1:]
        return basis

    @torch.no_grad()
    def init_weights(self) -> None:
        nn.init.kaiming_uniform_(self.base_weight, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.spline_scaler, a=math.sqrt(5))
        outputs, inputs = self.base_weight.shape
        noise = (torch.rand(self.GRID + 1, inputs * outputs) - 0.5) * 0.1 / self.GRID
        basis = self.splines(self.grid[0, self.ORDER : -self.ORDER])
        fit = torch.linalg.lstsq(basis, noise).solution
        self.spline_weight.copy_(fit.T.reshape(outputs, inputs, -1))


class KAN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([KANLinear(), KANLinear(WIDTH, 4)])

    def init_weights(self) -> None:
        for layer in self.layers:
            layer.init_weights()


def pykan_layer(inputs: int = WIDTH, outputs: int = WIDTH) -> Tree:
    """KANLayer of pykan 0.2.8, with what a MultKAN adds."""
    edges = {name: torch.empty(inputs, outputs) for name in ("mask", "scale_base", "scale_sp")}
    layer = Tree(grid=torch.empty(inputs, 12), coef=torch.empty(inputs, outputs, 8), **edges)
    off = Tree(mask=torch.empty(outputs, inputs), affine=torch.empty(outputs, inputs, 4))
    model = Tree(act_fun=nn.ModuleList([layer]), symbolic_fun=nn.ModuleList([off]))
    for name in ("node_bias_0", "node_scale_0", "subnode_bias_0", "subnode_scale_0"):
        model.register_parameter(name, nn.Parameter(torch.empty(outputs)))
    return model


class MPConv(nn.Module):
    """A layer of EDM 2, linear without a kernel."""

    def __init__(self, inputs: int, outputs: int, *kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, *kernel))


class MPFourier(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.empty(channels))
        self.register_buffer("phases", torch.empty(channels))


class Edm2(nn.Module):
    """edm2 4bf8162: what its UNet holds."""

    def __init__(self) -> None:
        super().__init__()
        self.out_gain = nn.Parameter(torch.empty([]))
        self.emb_fourier, self.emb_noise = MPFourier(WIDTH), MPConv(WIDTH, WIDTH)
        block = Tree(emb_gain=torch.empty([]), conv_res0=MPConv(64, 64, 3, 3))
        self.enc = nn.ModuleDict({"8x8_block0": block})

    @torch.no_grad()
    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, MPConv):
                module.weight.normal_()
            elif isinstance(module, MPFourier):
                module.freqs.normal_().mul_(2 * math.pi)
                module.phases.uniform_().mul_(2 * math.pi)
        for name, parameter in self.named_parameters():
            if name.endswith("gain"):
                parameter.zero_()


def modula_network() -> Tree:
    return Tree(
        embed=nn.Embedding(300, WIDTH),
        conv=nn.Conv2d(8, 16, 3),
        up=nn.Linear(WIDTH, 2 * WIDTH, bias=False),
        head=nn.Linear(WIDTH, 8),
    )


class Mamba3(nn.Module):
    """mamba_ssm e9594ce, of several ranks."""

    HEADS, RANK, STATES = 8, 4, 16

    def __init__(self) -> None:
        super().__init__()
        layers = nn.ModuleList([Tree(mixer=self._mixer()) for _ in range(3)])
        self.backbone = Tree(embedding=nn.Embedding(300, WIDTH), layers=layers)

    def _mixer(self) -> Tree:
        heads, inner = self.HEADS, 2 * WIDTH
        ranks = (heads, self.RANK)
        return Tree(
            in_proj=nn.Linear(WIDTH, 2 * inner, bias=False),
            dt_bias=torch.empty(heads),
            D=torch.empty(heads),
            **{f"{name}_bias": torch.empty(*ranks, self.STATES) for name in "BC"},
            **{f"mimo_{name}": torch.empty(*ranks, inner // heads) for name in "xzo"},
            B_norm=nn.RMSNorm(self.STATES),
            out_proj=nn.Linear(inner, WIDTH, bias=False),
        )
