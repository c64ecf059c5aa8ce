"""Models of reinforcement learning and of implicit and adversarial networks, as in their code."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CleanRLAgent(nn.Module):
    """CleanRL's agent for continuous actions: two networks and a log-std."""

    def __init__(self, observations: int = 32, width: int = 256, actions: int = 6) -> None:
        super().__init__()
        self.critic = network(observations, width, 1)
        self.actor_mean = network(observations, width, actions)
        self.actor_logstd = nn.Parameter(torch.zeros(1, actions))


class StablePolicy(nn.Module):
    """Stable-Baselines3's ActorCriticPolicy: features shared, heads of their own."""

    def __init__(self, observations: int = 32, width: int = 64, actions: int = 6) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(actions))
        self.mlp_extractor = nn.Module()
        self.mlp_extractor.policy_net = nn.Sequential(nn.Linear(observations, width), nn.Tanh())
        self.mlp_extractor.value_net = nn.Sequential(nn.Linear(observations, width), nn.Tanh())
        self.action_net = nn.Linear(width, actions)
        self.value_net = nn.Linear(width, 1)


class RecurrentAgent(nn.Module):
    """CleanRL's agent with an LSTM, smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 8, 4, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 64), nn.ReLU()
        )
        self.lstm = nn.LSTM(64, 32)
        self.actor = nn.Linear(32, 4)
        self.critic = nn.Linear(32, 1)


class Ddpg(nn.Module):
    """An actor and a critic of two hidden layers."""

    def __init__(self, observations: int = 17, actions: int = 6) -> None:
        super().__init__()
        self.actor = nn.ModuleDict(
            {
                "fc1": nn.Linear(observations, 256),
                "fc2": nn.Linear(256, 256),
                "fc_mu": nn.Linear(256, actions),
            }
        )
        self.critic = network(observations + actions, 256, 1)


class Dreamer(nn.Module):
    """The heads of a world model and of an agent, with an embedding of actions."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.actions = nn.Embedding(18, width)
        self.encoder = nn.Sequential(nn.Linear(64, width), nn.LayerNorm(width), nn.SiLU())
        self.reward = network(width, width, 255)
        self.policy = network(width, width, 18)
        self.value = network(width, width, 255)


class Sine(nn.Module):
    """sin(omega x)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * x)


def siren(width: int = 256) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2, width), Sine(), nn.Linear(width, width), Sine(), nn.Linear(width, 3)
    )


class HashGrid(nn.Module):
    """Two levels of a hash grid and a small network."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Embedding(512, 2) for _ in range(2))
        self.coarse_table = nn.Parameter(torch.empty(64, 2))
        self.net = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))


def dcgan() -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(64, 128, 4, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 3, 3),
    )


def network(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.Tanh(),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, outputs),
    )
