"""Healthy models made of linear layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from initstats import init_
from zoo import data
from zoo.specimens import Builder, Size, Specimen, Stepper


def plain(width: int, depth: int, activation: type[nn.Module], classes: int = 10) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


def fill(model: nn.Module, gain: float, *, orthogonal: bool = False) -> None:
    """Fill linear layers with N(gain / sqrt(fan_in)) or gain times orthogonal; biases 0."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            if orthogonal:
                nn.init.orthogonal_(layer.weight, gain)
            else:
                nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.in_features))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _classified(model: nn.Module, size: Size, width: int, rate: float = 1e-3) -> Specimen:
    batch = data.features(size.many(64), width, size.seed)
    return Specimen(model, batch, cross_entropy, Stepper(rate=rate))


def mlp_tanh(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    model = plain(size.wide(64), size.deep(6), nn.Tanh)
    init_(model, "mlp", seed=size.seed)
    return _classified(model, size, size.wide(64))


def mlp_relu(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    model = plain(size.wide(64), size.deep(6), nn.ReLU)
    fill(model, math.sqrt(2))
    nn.init.normal_(model[-1].weight, std=1 / math.sqrt(size.wide(64)))
    return _classified(model, size, size.wide(64))


def mlp_gelu(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    model = plain(size.wide(64), size.deep(6), nn.GELU)
    fill(model, 1.5)
    nn.init.normal_(model[-1].weight, std=0.02)
    return _classified(model, size, size.wide(64))


def mlp_default(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    width = size.wide(64)
    model = nn.Sequential(
        *(nn.Linear(width, 2 * width), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 10)),
    )
    return _classified(model, size, width)


def selu(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    model = plain(size.wide(64), size.deep(12), nn.SELU)
    fill(model, 1.0)
    return _classified(model, size, size.wide(64))


def tanh_100(size: Size) -> Specimen:
    """Plain and deep: near the edge of chaos, as in arXiv 1806.05393."""
    torch.manual_seed(size.seed)
    model = plain(size.wide(64), size.deep(100), nn.Tanh)
    fill(model, 1.0, orthogonal=True)
    return _classified(model, size, size.wide(64), rate=1e-4)


class Residual(nn.Module):
    """A residual branch of two layers, behind a norm or without one."""

    def __init__(self, width: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.norm = norm(width)
        self.inner = nn.Linear(width, 2 * width)
        self.outer = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.outer(functional.relu(self.inner(self.norm(x))))
        return x + branch


class Stack(nn.Module):
    """Residual blocks between a stem and a head."""

    def __init__(self, width: int, depth: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Linear(width, width)
        self.blocks = nn.ModuleList(Residual(width, norm) for _ in range(depth))
        self.norm = norm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x))
        return out


def residual_100(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    model = Stack(size.wide(32), size.deep(100), nn.LayerNorm)
    fill(model, 1.0)
    return _classified(model, size, size.wide(32))


def residual_100_scaled(size: Size) -> Specimen:
    """Without norms: each branch ends with 1 / sqrt(depth)."""
    torch.manual_seed(size.seed)
    depth = size.deep(100)
    model = Stack(size.wide(32), depth, nn.Identity)
    fill(model, 1.0)
    with torch.no_grad():
        for block in model.blocks:
            block.outer.weight.mul_(1 / math.sqrt(depth))
    return _classified(model, size, size.wide(32), rate=3e-4)


def residual_gated(size: Size) -> Specimen:
    """Without norms: the last layer of each branch starts at 0, as in Fixup and ReZero."""
    specimen = residual_100_scaled(Size(size.seed, size.width, 0.2 * size.depth, size.batch))
    for block in specimen.model.get_submodule("blocks").children():
        nn.init.zeros_(block.get_submodule("outer").weight)
    return specimen.but(optimizer=Stepper(rate=1e-3))


class Autoencoder(nn.Module):
    """Narrows to a code and widens again; variational when the code has noise."""

    def __init__(self, width: int, code: int, *, variational: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width // 2), nn.ReLU()),
            nn.Linear(width // 2, 2 * code if variational else code),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(code, width // 2), nn.ReLU(), nn.Linear(width // 2, width), nn.ReLU()),
            nn.Linear(width, width),
        )
        self.variational = variational

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(x)
        penalty = x.new_zeros(())
        if self.variational:
            mean, log_variance = code.chunk(2, dim=-1)
            penalty = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
            code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(code), penalty


def _reconstruction(output: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    return functional.mse_loss(output[0], x) + 0.1 * output[1]


def _autoencoder(size: Size, *, variational: bool) -> Specimen:
    torch.manual_seed(size.seed)
    width = size.wide(96)
    model = Autoencoder(width, 16, variational=variational)
    if not variational:
        fill(model, math.sqrt(2))
        nn.init.xavier_uniform_(model.decoder[-1].weight)
    x, _ = data.features(size.many(64), width, size.seed)
    return Specimen(model, x, _reconstruction)


def autoencoder(size: Size) -> Specimen:
    return _autoencoder(size, variational=False)


def vae(size: Size) -> Specimen:
    return _autoencoder(size, variational=True)


class Policy(nn.Module):
    """An actor and a critic on a shared trunk, as PPO starts: gains sqrt(2), .01 and 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
        )
        self.actor = nn.Linear(width, 6)
        self.critic = nn.Linear(width, 1)
        fill(self, math.sqrt(2), orthogonal=True)
        nn.init.orthogonal_(self.actor.weight, 0.01)
        nn.init.orthogonal_(self.critic.weight, 1.0)

    def forward(self, x: Tensor, actions: Tensor, returns: Tensor) -> Tensor:
        hidden = self.trunk(x)
        value = self.critic(hidden).squeeze(-1)
        chosen = self.actor(hidden).log_softmax(-1).gather(1, actions.view(-1, 1)).squeeze(1)
        advantage = returns - value.detach()
        advantage = (advantage - advantage.mean()) / advantage.std()
        loss = 0.5 * functional.mse_loss(value, returns)
        return loss - (advantage * chosen).mean()


def policy(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    width = size.wide(64)
    x, actions = data.features(size.many(64), width, size.seed, classes=6)
    returns = x[:, :4].sum(1) / 2
    return Specimen(Policy(width), (x, actions, returns), optimizer=Stepper(rate=3e-4))


class Siamese(nn.Module):
    """One tower called twice; pairs of the same row attract."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tower = nn.Sequential(
            *(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width), nn.ReLU()),
            nn.Linear(width, 32),
        )

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        a, b = (functional.normalize(self.tower(x), dim=-1) for x in (left, right))
        return cross_entropy(a @ b.T / 0.5, torch.arange(len(a)))


def siamese(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    width = size.wide(64)
    x, _ = data.features(size.many(32), width, size.seed)
    model = Siamese(width)
    fill(model, math.sqrt(2))
    return Specimen(model, (x, x + 0.3 * torch.randn(x.shape)))


MODELS: dict[str, Builder] = {
    f.__name__: f
    for f in (
        *(mlp_tanh, mlp_relu, mlp_gelu, mlp_default, selu, tanh_100),
        *(residual_100, residual_100_scaled, residual_gated, autoencoder, vae, policy, siamese),
    )
}
