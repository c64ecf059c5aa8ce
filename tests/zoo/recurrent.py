"""Healthy recurrent models, and a linear recurrence."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from initstats import init_
from zoo import data
from zoo.specimens import Builder, Size, Specimen, Stepper


class Classifier(nn.Module):
    """A recurrence whose last state is classified."""

    def __init__(self, kind: type[nn.RNNBase], width: int, layers: int) -> None:
        super().__init__()
        self.rnn = kind(8, width, num_layers=layers, batch_first=True)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


def lstm(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    model = Classifier(nn.LSTM, size.wide(48), 2)
    init_(model, "lstm", seed=size.seed)
    return Specimen(model, data.waves(size.many(16), 24, size.seed), cross_entropy)


def gru(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    model = Classifier(nn.GRU, size.wide(48), 2)
    return Specimen(model, data.waves(size.many(16), 24, size.seed), cross_entropy)


class LanguageModel(nn.Module):
    """Embedding, recurrence, and scores for the next token at each place."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.rnn = nn.LSTM(width, width, num_layers=2, batch_first=True, dropout=0.2)
        self.decoder = nn.Linear(width, vocabulary)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        scores = self.decoder(self.rnn(self.embedding(tokens))[0])
        return cross_entropy(scores[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def lstm_language(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    model = LanguageModel(256, size.wide(64))
    return Specimen(model, data.text(size.many(8), 24, size.seed), optimizer=Stepper(rate=2e-3))


class LinearRecurrence(nn.Module):
    """A gated linear recurrence behind a norm, in the manner of a state-space block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.into = nn.Linear(width, 2 * width, bias=False)
        self.decay = nn.Parameter(torch.linspace(-2, 2, width))
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.into(self.norm(x)).chunk(2, dim=-1)
        keep = torch.exp(-softplus(self.decay))
        state, states = torch.zeros_like(value[:, 0]), []
        for step in value.unbind(1):
            state = keep * state + (1 - keep) * step
            states.append(state)
        mixed: Tensor = self.out(torch.stack(states, 1) * nn.functional.silu(gate))
        return x + mixed


class StateSpace(nn.Module):
    """Linear recurrences between an embedding and a head tied to it."""

    def __init__(self, vocabulary: int, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(LinearRecurrence(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embedding.weight
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        scores = self.head(self.norm(x))
        return cross_entropy(scores[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def state_space(size: Size) -> Specimen:
    torch.manual_seed(size.seed)
    model = StateSpace(256, size.wide(64), size.deep(4))
    return Specimen(model, data.text(size.many(8), 24, size.seed))


MODELS: dict[str, Builder] = {f.__name__: f for f in (lstm, gru, lstm_language, state_space)}
