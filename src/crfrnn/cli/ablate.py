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

from ._import import add_import, import_modules
from ._notes import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crfrnn ablate`."""
    add = parser.add_argument
    add("config", metavar="CONFIG.yaml", type=Path, help="its keys are in docs/guide/training.md")
    add("-o", "--output", metavar="DIR", help="folder to write to; overrides `output`")
    add("--seeds", metavar="N", type=int, nargs="+", help="random seeds; overrides `seeds`")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1 or mps; overrides `device`")
    add(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override any key, such as joint.0.epochs=3; may be repeated",
    )
    add_import(parser)
    add("--json", action="store_true", help="print the report as JSON instead of Markdown")


def run(args: argparse.Namespace) -> int:
    """Run `crfrnn ablate`."""
    from crfrnn._extras import require_torch

    require_torch("crfrnn ablate")
    from crfrnn.ablation import AblateConfig, ablate
    from crfrnn.ablation.report import PAGE
    from crfrnn.training import read_config

    import_modules(args.imports)
    given = {"output": args.output, "seeds": args.seeds, "device": args.device}
    flags = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    config = read_config(AblateConfig, args.config, [*args.set, *flags])
    report = ablate(config)
    if args.json:
        tell(json.dumps(report, indent=2))
    else:
        tell((config.output / PAGE).read_text(encoding="utf-8").rstrip())
    return 0
