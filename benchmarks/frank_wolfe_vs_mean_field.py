"""What does a Frank-Wolfe step cost beside mean field's?

Processor time on one thread, of the layer on a photograph with prepared filters. Both run in turn.

python -m benchmarks frank_wolfe_vs_mean_field    # 500 x 500 pixels, 21 classes
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch

from benchmarks.layer_forward_backward import Case
from benchmarks.timing import Pairs, Row, table
from crfrnn import CRFRNN, Step
from crfrnn.core.threads import limited_threads

_NAMES = ("mean field [s]", "Frank-Wolfe [s]")

#: l2 as for inference, as for training, and with smaller steps; entropy likewise.
_STEPS = [
    Step("l2"),
    Step("l2", mix=0.5),
    Step("l2", size=0.5),
    Step("entropy", strength=0.7),
    Step("entropy", size=0.5),
]


def main(options: list[str]) -> None:
    """Print a table of the forward pass, and one of forward and backward."""
    parser = argparse.ArgumentParser(prog="frank_wolfe_vs_mean_field", description=__doc__)
    parser.add_argument("--size", type=int, default=500)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--pairs", type=int, default=9)
    chosen = parser.parse_args(options)
    case = Case(chosen.size, chosen.classes, 5)
    logits = case.logits.detach()
    plain = CRFRNN(chosen.classes, learn_compatibility=False)

    def forward(layer: CRFRNN) -> None:
        with torch.no_grad():
            layer.eval()(logits, case.prepared)

    def both(layer: CRFRNN) -> None:
        wanted = (case.logits, *layer.parameters())
        z = layer.train()(case.logits, case.prepared)
        torch.autograd.grad(z, wanted, case.upstream)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with limited_threads(1):
        for name, run in (("forward, T = 10", forward), ("forward + backward, T = 5", both)):
            rows = list(_rows(plain, run, chosen.pairs))
            size = f"{chosen.size} x {chosen.size} x {chosen.classes}"
            table(f"{name}, {size}, processor time of one thread", rows, _NAMES)
    torch.set_num_threads(threads)


def _rows(plain: CRFRNN, run: Callable[[CRFRNN], None], pairs: int) -> Iterator[Row]:
    for step in _STEPS:
        stepped = CRFRNN(plain.num_classes, learn_compatibility=False, step=step)
        run(plain)
        run(stepped)
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(pairs):
            for layer, seconds in zip((plain, stepped), times, strict=True):
                start = time.process_time()
                run(layer)
                seconds.append(time.process_time() - start)
        yield (
            f"{step.regularizer}, λ {step.strength:g}, α {step.size:g}, mix {step.mix:g}",
            Pairs(*times),
            "",
        )
