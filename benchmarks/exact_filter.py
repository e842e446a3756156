"""How long does one exact bilateral message take, and how far is it from the dense sum?

Bandwidths 160/3, 500 x 500 pixels, 21 classes. Pairs of pixels with a kernel value below 3e-5 are
left out; many small values add up, and a limit of 1e-4 would leave an error of 4e-4. The error is
that of the normalized message at random pixels, against the sum over all pixels in float64.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import in_turn, save_json, table
from crfrnn import ops
from crfrnn.bench import picture

POSITION, COLOR = 160.0, 3.0
CHECKED_PIXELS = 200


def main(arguments: list[str] | None = None) -> None:
    """Time one thread and all threads in turn, and print a table."""
    parser = argparse.ArgumentParser(prog="exact_filter", description=__doc__)
    parser.add_argument("--size", type=int, default=500)
    parser.add_argument(
        "--tolerance",
        type=float,
        default=3e-5,
        help="kernel value below which a pair of pixels is left out",
    )
    parser.add_argument(
        "--error", type=float, default=1e-4, help="largest error allowed of the message"
    )
    parser.add_argument("--threads", type=int, default=max(2, torch.get_num_threads()))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the times of all calls")
    options = parser.parse_args(arguments)
    engine = ops.resolve_engine(None, torch.device("cpu"), torch.float32)
    features, q = inputs(options.size)

    def message(threads: int, values: Tensor = q) -> Tensor:
        torch.set_num_threads(threads)
        return ops.exact(values[None], features[None], options.tolerance, engine)[0]

    error = largest_error(features, q, message(1), message(1, torch.ones(len(q), 1)))
    if error > options.error:
        raise SystemExit(
            f"the error must be at most {options.error:g}; got {error:.1e}, so nothing is timed. "
            f"Lower --tolerance, now {options.tolerance:g}, to leave out fewer pairs."
        )
    pairs = in_turn(lambda: message(options.threads), lambda: message(1), options.pairs)
    rows = [(f"{q.shape[1]} classes", pairs, f"{error:.1e} from the dense sum")]
    title = (
        f"one exact message, {options.size} x {options.size}, {POSITION:g}/{COLOR:g}, tolerance "
        f"{options.tolerance:g}, engine {engine}"
    )
    names = (f"{options.threads} threads [s]", "1 thread [s]")
    table(title, rows, names)
    save_json(options.json, rows, names)


def inputs(size: int) -> tuple[Tensor, Tensor]:
    """Features (N, 5), divided by the bandwidths, and marginals (N, C)."""
    given = picture(size)
    axis = torch.arange(size, dtype=torch.float32)
    where = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1) / POSITION
    color = torch.from_numpy(given.image).float() / COLOR
    features = torch.cat([where, color], dim=-1).reshape(size * size, 5)
    q = torch.from_numpy(given.logits).flatten(1).softmax(0).T
    return features.contiguous(), q.contiguous()


def largest_error(features: Tensor, q: Tensor, message: Tensor, norm: Tensor) -> float:
    """Largest difference of a normalized message from the dense float64 sum at random pixels."""
    generator = torch.Generator().manual_seed(0)
    points, values = features.double(), q.double()
    errors = []
    for i in torch.randperm(len(q), generator=generator)[:CHECKED_PIXELS]:
        kernel = (-0.5 * (points - points[i]).square().sum(1)).exp()
        dense = kernel @ values / kernel.sum()
        errors.append(float((message[i].double() / norm[i].double() - dense).abs().max()))
    return max(errors)


if __name__ == "__main__":
    main()
