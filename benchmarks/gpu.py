"""How fast is the Triton engine, and how close to the limit of the device's memory?

python -m benchmarks gpu                                  # all cases, on the first CUDA device
python -m benchmarks gpu --output gpu.json --quick        # no megapixel, no exact filter
python -m benchmarks gpu --photographs JPEGImages --scores scores.npz --canvas 513

Each case is first checked against the CPU, on a smaller picture if the CPU would take minutes. If
the results differ, the case is not timed; the program reports it and fails at the end.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from rich.console import Console
from rich.table import Table
from torch import Tensor

from crfrnn import CRFRNN, Bilateral, Gaussian, Lattice, refine, upsample
from crfrnn.crf.filters import ExactFilter, KernelFilter, build_filters
from crfrnn.crf.kernel import Scene
from crfrnn.crf.recipe import Recipe

from . import photographs

#: The kernels of the targets: 160 pixels and 3 of 255 gray levels; 3 pixels.
KERNELS = [Bilateral(160, 3, weight=5), Gaussian(3, weight=3)]

#: Number of photographs that the exact filter is timed on.
EXACT = 4


@dataclass(frozen=True)
class Row:
    """One measured case."""

    case: str
    milliseconds: float
    least: float
    per_image: float
    peak_megabytes: float
    target: str
    checked: str


@dataclass(frozen=True)
class Share:
    """One Triton kernel: the bytes it must move, the bytes it requests, and its time."""

    kernel: str
    microseconds: float
    launches: int
    compulsory_megabytes: float
    requested_megabytes: float
    share_of_copy: float


def picture(size: int, classes: int, batch: int) -> tuple[Tensor, Tensor]:
    """Draw smooth scores, and flat patches with noise: as many vertices as a photo, about."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(batch, classes, size // 25 + 1, size // 25 + 1, generator=generator)
    logits = torch.nn.functional.interpolate(4 * coarse, size=(size, size), mode="bilinear")
    patches = torch.rand(batch, 3, size // 20 + 1, size // 20 + 1, generator=generator) * 255
    image = torch.nn.functional.interpolate(patches, size=(size, size))
    image = image + 4 * torch.randn(image.shape, generator=generator)
    return logits, image.clamp(0, 255)


def inference(size: int, classes: int, batch: int, steps: int, **options: Any) -> Row:
    """Time whole calls of `refine`, which build the lattices, without pruning."""
    options = {"kernels": KERNELS, "iterations": steps, "prune": False, **options}
    exact, half = options.get("filter") == "exact", options.get("precision") == "half"
    small = min(size, 150 if exact else 250 if classes > 50 else size)
    checked = _same_labels(small, classes, options)
    if exact:
        logits, image = (tensor.cuda() for tensor in picture(size, 5, 1))
        checked += f", filter {_exact_error(image, logits):.0e} off"
    logits, image = (tensor.cuda() for tensor in picture(size, classes, batch))
    times, peak = _timed(lambda: refine(image, logits=logits, **options))
    name = "exact" if exact else "lattice, half storage" if half else "lattice"
    name += f" {size} x {size} x {classes}, T = {steps}"
    target = {(500, 1, False): "5", (500, 16, False): "2.5 per image", (500, 1, True): "100"}
    wanted = target.get((size, batch, exact), "") if classes == 21 and not half else "runs"
    return _row(f"{name}, batch {batch}", times, peak, batch, wanted, checked)


def training(size: int, classes: int, steps: int) -> Row:
    """Time forward and backward of the layer, which builds the lattice."""
    logits, image = picture(size, classes, 1)
    calls = {}
    for where in ("cpu", "cuda"):
        layer = CRFRNN(classes, KERNELS, iterations=steps).to(where)
        given, seen = logits.to(where).requires_grad_(), image.to(where)
        upstream = torch.linspace(-1, 1, logits.numel(), device=where).view(logits.shape)

        def call(
            layer: CRFRNN = layer,
            given: Tensor = given,
            seen: Tensor = seen,
            upstream: Tensor = upstream,
        ) -> tuple[Tensor, ...]:
            return torch.autograd.grad(layer(given, seen), (given, *layer.parameters()), upstream)

        calls[where] = call
    pairs = list(zip(calls["cpu"](), calls["cuda"](), strict=True))
    error = max(float((a - b.cpu()).norm() / a.norm()) for a, b in pairs)
    _require(error < 1e-3, f"gradients differ from the CPU's by {error:.1e}")
    times, peak = _timed(calls["cuda"])
    name = f"forward + backward {size} x {size} x {classes}, T = {steps}"
    return _row(name, times, peak, 1, "8", f"gradients to {error:.0e}")


def masks(count: int) -> Row:
    """Time whole calls of `refine` with independent masks, which share their lattice."""
    logits, image = picture(640, count, 1)
    logits, image = logits[0, :, :480].contiguous(), image[0, :, :480].contiguous()

    def call(masks: Tensor, image: Tensor) -> Tensor:
        return refine(image, masks=masks, kernels=KERNELS, iterations=10).probs

    given, seen = logits.sigmoid(), image.cuda()
    error = float((call(given[:5], image) - call(given[:5].cuda(), seen).cpu()).abs().max())
    _require(error < 1e-3, f"probabilities differ from the CPU's by {error:.1e}")
    given = given.cuda()
    times, peak = _timed(lambda: call(given, seen))
    name = f"{count} masks 640 x 480, T = 10"
    return _row(name, times, peak, 1, "", f"probabilities to {error:.0e}")


def upsampling(coarse: int, size: int, channels: int) -> Row:
    """Time whole calls of `upsample`."""
    image = picture(size, 1, 1)[1][0]
    values = torch.randn(channels, coarse, coarse, generator=torch.Generator().manual_seed(1))
    few = slice(0, min(channels, 21))
    here, there = upsample(values[few], image), upsample(values[few].cuda(), image.cuda())
    error = float((here - there.cpu()).abs().max())
    _require(error < 1e-3, f"values differ from the CPU's by {error:.1e}")
    given, seen = values.cuda(), image.cuda()
    times, peak = _timed(lambda: upsample(given, seen))
    name = f"upsample {coarse} x {coarse} x {channels} to {size} x {size}"
    return _row(name, times, peak, 1, "", f"values to {error:.0e}")


def kernels(size: int, classes: int, bandwidth: float) -> list[Share]:
    """Time the Triton kernels of one step, each in a CUDA graph, against a plain copy."""
    from crfrnn.ops import Model
    from crfrnn.ops.triton import convolution, inference, lattice_build, packing, splat
    from crfrnn.ops.triton.launch import padded_width, pieces

    logits, image = (tensor.cuda() for tensor in picture(size, classes, 1))
    prepared = CRFRNN(classes, KERNELS).cuda().eval().prepare(image)
    terms = [kernel.term for kernel in prepared.filters]
    arrays = prepared.filters[0].gaussian.arrays
    n, width, corners = size * size, padded_width(classes), arrays.vertex.shape[2]
    vertices, entries = arrays.neighbor.shape[1], size * size * corners
    q = logits.flatten(2).softmax(1).transpose(1, 2)
    q = torch.nn.functional.pad(q, (0, width - classes)).contiguous()
    weights = torch.ones(2, classes, device="cuda")
    model = Model(weights, (size, size), terms, "triton")
    steps = inference._Steps(q, classes, model, False, None)
    blur = steps.filters[0].blur
    grid = convolution.Grid((size, size), terms[1].arrays)
    features = torch.rand(1, n, corners - 1, device="cuda") * 3
    packed = packing.pack(features)
    flat, z = logits.flatten(2).contiguous(), torch.empty_like(logits.flatten(2))
    fused, message = steps.messages(q)
    row, table = width * 4, vertices * width * 4
    # Rows of values that a pass of the separable filter loads per row of its result.
    tall, deep = convolution._ROWS, convolution._DEPTH
    fetched = sum(pieces(tall + b.shape[1] - 1, deep) * deep / tall for b in terms[1].arrays)
    present = int((arrays.neighbor > 0).sum())

    def update() -> None:
        steps.update(fused, flat, z, q, q, write=False, last=False, message=message)

    # Name, launches per call, the call, bytes compulsory, bytes requested.
    cases: list[tuple[str, int, Callable[[], Any], float, float]] = [
        (
            "splat",
            2,
            lambda: splat.splat(q, width, arrays, blur.plan, blur.tables[0]),
            8 * entries + 4 * vertices + n * row + table,
            8 * entries + 4 * vertices + entries * row + table,
        ),
        (
            "blur, all axes",
            corners,
            lambda: blur.spread(False),
            corners * (2 * table + 8 * vertices),
            corners * (2 * table + 8 * vertices) + present * row,
        ),
        (
            "separable, both axes",
            2,
            lambda: grid.run(q, steps.message, weights=steps.weights[1]),
            4 * n * row,
            (fetched + 2) * n * row,
        ),
        (
            "slice + mix + unary + softmax",
            1,
            update,
            8 * entries + table + n * (2 * row + 4 * classes),
            8 * entries + entries * row + n * (2 * row + 4 * classes),
        ),
        (
            "embed",
            1,
            lambda: lattice_build.embed(features, packed),
            n * 4 * (corners - 1) + 12 * entries,
            n * 4 * (corners - 1) + 12 * entries,
        ),
    ]  # fmt: skip
    shares = []
    for name, launches, call, compulsory, requested in cases:
        seconds = _graphed(call)
        shares.append(
            Share(
                name,
                seconds * 1e6,
                launches,
                compulsory / 1e6,
                requested / 1e6,
                compulsory / seconds / bandwidth,
            )
        )
    return shares


def parts(size: int, classes: int) -> dict[str, float]:
    """Time the parts of a call in milliseconds: until the device is idle, host, device."""
    from crfrnn.core.inference import Options
    from crfrnn.ops import Model
    from crfrnn.ops import triton as engine

    logits, image = (tensor.cuda() for tensor in picture(size, classes, 1))
    points = _bilateral_points(image)

    def filters() -> list[KernelFilter]:
        return build_filters(Recipe(tuple(KERNELS)), Scene(logits, image))

    terms = [kernel.term for kernel in filters()]
    flat, weights = logits.flatten(2), torch.ones(2, classes, device="cuda")
    model = Model(weights, (size, size), terms, "triton")

    def recurrence() -> Any:
        return engine.mean_field(flat, model, Options(10))

    times = {
        "lattice alone": _timed(lambda: Lattice(points), budget=0.3)[0],
        "all filters": _timed(filters, budget=0.3)[0],
        "recurrence, T = 10": _timed(recurrence, budget=0.3)[0],
        "all but filters and recurrence": _timed(
            lambda: refine(image, logits=logits, kernels=KERNELS, iterations=0), budget=0.3
        )[0],
    }
    launching = []
    for _ in range(20):
        torch.cuda.synchronize()
        start = time.perf_counter()
        recurrence()
        launching.append(time.perf_counter() - start)
    times["recurrence, the host alone"] = launching
    times["recurrence, the device alone"] = [_graphed(recurrence, repeats=2)]
    return {name: 1e3 * statistics.median(seconds) for name, seconds in times.items()}


def exact_tiles(points: Tensor) -> dict[str, float]:
    """Time an exact filter of 24 channels over points (N D), and its preparation."""
    from crfrnn.ops import exact_tolerance
    from crfrnn.ops.triton import gaussian_sum, ordering

    features = points[None].contiguous()
    tile = gaussian_sum.TILE[features.dtype]

    def arranged() -> ordering.Tiles:
        return ordering.arrange(features, exact_tolerance(features.dtype), tile)

    times, _ = _timed(arranged)
    tiles = arranged()
    values = torch.rand(1, len(points), 24, device=points.device)
    out = torch.empty_like(values)
    seconds = _graphed(lambda: gaussian_sum.run(values, tiles, None, out), repeats=3)
    return {
        "milliseconds": 1e3 * seconds,
        "order_milliseconds": 1e3 * statistics.median(times),
        "kept": len(tiles.near) / (len(tiles.begin) - 1) ** 2,
    }


def copy_bandwidth() -> float:
    """Measure bytes per second of a plain copy of 1 GiB, read and written."""
    source = torch.zeros(1 << 28, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / _graphed(lambda: target.copy_(source))


def _same_labels(size: int, classes: int, options: dict[str, Any]) -> str:
    logits, image = picture(size, classes, 1)
    here = refine(image, logits=logits, **options)
    there = refine(image.cuda(), logits=logits.cuda(), **options)
    _require(there.engine == "triton", f"expected the engine triton; got {there.engine}")
    share = float((here.labels == there.labels.cpu()).float().mean())
    _require(share >= 0.999, f"only {share:.2%} of labels are equal to the CPU's")
    difference = float((here.probs - there.probs.cpu()).abs().max())
    at = "" if size >= 500 else f" at {size} x {size}"
    return f"labels {share:.2%}, probabilities to {difference:.0e}{at}"


def _exact_error(image: Tensor, logits: Tensor) -> float:
    """Return the error of the normalized exact filter, against float64 sums at 300 pixels."""
    points = _bilateral_points(image)[None]
    values = logits.flatten(2).softmax(1).transpose(1, 2).contiguous()
    exact = ExactFilter(points).filter
    ours = exact(values) / exact(torch.ones_like(values[..., :1]))
    generator = torch.Generator().manual_seed(1)
    chosen = torch.randperm(points.shape[1], generator=generator)[:300].cuda()
    kernel = torch.exp(-0.5 * torch.cdist(points[0, chosen].double(), points[0].double()) ** 2)
    expected = kernel @ values[0].double() / kernel.sum(1, keepdim=True)
    error = float((ours[0, chosen] - expected).abs().max())
    _require(error <= 1e-4, f"the error of the exact filter must be at most 1e-4; got {error:.1e}")
    return error


def _timed(
    call: Callable[[], Any], least: int = 5, budget: float = 1.0
) -> tuple[list[float], float]:
    """Time whole calls until the device is idle; measure their peak memory above that before."""
    for _ in range(3):  # compiles, and fills the allocator's cache
        call()
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < least or (time.perf_counter() - begun < budget and len(times) < 50):
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return times, (torch.cuda.max_memory_allocated() - held) / 1e6


def _graphed(call: Callable[[], Any], repeats: int = 20) -> float:
    """Time a call on the device alone: many calls in a CUDA graph, so that no launch waits."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            call()
    times = []
    for _ in range(5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / repeats)
    return statistics.median(times)


def _row(case: str, times: list[float], peak: float, batch: int, target: str, checked: str) -> Row:
    middle = 1e3 * statistics.median(times)
    return Row(case, middle, 1e3 * min(times), middle / batch, peak, target, checked)


class CheckFailed(Exception):
    """The result of a case differs from the CPU's."""


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CheckFailed(otherwise)


def real(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Time `refine` on the device for each photograph, and compare with the CPU."""
    rows = []
    for name, image, logits in photographs.read(chosen):
        here = refine(image, logits=logits, kernels=KERNELS, iterations=10)
        seen, given = image.cuda(), logits.cuda()

        def call(filter: str, seen: Tensor = seen, given: Tensor = given) -> Any:
            return refine(seen, logits=given, kernels=KERNELS, iterations=10, filter=filter)

        same = float((call("lattice").labels.cpu() == here.labels).float().mean())
        points = _bilateral_points(seen)
        row: dict[str, Any] = {
            "name": name,
            "size": list(image.shape[2:]),
            "vertices_per_pixel": Lattice(points).vertices / len(points),
            "lattice_milliseconds": 1e3
            * statistics.median(_timed(lambda: call("lattice"), budget=0.15)[0]),
            "labels_equal": same,
        }
        if len(rows) < EXACT:
            row["exact_error"] = _exact_error(seen, given)
            row["exact"] = exact_tiles(points)
            row["exact_milliseconds"] = 1e3 * statistics.median(_timed(lambda: call("exact"))[0])
        rows.append(row)
    return rows


def _print(device: str, rows: list[Row], shares: list[Share], bandwidth: float) -> None:
    console = Console(width=150)
    title = f"Triton engine on {device}, medians, 160 / 3 and 3 pixels"
    table = Table(title=title, title_justify="left")
    for column in ("case", "ms", "least", "ms per image", "peak MB", "target ms", "checked"):
        table.add_column(column, justify="left" if column in ("case", "checked") else "right")
    for row in rows:
        table.add_row(
            row.case,
            f"{row.milliseconds:.2f}",
            f"{row.least:.2f}",
            f"{row.per_image:.2f}",
            f"{row.peak_megabytes:.0f}",
            row.target,
            row.checked,
        )
    console.print(table)
    title = f"One step, 500 x 500 x 21, beside a copy at {bandwidth / 1e12:.2f} TB/s"
    table = Table(title=title, title_justify="left")
    for column in ("kernel", "µs", "launches", "must move MB", "requests MB", "share of copy"):
        table.add_column(column, justify="left" if column == "kernel" else "right")
    for share in shares:
        table.add_row(
            share.kernel,
            f"{share.microseconds:.1f}",
            str(share.launches),
            f"{share.compulsory_megabytes:.1f}",
            f"{share.requested_megabytes:.1f}",
            f"{share.share_of_copy:.0%}",
        )
    console.print(table)


def main(options: list[str]) -> None:
    """Check, time and print all cases; write the numbers as JSON if asked."""
    parser = argparse.ArgumentParser(prog="gpu", description=__doc__)
    parser.add_argument("--output", metavar="FILE", help="write the numbers as JSON")
    parser.add_argument(
        "--quick", action="store_true", help="leave out the megapixel picture and the exact filter"
    )
    photographs.add_options(parser)
    chosen = parser.parse_args(options)
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA device; torch sees none")
    device = torch.cuda.get_device_name()
    bandwidth = copy_bandwidth()
    cases: list[Callable[[], Row]] = [
        lambda: inference(500, 21, 1, 10),
        lambda: inference(500, 21, 16, 10),
        lambda: inference(500, 21, 1, 10, precision="half"),
        lambda: training(500, 21, 5),
        lambda: masks(100),
        lambda: upsampling(64, 1024, 21),
        lambda: upsampling(64, 1024, 384),
    ]
    if not chosen.quick:
        cases.append(lambda: inference(500, 21, 1, 10, filter="exact"))
        cases.append(lambda: inference(1000, 150, 1, 10))
    facts: dict[str, Any] = {
        "device": device,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "copy_bytes_per_second": bandwidth,
        "cases": [],
        "failed": [],
    }

    def attempt(name: str, case: Callable[[], Any]) -> Any:
        try:
            result = case()
        except (CheckFailed, RuntimeError, ValueError) as error:
            facts["failed"].append(f"{name}: {error}")
            result = None
        if chosen.output:  # what was measured so far survives a crash
            _write(Path(chosen.output), json.dumps(facts, indent=2) + "\n")
        return result

    rows = []
    for number, case in enumerate(cases):
        row = attempt(f"case {number + 1}", case)
        if row is not None:
            rows.append(row)
            facts["cases"].append(asdict(row))
    shares = attempt("kernels", lambda: kernels(500, 21, bandwidth)) or []
    facts["kernels"] = [asdict(share) for share in shares]
    _print(device, rows, shares, bandwidth)
    facts["parts_milliseconds"] = attempt("parts", lambda: parts(500, 21)) or {}
    for name, milliseconds in facts["parts_milliseconds"].items():
        sys.stdout.write(f"{name}: {milliseconds:.2f} ms\n")
    points = _bilateral_points(picture(500, 1, 1)[1].cuda())
    facts["vertices_per_pixel"] = Lattice(points).vertices / len(points)
    sys.stdout.write(f"{facts['vertices_per_pixel']:.2f} vertices per pixel at 160 / 3\n")
    tiles = attempt("exact tiles", lambda: exact_tiles(points))
    if tiles:
        facts["exact"] = tiles
        sys.stdout.write(
            f"exact filter of 24 channels: {tiles['milliseconds']:.1f} ms on the device, "
            f"{tiles['kept']:.1%} of tile pairs, ordered in {tiles['order_milliseconds']:.1f} ms\n"
        )
    if chosen.photographs:
        facts["photographs"] = attempt("photographs", lambda: real(chosen)) or []
        _print_real(facts["photographs"])
    if chosen.output:
        _write(Path(chosen.output), json.dumps(facts, indent=2) + "\n")
    if facts["failed"]:
        raise SystemExit("failed: " + "; ".join(facts["failed"]))


def _print_real(rows: list[dict[str, Any]]) -> None:
    for key in ("lattice", "exact"):
        times = [row[f"{key}_milliseconds"] for row in rows if f"{key}_milliseconds" in row]
        if times:
            sys.stdout.write(
                f"{len(times)} photographs, {key}: median {statistics.median(times):.2f} ms, "
                f"{min(times):.2f} to {max(times):.2f}\n"
            )
    for row in rows:
        if "exact" in row:
            sys.stdout.write(
                f"  {row['name']}: {row['exact_milliseconds']:.1f} ms, a filter "
                f"{row['exact']['milliseconds']:.2f} ms, {row['exact']['kept']:.1%} of tile pairs, "
                f"ordered in {row['exact']['order_milliseconds']:.1f} ms, "
                f"{row['exact_error']:.0e} off\n"
            )
    if rows:
        same = [row["labels_equal"] for row in rows]
        sys.stdout.write(f"at least {min(same):.3%} of labels are equal to the CPU's\n")


def _bilateral_points(image: Tensor) -> Tensor:
    """Points (N 5) of the bilateral kernel for one image (1 3 H W)."""
    return KERNELS[0].points(Scene(image, image, ()))[0]


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    main(sys.argv[1:])
