"""Healthy convolutional models by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from initstats import init_
from zoo import data
from zoo.specimens import Builder, Size, Specimen, Stepper


class BasicBlock(nn.Module):
    """Two convolutions around which the input goes."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != width:
            convolution = nn.Conv2d(inputs, width, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        skip = x if self.downsample is None else self.downsample(x)
        summed: Tensor = self.relu(out + skip)
        return summed


class ResNet(nn.Module):
    """A ResNet-18 with the names of torchvision."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for i in range(4):
            inputs, own = width * 2 ** max(i - 1, 0), width * 2**i
            blocks = BasicBlock(inputs, own, 1 if i == 0 else 2), BasicBlock(own, own, 1)
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(4):
            x = self.get_submodule(f"layer{i + 1}")(x)
        out: Tensor = self.fc(self.avgpool(x).flatten(1))
        return out


def resnet18(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    model = ResNet(size.wide(32))
    init_(model, "resnet", seed=size.seed)
    batch = data.images(size.many(16), 64, size.seed)
    return Specimen(model, batch, cross_entropy, Stepper("sgd", 0.1))


def resnet18_zero(size: Size) -> Specimen:
    """The last norm of each branch multiplies by zero."""
    specimen = resnet18(size)
    for module in specimen.model.modules():
        if isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)
    return specimen


def vgg(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    layers: list[nn.Module] = []
    inputs = 3
    for factor in (1, 0, 2, 0, 4, 4, 0, 8, 8, 0):
        if factor == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        width = size.wide(16) * factor
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
    head = nn.Sequential(nn.Linear(4 * inputs, 128), nn.ReLU(), nn.Dropout(), nn.Linear(128, 10))
    model = nn.Sequential(nn.Sequential(*layers), nn.Flatten(), head)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)
    batch = data.images(size.many(16), 32, size.seed)
    return Specimen(model, batch, cross_entropy, Stepper("sgd", 0.05))


class Squeezed(nn.Module):
    """An inverted residual with a depthwise convolution and a squeeze-and-excite gate."""

    def __init__(self, inputs: int, width: int, stride: int, *, gate: bool) -> None:
        super().__init__()
        wide = 4 * inputs
        self.conv_pw = nn.Conv2d(inputs, wide, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv_dw = nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.gate = None
        if gate:
            narrow, again = nn.Conv2d(wide, inputs // 4, 1), nn.Conv2d(inputs // 4, wide, 1)
            self.gate = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), narrow, nn.SiLU(), again, nn.Sigmoid()
            )
        self.conv_pwl = nn.Conv2d(wide, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.residual = stride == 1 and inputs == width

    def forward(self, x: Tensor) -> Tensor:
        y = functional.silu(self.bn1(self.conv_pw(x)))
        y = functional.silu(self.bn2(self.conv_dw(y)))
        y = y if self.gate is None else y * self.gate(y)
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.residual else y


def _inverted(size: Size, *, gate: bool) -> nn.Sequential:
    a, b, c = size.wide(16), size.wide(32), size.wide(64)
    stem = nn.Sequential(nn.Conv2d(3, a, 3, 2, padding=1, bias=False), nn.BatchNorm2d(a), nn.SiLU())
    plan = [(a, a, 1), (a, b, 2), (b, b, 1), (b, c, 2), (c, c, 1), (c, c, 1)]
    blocks = nn.Sequential(*(Squeezed(*sizes, gate=gate) for sizes in plan))
    head = nn.Sequential(nn.Conv2d(c, 2 * c, 1, bias=False), nn.BatchNorm2d(2 * c), nn.SiLU())
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2))
    return nn.Sequential(stem, blocks, head, *pooled, nn.Linear(2 * c, 10))


def efficientnet(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    model = _inverted(size, gate=True)
    init_(model, "efficientnet", seed=size.seed)
    return Specimen(model, data.images(size.many(16), 32, size.seed), cross_entropy)


def mobilenet(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    model = _inverted(size, gate=False)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    batch = data.images(size.many(16), 32, size.seed)
    return Specimen(model, batch, cross_entropy, Stepper("sgd", 0.05))


def lenet(size: Size) -> Specimen:
    """As torch leaves it."""
    torch.manual_seed(size.seed)
    a, b = size.wide(16), size.wide(32)
    model = nn.Sequential(
        *(nn.Conv2d(3, a, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(64 * b, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    return Specimen(model, data.images(size.many(16), 32, size.seed), cross_entropy)


def discriminator(size: Size) -> Specimen:
    """A DCGAN: convolutions N(.02), norm weights N(1, .02), real against made-up images."""
    torch.manual_seed(size.seed)
    layers: list[nn.Module] = []
    inputs = 3
    for i in range(3):
        width = size.wide(32) * 2**i
        norm = nn.BatchNorm2d(width) if i else nn.Identity()
        layers += [nn.Conv2d(inputs, width, 4, 2, 1, bias=False), norm, nn.LeakyReLU(0.2)]
        inputs = width
    model = nn.Sequential(*layers, nn.Conv2d(inputs, 1, 4, bias=False), nn.Flatten(0))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
    x, _ = data.images(size.many(16), 32, size.seed)
    real = (torch.arange(len(x)) % 2).float()
    x[::2] = torch.tanh(torch.randn(x[::2].shape))
    return Specimen(
        model, (x, real), functional.binary_cross_entropy_with_logits, Stepper(rate=2e-4)
    )


MODELS: dict[str, Builder] = {
    f.__name__: f
    for f in (resnet18, resnet18_zero, vgg, efficientnet, mobilenet, lenet, discriminator)
}
