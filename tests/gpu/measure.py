"""What a GPU must show first: equal bits, bandwidth, launches, synchronisations.

    python tests/gpu/measure.py OUT.json [--device cuda] [--seconds 100] [--log2 28]

Every case stands alone: one that raises is reported and the next one runs; results are rewritten
after each. Times are medians of CUDA events around one call. Before each sample the L2 cache is
flushed by reading (writing would leave dirty lines that the timed kernel has to evict), and the
device is kept busy until the host has launched everything, so that its time is not counted. The
share is of the bandwidth that zero_ (fills), sum (statistics) or copy_ reached in the same run on
the same number of bytes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import torch

if module := os.environ.get("INITSTATS_MEASURED_MODULE"):  # another build than the installed one
    spec = importlib.util.spec_from_file_location("initstats._C", module)
    sys.modules["initstats._C"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["initstats._C"])

import initstats as ist
from initstats._ops import build_info
from initstats.init._distributions import DISTRIBUTIONS

parser = argparse.ArgumentParser()
parser.add_argument("output")
parser.add_argument("--device", default="cuda")
parser.add_argument("--seconds", type=float, default=100)
parser.add_argument(
    "--log2", type=int, default=28, help="elements of the large tensors, as a power of two"
)
parser.add_argument("--only", default="", help="only cases whose name contains this")
args = parser.parse_args()
dev = torch.device(args.device)
gpu = dev.type == "cuda"
began = time.perf_counter()
rows: list[dict] = []
where = {
    "torch": torch.__version__,
    "device": torch.cuda.get_device_name() if gpu else "cpu",
    "doctor": {k: str(v) for k, v in build_info().items()},
}
if gpu:
    p = torch.cuda.get_device_properties(0)
    where |= {
        "sms": p.multi_processor_count,
        "l2": p.L2_cache_size,
        "memory": p.total_memory,
        "driver_cuda": torch.version.cuda,
    }
flush = (
    torch.zeros(where["l2"] // 2, dtype=torch.float32, device=dev) if gpu else None
)  # twice the cache


def save() -> None:
    Path(args.output).write_text(json.dumps({"where": where, "rows": rows}, indent=1))


def seconds(call, most=15, budget=1.5) -> float:
    """Median seconds of one call."""
    call(), call()
    samples = []
    start = time.perf_counter()
    while len(samples) < 3 or (len(samples) < most and time.perf_counter() - start < budget):
        if gpu:
            flush.sum()
            torch.cuda._sleep(400_000)  # cycles: 0.2 ms, in which the host launches the rest
            a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            a.record()
            call()
            b.record()
            b.synchronize()
            samples.append(a.elapsed_time(b) / 1e3)
        else:
            t = time.perf_counter()
            call()
            samples.append(time.perf_counter() - t)
    return statistics.median(samples)


def host_seconds(call, n=7) -> float:
    """Median seconds until one call returns, with nothing before it on the device."""
    samples = []
    for _ in range(n):
        if gpu:
            torch.cuda.synchronize()
        t = time.perf_counter()
        call()
        samples.append(time.perf_counter() - t)
    return statistics.median(samples)


def row(name: str, **figures) -> None:
    rows.append({"name": name, **figures})
    print(
        f"{name:<46}",
        "  ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items()
        ),
        flush=True,
    )
    save()


def case(name: str, body) -> None:
    if args.only and args.only not in name:
        return
    if time.perf_counter() - began > args.seconds:
        row(name, left_out="out of time")
        return
    try:
        body()
    except Exception as error:  # noqa: BLE001  # the next case must run
        row(name, error=f"{type(error).__name__}: {str(error)[:300]}")
        traceback.print_exc(limit=4)
        if gpu and "CUDA" in str(error):
            try:
                torch.cuda.synchronize()
            except Exception:  # noqa: BLE001
                row("device", error="sticky error, cannot go on")
                save()
                sys.exit(1)


N = 1 << args.log2
x32 = torch.empty(N, device=dev)
x16 = torch.empty(N, device=dev, dtype=torch.bfloat16)
floor: dict[tuple[str, int], float] = {}


def bandwidth(kind: str, nbytes: int) -> float:
    """Bytes a second of the plain operation on so many bytes."""
    if (kind, nbytes) not in floor:
        t = x32.view(torch.uint8)[:nbytes].view(torch.float32)
        other = torch.empty_like(t) if kind == "copy" else None
        call = {"fill": t.zero_, "read": lambda: torch.sum(t), "copy": lambda: other.copy_(t)}[kind]
        floor[kind, nbytes] = nbytes * (2 if kind == "copy" else 1) / seconds(call)
        row(f"floor {kind} {nbytes >> 20} MiB", gb_s=floor[kind, nbytes] / 1e9)
    return floor[kind, nbytes]


def fill(name, dtype, ours, theirs):
    def body():
        t = x32 if dtype == torch.float32 else x16
        best = bandwidth("fill", t.nbytes)
        a = seconds(lambda: ours(t))
        b = seconds(lambda: theirs(t), most=5)
        row(name, gb_s=t.nbytes / a / 1e9, share=t.nbytes / a / best, torch_ratio=b / a)

    case(name, body)


init = torch.nn.init
SMALL = [0, 1, 3, 4, 5, 1000, 4096, 4097, 70001, 1 << 20]


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
FILLS = {family.name: getattr(ist, family.name) for family in DISTRIBUTIONS} | {
    "tail": lambda t, **k: ist.trunc_normal_(t, 0.0, 1.0, 5.0, math.inf, **k),
    "narrow": lambda t, **k: ist.trunc_normal_(t, 0.0, 1.0, 1.0, 1.25, **k),
}
OTHER_FILLS = {
    "sparse_": lambda t: ist.sparse_(t.view(300, 200), 0.3, seed=3),
    "dirac_": lambda t: ist.dirac_(t.view(60, 40, 5, 5), 2),
    "eye_": lambda t: ist.eye_(t.view(300, 200)),
    "orthogonal_": lambda t: ist.orthogonal_(t[:57600].view(30, 64, 30), batch_dims=1, seed=3),
    "foreach_normal_": lambda t: ist.foreach_normal_(list(t.view(300, -1)), seed=3),
}


def differing_fills(dtype):
    """Yield what has other bits than on the CPU."""
    for name, f in FILLS.items():
        for n in SMALL:
            a = f(torch.empty(n + 1, dtype=dtype, device=dev)[1:], seed=1, name="w").cpu()
            b = f(torch.empty(n, dtype=dtype), seed=1, name="w")
            if not torch.equal(a, b):
                yield f"{name} {dtype} {n}: {int((a != b).sum())}"
        a = f(torch.empty(65, 1033, dtype=dtype, device=dev).t(), seed=2).cpu()
        if not torch.equal(a, f(torch.empty(1033, 65, dtype=dtype), seed=2)):
            yield f"{name} {dtype} transposed"
    for name, f in OTHER_FILLS.items():
        a, b = torch.zeros(60000, dtype=dtype, device=dev), torch.zeros(60000, dtype=dtype)
        f(a), f(b)
        if not torch.equal(a.cpu(), b):
            yield f"{name} {dtype}"


def equal_bits():
    bad = [each for dtype in FLOATS for each in differing_fills(dtype)]
    row("fills: bits equal to the CPU's", differing=len(bad), first=str(bad[:3]))


def differing_records(dtype):
    """Yield the kinds of statistics that are others than on the CPU."""
    ts = [(torch.randn(n) * 3).to(dtype) for n in SMALL]
    ts += [(torch.randn(65, 1033) * 3).to(dtype).t(), (torch.randn(9000) * 3).to(dtype)[1:]]
    if dtype in FLOATS:
        ts[5][::7] = float("nan")
        ts[6][3] = float("inf")
        ts[7][5] = -float("inf")
    on_device = [t.to(dev) for t in ts]
    on_device[-1] = (torch.randn(9000) * 3).to(dtype).to(dev)[1:].copy_(ts[-1])  # off 16 bytes
    for scale in (0, 2):
        a = ist.stats(on_device, fingerprint=True, scale=scale)
        b = ist.stats(ts, fingerprint=True, scale=scale)
        for k in b:
            if str(a[k].to_dict()) != str(b[k].to_dict()):
                yield f"{dtype} scale {scale} tensor {k}"
    matrix = (torch.randn(70, 4100) * 3).to(dtype)
    for dim in (0, 1):
        a, b = (ist.stats(t, dim=dim) for t in (matrix.to(dev), matrix))
        if not (torch.equal(a.mean.cpu(), b.mean) and torch.equal(a.std.cpu(), b.std)):
            yield f"{dtype} dim={dim}"
    if dtype in FLOATS:
        x, y = ts[9], ts[9].flip(0).contiguous()
        a, b = (ist.stats(i, minus=j) for i, j in ((x.to(dev), y.to(dev)), (x, y)))
        if str(a.to_dict()) != str(b.to_dict()):
            yield f"{dtype} minus"


def equal_records():
    bad = [each for dtype in (*FLOATS, *INTEGERS, *FP8) for each in differing_records(dtype)]
    row("statistics: records equal to the CPU's", differing=len(bad), first=str(bad[:3]))


def orthogonal_error():
    sizes = [(64, 64), (128, 100), (256, 256), (512, 512), (1000, 300), (300, 1000)]
    for n, m in [*sizes, (1024, 1024), (2048, 2048), (4096, 4096)] if gpu else sizes:
        q = ist.orthogonal_(torch.empty(n, m, device=dev), seed=1).double()
        c = ist.orthogonal_(torch.empty(n, m), seed=1).double()
        g = q.T @ q if n >= m else q @ q.T
        row(
            f"orthogonal_ {n}x{m}",
            error=float((g - torch.eye(min(n, m), device=dev)).norm() / min(n, m) ** 0.5),
            against_cpu=float((q.cpu() - c).abs().max()),
        )


def risky():
    """What an emulator cannot show; each line names what is at stake."""

    def tf32():
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            q = ist.orthogonal_(torch.empty(1024, 1024, device=dev), seed=1).double()
        finally:
            torch.set_float32_matmul_precision(before)
        return {"error": float((q.T @ q - torch.eye(1024, device=dev)).norm() / 32)}

    def autocast():
        with torch.autocast(dev.type, torch.bfloat16):
            q = ist.orthogonal_(torch.empty(512, 512, device=dev), seed=1).double()
            b = ist.orthogonal_block_(
                torch.empty(64, 512, device=dev), (64, 0), (512, 512), seed=1
            ).double()
        return {
            "error": float((q.T @ q - torch.eye(512, device=dev)).norm() / 512**0.5),
            "block": float((b - q[64:128]).abs().max()),
        }

    def huge():
        t = torch.empty((1 << 31) + 5 if gpu else 70005, dtype=torch.bfloat16, device=dev)
        ist.normal_(t, seed=4, name="w")
        a = ist.stats(t, fingerprint=True)
        b = ist.normal_(torch.empty(t.shape, dtype=t.dtype), seed=4, name="w")
        return {
            "count": int(a.count),
            "tail_equal": bool(torch.equal(t[-70000:].cpu(), b[-70000:])),
            "record_equal": str(a.to_dict()) == str(ist.stats(b, fingerprint=True).to_dict()),
        }

    def offsets():
        bad = 0
        for shift in range(1, 8):
            for dtype in (torch.float32, torch.bfloat16, torch.uint8):
                t = (torch.randn(70000) * 3).to(dtype)
                g = torch.empty(70000 + 8, dtype=dtype, device=dev)[shift : 70000 + shift]
                g.copy_(t)
                bad += str(ist.stats(g, fingerprint=True).to_dict()) != str(
                    ist.stats(t, fingerprint=True).to_dict()
                )
        return {"differing": bad}

    for name, f in (
        ("TF32 allowed: orthogonal_", tf32),
        ("autocast: orthogonal_", autocast),
        ("more than 2^31 elements", huge),
        ("views off 16 bytes", offsets),
    ):
        try:
            row(name, **f())
        except Exception as error:  # noqa: BLE001, PERF203  # the next one must run
            row(name, error=f"{type(error).__name__}: {str(error)[:200]}")


def no_sync():
    if not gpu:
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        t = torch.empty(1 << 20, device=dev)
        ist.uniform_(t)
        ist.normal_(t)
        ist.trunc_normal_(t)
        ist.orthogonal_(t.view(1024, 1024))
        ist.orthogonal_(t[:65536].view(16, 64, 64), batch_dims=1)
        s = ist.stats([t, t[:100]], fingerprint=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    row("no host sync in fills, orthogonal_, stats", mean=float(next(iter(s.values())).mean))


def captured(body):
    """Capture a call and return what replays it; on a CPU, where nothing is captured, the call."""
    if not gpu:
        return body
    made = torch.cuda.CUDAGraph()
    with torch.cuda.graph(made):  # capture_error_mode="global"
        body()
    return made.replay


def graph():
    t = torch.zeros(1 << 20, device=dev)
    records = []

    def body():
        ist.normal_(t, seed=1)
        records.append(ist.stats(t))

    with_stream(body)
    replay = captured(body)
    t.zero_()
    replay()
    row(
        "fill and stats in a CUDA graph",
        std=float(records[-1].std),
        equal=bool(torch.equal(t.cpu(), ist.normal_(torch.empty(1 << 20), seed=1))),
    )


def with_stream(body):
    """Call on a stream of its own, and wait for it."""
    if not gpu:
        return body()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = body()
    stream.synchronize()
    return result


def side_stream():
    t = torch.empty(1 << (24 if gpu else 12), device=dev)
    bad = 0
    for i in range(20):

        def body(seed=i):
            ist.normal_(t, seed=seed)
            return ist.stats(t, fingerprint=True)

        bad += with_stream(body).fingerprint != ist.stats(t, fingerprint=True).fingerprint
    row("on a stream of one's own", differing=bad)


def first_calls_in_captures():
    """The first call of each op in a process, inside a capture; all processes at once."""
    from captures import NAMES

    script = str(Path(__file__).with_name("captures.py"))
    processes = {
        name: subprocess.Popen(
            [sys.executable, script, name, dev.type],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in NAMES
    }
    for name, process in processes.items():
        try:
            said = process.communicate(timeout=60)[0].strip().splitlines() or ["nothing"]
        except subprocess.TimeoutExpired:
            process.kill()
            said = ["took more than 60 seconds"]
        row(f"first call in a capture: {name}", said=said[-1][:300])


def events_in_captures():
    """A capture while the monitor's reader waits for rows: no thread may ask CUDA for an event."""
    model = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(4))).to(dev)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, total = torch.randn(64, 256, device=dev), torch.zeros(1024, device=dev)
    kept = Keeping()
    with ist.Monitor(model, optimizer=optimizer, every=1, sinks=[kept]) as monitor:
        for _ in range(20):
            for _ in range(5):
                optimizer.zero_grad()
                model(x).square().mean().backward()
                optimizer.step()
                monitor.step()
            captured(lambda: [total.add_(1) for _ in range(200)])()
    row("captures while rows are read", rows=kept.rows, total=float(total[0]), expected=4000)


class Keeping:
    """A sink that counts rows."""

    rows = 0

    def write(self, _row):
        self.rows += 1


case("fills: bits equal to the CPU's", equal_bits)
case("statistics: records equal to the CPU's", equal_records)
case("orthogonal_: error", orthogonal_error)
case("risky", risky)
case("no_sync", no_sync)
case("graph", graph)
case("side_stream", side_stream)
case("first calls in captures", first_calls_in_captures)
case("captures while rows are read", events_in_captures)
case("copy", lambda: bandwidth("copy", x32.nbytes // 2))
TAGS = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
for dtype, tag in TAGS.items():
    fill(f"uniform_ {tag}", dtype, ist.uniform_, init.uniform_)
    fill(f"normal_ {tag}", dtype, ist.normal_, init.normal_)
    fill(f"trunc_normal_ {tag}", dtype, ist.trunc_normal_, init.trunc_normal_)


def statistics_of(tag, t, **groups):
    def body():
        best = bandwidth("read", t.nbytes)
        a = seconds(lambda: ist.stats(t, **groups))
        row(f"stats {tag}", gb_s=t.nbytes / a / 1e9, share=t.nbytes / a / best)

    case(f"stats {tag}", body)


ist.normal_(x32, seed=0)
x16.copy_(x32)
for tag, t in (("float32", x32), ("bfloat16", x16)):
    statistics_of(f"moments {tag}", t, histogram=False)
    statistics_of(f"moments + histogram {tag}", t)
    statistics_of(f"all groups {tag}", t, fingerprint=True)


def other_fills():
    """The other types and distributions, on a quarter of the elements."""
    for dtype in FLOATS:
        t = torch.empty(N // 4, device=dev, dtype=dtype)
        best = bandwidth("fill", t.nbytes)
        for name, f in FILLS.items():
            if f"{name} {TAGS.get(dtype)}" in {each["name"] for each in rows}:
                continue
            a = seconds(partial(f, t), most=5)
            row(f"{name} {dtype}, a quarter", gb_s=t.nbytes / a / 1e9, share=t.nbytes / a / best)


def other_loads():
    """Types and layouts that leave the wide path."""
    n = N // 4
    half = x32[:n].clone()
    half[::2] = 0
    for tag, t, k in (
        ("float32, half zeros", half, {"histogram": False}),
        ("bfloat16, half zeros", half.bfloat16(), {"histogram": False}),
        ("float16", x32[:n].half(), {}),
        ("float8_e4m3fn", x32[:n].to(torch.float8_e4m3fn), {}),
        ("float8_e5m2", x32[:n].to(torch.float8_e5m2), {}),
        ("int8", (x32[:n] * 20).to(torch.int8), {}),
        ("int16", (x32[:n] * 5000).to(torch.int16), {}),
        ("int32", (x32[:n] * 1e8).to(torch.int32), {}),
        ("int64", (x32[:n] * 1e8).to(torch.int64), {}),
        ("float64", x32[:n].double(), {}),
        ("float32 off 16 bytes", x32[1 : n + 1], {}),
        ("float32 transposed", x32[:n].view(1 << 10, -1).t(), {}),
        ("float32 units dim=0", x32[:n].view(-1, 4096), {"dim": 0}),
        ("float32 rows dim=1", x32[:n].view(-1, 4096), {"dim": 1}),
    ):
        best = bandwidth("read", t.numel() * t.element_size())
        a = seconds(partial(ist.stats, t, **k), most=5)
        row(
            f"stats {tag}",
            gb_s=t.numel() * t.element_size() / a / 1e9,
            share=t.numel() * t.element_size() / a / best,
        )
    w = torch.empty(4096, 4096, device=dev) if gpu else torch.empty(256, 256)
    a = seconds(lambda: ist.sparse_(w, 0.9), most=5)
    row("sparse_", ms=a * 1e3, gb_s=w.nbytes / a / 1e9)
    w = torch.empty(512, 512, 3, 3, device=dev)
    a = seconds(lambda: ist.dirac_(w), most=5)
    row("dirac_", ms=a * 1e3, gb_s=w.nbytes / a / 1e9)


case("other_loads", other_loads)
case("other_fills", other_fills)


def llama_list():
    """The parameters of a Llama of 1.2 B: 16 layers of width 2048, vocabulary cut to 32000."""
    shapes = (
        [(32000, 2048)]
        + [
            s
            for _ in range(16)
            for s in (
                (2048, 2048),
                (512, 2048),
                (512, 2048),
                (2048, 2048),
                (8192, 2048),
                (8192, 2048),
                (2048, 8192),
                (2048,),
                (2048,),
            )
        ]
        + [(2048,)]
    )
    if not gpu:
        shapes = [tuple(max(1, d // 32) for d in s) for s in shapes]
    ts = [torch.empty(s, device=dev, dtype=torch.bfloat16) for s in shapes]
    nbytes = sum(t.nbytes for t in ts)
    best = bandwidth("fill", min(nbytes // 4 * 4, x32.nbytes))
    read = bandwidth("read", min(nbytes // 4 * 4, x32.nbytes))

    def loop():
        return [init.normal_(t, 0.0, 0.02) for t in ts]

    a = seconds(lambda: ist.foreach_normal_(ts, 0.0, 0.02))
    b = seconds(loop)
    row(
        "foreach_normal_ Llama list bf16",
        tensors=len(ts),
        ms=a * 1e3,
        share=nbytes / a / best,
        torch_loop_ratio=b / a,
    )
    a = seconds(lambda: ist.foreach_trunc_normal_(ts, 0.0, 0.02))
    b = seconds(lambda: [init.trunc_normal_(t, 0.0, 0.02) for t in ts], most=3)
    row(
        "foreach_trunc_normal_ Llama list bf16",
        ms=a * 1e3,
        share=nbytes / a / best,
        torch_loop_ratio=b / a,
    )
    a = seconds(lambda: ist.stats(ts))
    b = seconds(lambda: torch._foreach_norm(ts))
    row("stats Llama list bf16", ms=a * 1e3, share=nbytes / a / read, foreach_norm_ratio=b / a)
    a = seconds(lambda: ist.stats(ts, histogram=False))
    row("stats Llama list bf16, moments", ms=a * 1e3, share=nbytes / a / read)
    small = [torch.ones(64, device=dev) for _ in range(1000)]
    t0 = time.perf_counter()
    ist.stats(small)
    host = time.perf_counter() - t0
    row(
        "stats 1000 x 64",
        us_per_tensor=seconds(lambda: ist.stats(small)) * 1e3,
        host_us_per_tensor=host * 1e3,
    )


def orthogonal_speed():
    for n in (256, 512, 1024, 2048, 4096, 8192) if gpu else (128, 256):
        w = torch.empty(n, n, device=dev)
        m = torch.empty(n, n, device=dev).normal_()
        a = seconds(partial(ist.orthogonal_, w), most=5)
        b = seconds(partial(init.orthogonal_, w), most=3) if n <= 4096 else float("nan")
        c = seconds(partial(torch.mm, m, m), most=5)
        row(
            f"orthogonal_ {n}x{n}",
            ms=a * 1e3,
            torch_ratio=b / a,
            of_mm_rate=(4 / 3) / 2 * c / a,
            host_ms=host_seconds(partial(ist.orthogonal_, w)) * 1e3,
        )
    h = torch.empty(96, 64, 64, device=dev)
    a = seconds(lambda: ist.orthogonal_(h, batch_dims=1))
    b = seconds(lambda: [init.orthogonal_(t) for t in h], most=3)
    row("orthogonal_ 96 x 64x64", ms=a * 1e3, torch_loop_ratio=b / a)
    h = torch.empty(512, 128, 128, device=dev)
    a = seconds(lambda: ist.orthogonal_(h, batch_dims=1))
    row("orthogonal_ 512 x 128x128", ms=a * 1e3)
    for count, n in ((16, 256), (12, 512), (8, 1024), (4, 2048)) if gpu else ((3, 132),):
        batch = torch.empty(count, n, n, device=dev)
        tensors = [torch.empty(n, n, device=dev) for _ in range(count)]
        torch_s = seconds(lambda ts=tensors: [init.orthogonal_(t) for t in ts], most=3)
        for what, call in (
            ("a batch", partial(ist.orthogonal_, batch, batch_dims=1)),
            ("a list", partial(ist.orthogonal_, tensors)),
        ):
            a = seconds(call, most=5)
            row(
                f"orthogonal_ {count} x {n}x{n}, {what}",
                ms=a * 1e3,
                torch_loop_ratio=torch_s / a,
                host_ms=host_seconds(call) * 1e3,
            )
    n = 2048 if gpu else 256
    w = torch.empty(n, n, device=dev, dtype=torch.bfloat16)
    row(f"orthogonal_ bfloat16 {n}x{n}", ms=seconds(partial(ist.orthogonal_, w), most=5) * 1e3)


def launches():
    t = torch.empty(64, device=dev)
    for name, ours, theirs in (
        ("normal_", ist.normal_, init.normal_),
        ("trunc_normal_", ist.trunc_normal_, init.trunc_normal_),
        ("stats", ist.stats, lambda t: (t.mean(), t.std())),
    ):
        for who, f in (("ours", ours), ("torch", theirs)):
            f(t)
            if gpu:
                torch.cuda.synchronize()
            t0 = time.perf_counter()
            for _ in range(300):
                f(t)
            if gpu:
                torch.cuda.synchronize()
            row(f"one small call, {name}, {who}", us=(time.perf_counter() - t0) / 300 * 1e6)


case("launches", launches)
case("llama_list", llama_list)
case("orthogonal_speed", orthogonal_speed)


def training_of_a_gpt():
    """A GPT of about 350 M parameters in bfloat16; a tiny one on a CPU."""
    import dataclasses

    import benchmarks.bench_monitor as bench

    sizes = (28, 1024, 16, 16) if gpu else (2, 64, 2, 2)
    names = ("layers", "width", "heads", "batch")
    bench.CONFIG = dataclasses.replace(bench.CONFIG, **dict(zip(names, sizes, strict=True)))
    training = bench.Training(dev)
    training.model.to(torch.bfloat16)
    return training


def steps(training, after=lambda: None, n=12):
    """Median seconds of a step, and the most memory that it took."""
    training.step(after)
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    ts = []
    for _ in range(n):
        t0 = time.perf_counter()
        training.step(after)
        if gpu:
            torch.cuda.synchronize()
        ts.append(time.perf_counter() - t0)
    return statistics.median(ts), torch.cuda.max_memory_allocated() if gpu else 0


def without_synchronising(training, m, n=4):
    """Whether monitored steps ask the host to wait for the device; the error that says so."""
    if not gpu:
        return "not on a GPU"
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(n):
            training.step(m.step)
    except RuntimeError as error:
        return str(error)[:200]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "none"


def monitor():
    training = training_of_a_gpt()
    everything = ("weights", "gradients", "activations", "updates")
    memory = where.get("memory", 1 << 33)
    plain, plain_bytes = steps(training)
    row(
        "plain step",
        parameters=sum(p.numel() for p in training.model.parameters()),
        step_ms=plain * 1e3,
        peak_mb=plain_bytes / 1e6,
    )
    for what, settings in (
        ("everything", {"every": 1}),
        ("weights + gradients", {"every": 1, "watch": ("weights", "gradients")}),
        ("everything, every=100", {"every": 100}),
        ("held_bytes of 1/1024 of the memory", {"every": 1, "held_bytes": memory >> 10}),
        ("held_bytes of 1/64 of the memory", {"every": 1, "held_bytes": memory >> 6}),
    ):
        with ist.Monitor(
            training.model,
            optimizer=training.optimizer,
            sinks=[],
            **({"watch": everything} | settings),
        ) as m:
            t, most = steps(training, m.step)
            waits = without_synchronising(training, m)
        again, _ = steps(training)
        row(
            f"monitor {what}",
            step_ms=t * 1e3,
            plain_ms=plain * 1e3,
            plain_again_ms=again * 1e3,
            times=t / min(plain, again),
            more_mb=(most - plain_bytes) / 1e6,
            synchronises=waits,
        )


case("monitor", monitor)
row("done", seconds=time.perf_counter() - began)
failed = [each["name"] for each in rows if isinstance(each.get("error"), str)]
sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
