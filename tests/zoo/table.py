"""The matrix of models, faults and findings, and the totals against the bars."""

from __future__ import annotations

import argparse
import time
from collections import Counter

import torch

from initstats.auditing import AuditReport
from zoo.generic import generic_faults
from zoo.healthy import HEALTHY
from zoo.injecting import Fault
from zoo.sick import SICK, TOP, infected
from zoo.specimens import Size

# What an audit could raise by a mistake of its own; the table goes on, the tests do not.
RAISED = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def described(report: AuditReport, most: int, *, why: bool) -> list[str]:
    """Return one line per finding: severity, rule, place, and the value against its limit."""
    return [
        f"{finding.severity[0].upper()} {finding.rule} @ {finding.where} "
        f"({finding.value:.3g} / {finding.threshold:.3g})" + (f": {finding.cause}" if why else "")
        for finding in report.findings[:most]
    ]


def healthy_table(names: list[str], size: Size, *, why: bool) -> None:
    """Print the findings of healthy models."""
    severities: Counter[str] = Counter()
    began = time.perf_counter()
    for name in names:
        try:
            report = HEALTHY[name](size).audited()
        except RAISED as error:
            print(f"{name:22} RAISED {error!r}", flush=True)
            severities["error"] += 1
            continue
        severities.update(finding.severity for finding in report.findings)
        losses = report.loss.values
        row = f"{name:22} loss {losses[0]:.3g} -> {losses[-1]:.3g}"
        print(row, *described(report, 9, why=why), sep="\n    ", flush=True)
    print(
        f"healthy, {size}: {len(names)} models, {severities['error']} errors (bar 0), "
        f"{severities['warning']} warnings (bar {len(names)}), "
        f"{time.perf_counter() - began:.0f} s",
        flush=True,
    )


def verdict(fault: Fault, report: AuditReport) -> tuple[str, bool]:
    """Say at which rank a fault is named, and whether that is high enough."""
    ranks = [i for i, f in enumerate(report.findings, 1) if fault.named_by(f)]
    if not ranks:
        return "MISSED", False
    return (f"rank {ranks[0]}", True) if ranks[0] <= TOP else (f"LATE {ranks[0]}", False)


def sick_table(faults: list[Fault], size: Size, *, missed: bool, why: bool) -> None:
    """Print the findings of sick models."""
    found = 0
    began = time.perf_counter()
    for fault in faults:
        try:
            report = infected(fault, size).audited()
        except RAISED as error:
            print(f"RAISED   {fault.model}: {fault.name}\n    {error!r}", flush=True)
            continue
        said, right = verdict(fault, report)
        found += right
        if right and missed:
            continue
        row = f"{said:8} {fault.model}: {fault.name}"
        lines = described(report, max(TOP, 6), why=why)
        if not right:
            lines.append(f"wanted {' '.join(fault.rules)} @ {' '.join(fault.places)}")
        print(row, *lines, sep="\n    ", flush=True)
    print(
        f"sick, {size}: {found} of {len(faults)} named in the first {TOP} "
        f"({100 * found / max(1, len(faults)):.1f} %, bar 95), {time.perf_counter() - began:.0f} s",
        flush=True,
    )


def generic_table(models: list[str], kinds: str, size: Size, *, why: bool) -> None:
    """Print what is missed of the faults that fit any model, and the share found by kind."""
    found: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    for model in models:
        for kind, fault in generic_faults(model, size).items():
            if kinds not in kind:
                continue
            tried[kind] += 1
            try:
                report = infected(fault, size).audited()
            except RAISED as error:
                print(f"RAISED   {model}: {kind}\n    {error!r}", flush=True)
                continue
            said, right = verdict(fault, report)
            found[kind] += right
            if not right:
                wanted = f"wanted {' '.join(fault.rules)} @ {' '.join(fault.places)}"
                lines = described(report, TOP, why=why)
                print(f"{said:8} {model}: {kind}", *lines, wanted, sep="\n    ", flush=True)
    for kind, count in tried.items():
        print(f"{kind:24} {found[kind]:3} of {count:3}")
    total = sum(tried.values())
    print(f"generic, {size}: {found.total()} of {total} ({100 * found.total() / total:.1f} %)")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="zoo", description=__doc__)
    parser.add_argument(
        "zoo", nargs="?", default="both", choices=["both", "healthy", "sick", "generic"]
    )
    parser.add_argument("--only", default="", help="part of the name of a model or a fault")
    parser.add_argument("--kind", default="", help="part of the kind of a generic fault")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--width", type=float, default=1.0, help="factor on the widths")
    parser.add_argument("--depth", type=float, default=1.0, help="factor on the depths")
    parser.add_argument("--batch", type=float, default=1.0, help="factor on the batch size")
    parser.add_argument("--missed", action="store_true", help="of the sick, only what is missed")
    parser.add_argument("--why", action="store_true", help="with the causes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for seed in given.seeds:
        size = Size(seed, given.width, given.depth, given.batch)
        if given.zoo == "generic":
            models = [name for name in HEALTHY if given.only in name]
            generic_table(models, given.kind, size, why=given.why)
            continue
        if given.zoo != "sick":
            healthy_table([name for name in HEALTHY if given.only in name], size, why=given.why)
        if given.zoo != "healthy":
            faults = [fault for fault in SICK if given.only in f"{fault.model}: {fault.name}"]
            sick_table(faults, size, missed=given.missed, why=given.why)
