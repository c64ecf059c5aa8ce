"""Data of the demo: English text that ships with every CPython, as batches of word tokens."""

from __future__ import annotations

import re
from collections import Counter
from pydoc_data import topics

import torch
from torch import Tensor

_UNKNOWN = 0  # token of every word outside the vocabulary
_TOKEN = re.compile(r"[A-Za-z]+|[0-9]|[^\sA-Za-z0-9]")


def text() -> str:
    """Return the help topics of Python, about half a million characters of English."""
    return "\n".join(topics.topics[name] for name in sorted(topics.topics))


def tokens(vocabulary: int) -> Tensor:
    """Turn the text into word tokens.

    Words, digits and punctuation marks are numbered from 1 by falling frequency; the rest, beyond
    the vocabulary, becomes token 0.

    Args:
        vocabulary: Number of distinct tokens, >= 2.

    Returns:
        int64 `[n]`, n about 120,000, values in [0, vocabulary).
    """
    words = _TOKEN.findall(text())
    numbers = {word: i for i, (word, _) in enumerate(Counter(words).most_common(vocabulary - 1), 1)}
    return torch.tensor([numbers.get(word, _UNKNOWN) for word in words])


def batch(vocabulary: int, context: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Cut sequences out of the text at random places.

    Args:
        vocabulary: Number of distinct tokens, >= 2.
        context: Tokens per sequence, T >= 1.
        size: Number of sequences, B >= 1.
        seed: Seed of the places.

    Returns:
        Tokens and the tokens that follow them, both int64 `[B, T]`.

    Determinism: run_to_run. The text depends on the Python version.
    """
    stream = tokens(vocabulary)
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(stream) - context, (size,), generator=generator)
    rows = torch.stack([stream[start : start + context + 1] for start in starts.tolist()])
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
