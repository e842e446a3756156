"""What does the fused backward save against plain autograd, and what do learned bandwidths cost?

Times, and peak memory of the two backward passes.

python -m benchmarks layer_forward_backward                  # 500 x 500 pixels, 21 classes
python -m benchmarks layer_forward_backward --size 250 --steps 1,5,10
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import torch
from torch import Tensor

from benchmarks import memory
from benchmarks.timing import in_turn, table
from crfrnn import CRFRNN, mean_field


class Case:
    """A layer with inputs and filters, and forward with backward of each kind."""

    def __init__(self, size: int, classes: int, steps: int) -> None:
        """Draw smooth scores and a picture of patches with noise; build the lattice."""
        generator = torch.Generator().manual_seed(0)
        coarse = torch.randn(1, classes, size // 25 + 1, size // 25 + 1, generator=generator)
        scores = torch.nn.functional.interpolate(4 * coarse, size=(size, size), mode="bilinear")
        self.logits = scores.requires_grad_()
        patches = torch.rand(1, 3, size // 20 + 1, size // 20 + 1, generator=generator) * 255
        image = torch.nn.functional.interpolate(patches, size=(size, size))  # flat patches
        image = image + 4 * torch.randn(image.shape, generator=generator)
        self.layer = CRFRNN(classes, iterations=steps)
        self.learning = CRFRNN(classes, iterations=steps, learn_bandwidths=True)
        self.steps = steps
        self.upstream = torch.randn(scores.shape, generator=generator) / scores.numel()
        self.image = image.clamp(0, 255)
        self.prepared = self.layer.prepare(self.image)

    def fused(self) -> tuple[Tensor, ...]:
        """Forward and backward of the layer."""
        return self._backward(self.layer(self.logits, self.prepared), self.layer)

    def plain(self) -> tuple[Tensor, ...]:
        """Forward and backward of the recurrence in plain PyTorch, with the same filters."""
        layer, filters = self.layer, self.prepared.filters
        z = mean_field(-self.logits, filters, layer.kernel_weights, layer.penalty(), self.steps)
        return self._backward(z, layer)

    def fixed(self) -> tuple[Tensor, ...]:
        """Filters, forward and backward of the layer."""
        return self._backward(self.layer(self.logits, self.image), self.layer)

    def learned(self) -> tuple[Tensor, ...]:
        """The same with learned bandwidths."""
        return self._backward(self.learning(self.logits, self.image), self.learning)

    def _backward(self, z: Tensor, layer: CRFRNN) -> tuple[Tensor, ...]:
        wanted = (self.logits, *layer.parameters())
        return torch.autograd.grad(z, wanted, self.upstream)

    def agreement(self) -> float:
        """Return the largest relative difference of a gradient."""
        pairs = zip(self.fused(), self.plain(), strict=True)
        return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def peak_megabytes(size: int, classes: int, steps: int, kind: str) -> float:
    """Peak memory of forward and backward above inputs and lattice, in a fresh process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.layer_forward_backward",
        json.dumps([size, classes, steps, kind]),
    ]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


def _measure(size: int, classes: int, steps: int, kind: str) -> float:
    """Return the peak that Linux reports for this process, from a reset to the end."""
    call = getattr(Case(size, classes, steps), kind)
    getattr(Case(50, classes, 1), kind)()  # what is allocated only once
    return memory.peak_megabytes(call)


def main(options: list[str]) -> None:
    """Print times, then peaks."""
    parser = argparse.ArgumentParser(prog="layer_forward_backward", description=__doc__)
    parser.add_argument("--size", type=int, default=500)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--steps", default="5,10", help="comma-separated numbers of steps")
    parser.add_argument("--pairs", type=int, default=3)
    chosen = parser.parse_args(options)
    size, classes = chosen.size, chosen.classes
    every = [int(steps) for steps in chosen.steps.split(",")]
    rows, learned, notes = [], [], []
    for steps in every:
        case = Case(size, classes, steps)
        check = f"gradients to {case.agreement():.0e}"
        rows.append((f"T = {steps}", in_turn(case.fused, case.plain, chosen.pairs), check))
        learned.append((f"T = {steps}", in_turn(case.fixed, case.learned, chosen.pairs), ""))
        if memory.can_measure():
            ours, theirs = (peak_megabytes(size, classes, steps, k) for k in ("fused", "plain"))
            notes.append(
                f"T = {steps}: peak {ours:.0f} MB fused, {theirs:.0f} MB plain, "
                f"{theirs / ours:.1f}x"
            )
    table(f"forward + backward, {size} x {size} x {classes}, fused against plain", rows)
    title = f"the same with the filters, {size} x {size} x {classes}, bandwidths fixed or learned"
    table(title, learned, ("fixed [s]", "learned [s]"))
    sys.stdout.write("\n".join(notes) + "\n")


if __name__ == "__main__":
    sys.stdout.write(str(_measure(*json.loads(sys.argv[1]))))
