"""Source of a training project, written to a folder by tests of `initstats audit`."""

PROJECT = """
import torch
from torch import nn
from torch.nn import functional

WIDTH = 32


class Net(nn.Module):
    def __init__(self, gain=1.0):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.head = nn.Linear(WIDTH, 8)
        with torch.no_grad():
            for layer in self.layers:
                nn.init.xavier_normal_(layer.weight, gain=gain)
                layer.bias.zero_()

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


def build_model():
    return Net()


def build_sick():
    return Net(gain=100.0)


def build_with_seed(seed):
    assert seed == torch.initial_seed()
    return Net()


def build_with_more(width):
    return Net()


def build_wide(width):
    layers = nn.Linear(WIDTH, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
    return nn.Sequential(*layers, nn.Linear(width, 8))


def build_nothing():
    pass


class Raises(Net):
    def forward(self, x):
        x = self.layers[0](x)
        raise ArithmeticError("no such thing")


def make_batch(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(64, WIDTH, generator=generator), torch.randint(8, (64,), generator=generator)


def make_nothing():
    pass


def make_loader():
    return iter([1, 2])


def make_optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def loss_fn(output, target):
    return functional.cross_entropy(output, target)


model = Net()
batch = make_batch(0)
number = 3
"""

SICK_ON_IMPORT = """
import not_there_at_all
"""
