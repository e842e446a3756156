"""Measure what each part adds: five rows, each with several random seeds.

  network                    the network alone
  default                    + a CRF attached afterwards, default parameters
  tuned                      + a CRF attached afterwards, tuned on training
                             images
  crf                        + CRF-RNN, only its parameters trained
  joint                      CRF-RNN trained end to end, for as long as the
                             network alone
CONFIG.yaml describes the experiment. Each row is evaluated with several numbers
of mean-field steps, and reported with bootstrap intervals, time and memory. The
output folder holds report.md, report.json and report.png. Finished rows are
kept when the command is given again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ._config import add_set, read_set
from ._import import add_import, import_modules
from ._notes import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crfrnn ablate`."""
    add = parser.add_argument
    add("config", metavar="CONFIG.yaml", type=Path, help="its keys are in docs/guide/training.md")
    add("-o", "--output", metavar="DIR", help="folder to write to; overrides `output`")
    add("--seeds", metavar="N", type=int, nargs="+", help="random seeds; overrides `seeds`")
    add("--device", metavar="NAME", help="cpu, cuda or cuda:1; overrides `device`")
    add_set(parser, "joint.0.epochs=3")
    add_import(parser)
    add("--json", action="store_true", help="print the report as JSON instead of Markdown")


def run(args: argparse.Namespace) -> int:
    """Run `crfrnn ablate`."""
    from crfrnn._extras import require_torch

    require_torch("crfrnn ablate")
    from crfrnn.ablation import AblateConfig, ablate
    from crfrnn.ablation.report import PAGE

    import_modules(args.imports)
    given = {"output": args.output, "seeds": args.seeds, "device": args.device}
    config = read_set(AblateConfig, args, given)
    report = ablate(config)
    if args.json:
        tell(json.dumps(report, indent=2))
    else:
        tell((config.output / PAGE).read_text(encoding="utf-8").rstrip())
    return 0
