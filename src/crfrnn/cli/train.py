"""Train a network, the CRF on top of it, or both, as CONFIG.yaml describes.

Give the same command again to continue after an interruption; the result is the
same as without the interruption. For several GPUs or machines, start it with
torchrun:
  torchrun --nproc-per-node 4 -m crfrnn train CONFIG.yaml
The output folder holds model/ (for crfrnn evaluate and segment), steps.csv,
epochs.csv, train.yaml, and state.pt (for continuing).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ._config import add_set, read_set
from ._import import add_import, import_modules
from ._notes import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crfrnn train`."""
    add = parser.add_argument
    add("config", metavar="CONFIG.yaml", type=Path, help="its keys are in docs/guide/training.md")
    add("-o", "--output", metavar="DIR", help="folder to write to; overrides `output`")
    add("--seed", metavar="N", type=int, help="random seed; overrides `seed`")
    add("--device", metavar="NAME", help="cpu, cuda or cuda:1; overrides `device`")
    add_set(parser, "stages.0.epochs=3")
    add("--restart", action="store_true", help="start over instead of continuing")
    add_import(parser)
    add("--json", action="store_true", help="print the result as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run `crfrnn train`."""
    from crfrnn._extras import require_torch

    require_torch("crfrnn train")
    import torch

    from crfrnn.training import TrainConfig, train

    import_modules(args.imports)
    given = {"output": args.output, "seed": args.seed, "device": args.device}
    config = read_set(TrainConfig, args, given)
    trained = train(config, restart=args.restart)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if trained.rank:
        return 0
    record = {
        "model": str(trained.model),
        "steps": trained.steps,
        "loss": trained.loss if trained.loss == trained.loss else None,
        "mean_iou": {name: round(value, 3) for name, value in trained.scores.items()},
    }
    if args.json:
        tell(json.dumps(record, indent=2))
        return 0
    scores = ", ".join(f"{name} {value:.2f} %" for name, value in trained.scores.items())
    tell(
        f"{trained.model}: {trained.steps} steps, loss {trained.loss:.4f}"
        + (f"; mean IoU on the validation images: {scores}" if scores else "")
    )
    return 0
