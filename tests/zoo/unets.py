"""Healthy U-Nets: segmentation, and diffusion with convolutions that start at zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from zoo import data
from zoo.specimens import Builder, Size, Specimen, Stepper
from zoo.vision import diffused


def _double(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
        *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
    )


class UNet(nn.Module):
    """Three scales down, three up, with the same scale joined; a class per pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            [_double(3, width), _double(width, 2 * width), _double(2 * width, 4 * width)]
        )
        self.grow = nn.ModuleList(
            [
                nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2),
                nn.ConvTranspose2d(2 * width, width, 2, stride=2),
            ]
        )
        self.up = nn.ModuleList([_double(4 * width, 2 * width), _double(2 * width, width)])
        self.head = nn.Conv2d(width, 4, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.normal_(self.head.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for i, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if i else x)
            kept.append(x)
        for grow, block, skip in zip(self.grow, self.up, kept[-2::-1], strict=True):
            x = block(torch.cat([skip, grow(x)], 1))
        out: Tensor = self.head(x)
        return out


def unet(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    x, _ = data.images(size.many(8), 32, size.seed)
    level = functional.avg_pool2d(x.mean(1), 5, stride=1, padding=2)
    masks = torch.bucketize(level, torch.tensor([-0.5, 0.0, 0.5]))
    return Specimen(UNet(size.wide(16)), (x, masks), cross_entropy)


class TimedBlock(nn.Module):
    """A residual block that knows the time; its second convolution starts at zero."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(4, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.time = nn.Linear(condition, width)
        self.norm2 = nn.GroupNorm(4, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        y = self.conv1(functional.silu(self.norm1(x)))
        y = y + self.time(functional.silu(condition)).view(*y.shape[:2], 1, 1)
        y = self.conv2(functional.silu(self.norm2(y)))
        return x + y


class DiffusionUNet(nn.Module):
    """A small U-Net that predicts noise; its output convolution starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.time = nn.Sequential(
            nn.Linear(16, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width)
        )
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.first = TimedBlock(width, 4 * width)
        self.shrink = nn.Conv2d(width, 2 * width, 3, 2, padding=1)
        self.middle = nn.ModuleList(TimedBlock(2 * width, 4 * width) for _ in range(3))
        self.grow = nn.Conv2d(2 * width, width, 3, padding=1)
        self.last = TimedBlock(2 * width, 4 * width)
        self.norm = nn.GroupNorm(4, 2 * width)
        self.out = nn.Conv2d(2 * width, 3, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, noisy: Tensor, time: Tensor, _labels: Tensor) -> Tensor:
        angles = time.view(-1, 1) * torch.logspace(0, 3, 8)
        condition = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        x = kept = self.first(self.stem(noisy), condition)
        x = self.shrink(x)
        for block in self.middle:
            x = block(x, condition)
        x = self.grow(functional.interpolate(x, scale_factor=2))
        x = self.last(torch.cat([x, kept], 1), condition)
        out: Tensor = self.out(functional.silu(self.norm(x)))
        return out


def diffusion_unet(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    model = DiffusionUNet(size.wide(16))
    batch = diffused(size.many(8), 32, size.seed)
    return Specimen(model, batch, functional.mse_loss, Stepper(rate=3e-4))


MODELS: dict[str, Builder] = {"unet": unet, "diffusion_unet": diffusion_unet}
