"""What a wheel must do where nothing else of the repository is: fill, measure, verify, audit.

Run by itself, in an environment with the wheel and torch: `python newcomer.py`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

import initstats


def main() -> None:
    """Use each part once, and print where the package was found."""
    assert torch.equal(
        initstats.kaiming_normal_(torch.empty(64, 64), seed=0),
        initstats.kaiming_normal_(torch.empty(64, 64), seed=0),
    )
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    initstats.init_(model, "mlp", seed=0)
    assert initstats.verify(model, "mlp").ok
    assert "0.weight" in str(initstats.stats(model))
    batch = torch.randn(32, 8), torch.randint(4, (32,))
    report = initstats.audit(model, batch, loss_fn=nn.functional.cross_entropy, steps=2)
    with tempfile.TemporaryDirectory() as folder:
        report.save(folder, plot=False)
        page = (Path(folder) / "index.html").read_text()
    assert "<style>" in page
    assert "<script>" in page
    assert "{{" not in page
    print(initstats.__file__)


if __name__ == "__main__":
    main()
