"""The matrix of models and findings."""

from __future__ import annotations

import argparse
import time
import traceback

import torch

from initstats.auditing import AuditReport
from zoo.healthy import HEALTHY
from zoo.specimens import Size


def described(report: AuditReport, most: int = 6) -> list[str]:
    """Return one line per finding, severity first."""
    return [
        f"{finding.severity[0].upper()} {finding.rule} @ {finding.where} "
        f"({finding.value:.3g} / {finding.threshold:.3g})"
        for finding in report.findings[:most]
    ]


def healthy_table(names: list[str], size: Size) -> None:
    """Print the findings of healthy models, and the totals against the bars."""
    errors = warnings = 0
    began = time.perf_counter()
    for name in names:
        start = time.perf_counter()
        try:
            report = HEALTHY[name](size).audited()
        except Exception:
            traceback.print_exc()
            print(f"{name:22} RAISED")
            errors += 1
            continue
        severities = [finding.severity for finding in report.findings]
        errors += severities.count("error")
        warnings += severities.count("warning")
        losses = report.loss.values
        took = time.perf_counter() - start
        print(
            f"{name:22} seed {size.seed} {took:5.1f} s  loss {losses[0]:.3g} -> {losses[-1]:.3g}",
            *described(report),
            sep="\n    ",
            flush=True,
        )
    seconds = time.perf_counter() - began
    print(
        f"healthy: {len(names)} models, {errors} errors (bar 0), {warnings} warnings "
        f"(bar {len(names)}), {seconds:.0f} s"
    )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="zoo")
    parser.add_argument("--only", default="", help="part of a name")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in HEALTHY if arguments.only in name]
    for seed in arguments.seeds:
        healthy_table(names, Size(seed=seed))
