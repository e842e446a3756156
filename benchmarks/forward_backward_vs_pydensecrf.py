"""How long do forward and backward of the layer take, next to pydensecrf's forward alone?

500 x 500 pixels, 21 classes, bilateral 160/3 with weight 5, spatial 3 with weight 3, symmetric. The
layer runs with T = 5 and builds the lattice each time. Its calls alternate with whole forward calls
of pydensecrf2 (one thread) with T = 5 and T = 10. The labels of both are compared first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.refine_vs_pydensecrf import inputs, theirs_on
from benchmarks.timing import in_turn, save_json, table
from crfrnn import CRFRNN

KERNELS = ((160, 3, 5), (3, 3))  # those of CRFRNN by default
CONTEXT = (
    "For context: forward + backward of crfasrnn_pytorch with T = 5 took 2.55 s for such a picture "
    "on another machine with two cores; it is not timed here.\n"
)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="forward_backward_vs_pydensecrf", description=__doc__)
    parser.add_argument("--size", type=int, default=500, help="height and width, at most 500")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, torch.get_num_threads()])
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the times of all calls")
    options = parser.parse_args(arguments)
    image, logits = inputs()
    image = np.ascontiguousarray(image[: options.size, : options.size])
    logits = np.ascontiguousarray(logits[:, : options.size, : options.size])
    rows = []
    for threads in dict.fromkeys(options.threads):
        torch.set_num_threads(threads)
        forward, both = layer_on(image, logits, iterations=5)
        equal = float(np.mean(forward() == theirs_on(image, logits, 5, *KERNELS)()))
        if equal < 0.99:
            raise SystemExit(f"only {equal:.2%} of the labels agree, so nothing is timed")
        for iterations in (5, 10):
            pairs = in_turn(both, theirs_on(image, logits, iterations, *KERNELS), options.pairs)
            name = f"{threads} thread(s), next to their forward T = {iterations}"
            rows.append((name, pairs, f"{equal:.3%} of labels equal"))
    size = f"{image.shape[0]} x {image.shape[1]} x {len(logits)}"
    table(f"forward + backward T = 5, {size}, and pydensecrf2's forward", rows)
    sys.stdout.write(CONTEXT)
    save_json(options.json, rows)


def layer_on(
    image: np.ndarray, logits: np.ndarray, iterations: int
) -> tuple[Callable[[], np.ndarray], Callable[[], Any]]:
    """Return calls: forward to labels, and forward with backward to scores and parameters."""
    layer = CRFRNN(len(logits), iterations=iterations)
    scores = torch.from_numpy(logits)[None].requires_grad_()
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    upstream = torch.randn(scores.shape, generator=torch.Generator().manual_seed(0))
    wanted = (scores, *layer.parameters())
    return (
        lambda: layer(scores, pixels)[0].argmax(0).numpy(),
        lambda: torch.autograd.grad(layer(scores, pixels), wanted, upstream),
    )


if __name__ == "__main__":
    main()
