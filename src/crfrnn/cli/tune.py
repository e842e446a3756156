r"""Search for the CRF's parameters on the scores of training images.

Bandwidths and weights are chosen on training images and written as a preset,
for crfrnn refine --preset FILE. The report compares before and after on
validation images, which the search does not use. Give the same command again to
continue after an interruption. For example
  crfrnn tune -o voc.json --set data.root=VOC2012 \
      --set data.scores.train=train.npz --set data.scores.val=val.npz
A file of scores holds `ids` (N,), 8-bit `logits` (N, h, w, C), `scale` and
`zero`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ._config import add_set, read_set
from ._import import add_import, import_modules
from ._notes import tell

if TYPE_CHECKING:
    from crfrnn.tuning import Tuned


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crfrnn tune`."""
    add = parser.add_argument
    add(
        "config",
        metavar="CONFIG.yaml",
        type=Path,
        nargs="?",
        help="its keys are in docs/guide/training.md",
    )
    add("-o", "--output", metavar="PRESET", help="the .json or .yaml to write; overrides `output`")
    add("--trials", metavar="N", type=int, help="parameter sets to try (default 60)")
    add("--images", metavar="N", type=int, help="training images to use (default 128)")
    add("--seed", metavar="N", type=int, help="random seed (default 0)")
    add_set(parser, "search.bilateral_color=[2,20]")
    add("--restart", action="store_true", help="start over instead of continuing")
    add_import(parser)
    add("--json", action="store_true", help="print the result as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run `crfrnn tune`."""
    from crfrnn.presets import describe_preset
    from crfrnn.training.settings import to_tree
    from crfrnn.tuning import TuneConfig, tune

    import_modules(args.imports)
    given = {
        "output": args.output,
        "search.trials": args.trials,
        "search.images": args.images,
        "search.seed": args.seed,
    }
    config = read_set(TuneConfig, args, given)
    tuned = tune(config, restart=args.restart)
    if args.json:
        tree = {"output": str(config.output), **to_tree(tuned)}
        tree["found"]["preset"] = describe_preset(tuned.found.preset)
        tell(json.dumps(tree, indent=2))
    else:
        tell(_text(tuned, config.output).rstrip())
    return 0


def _text(tuned: Tuned, output: Path) -> str:
    from crfrnn.tuning.gains import SCORE_TITLES

    best = tuned.found
    lines = [f"{output}: {', '.join(map(str, best.preset.kernels))}"]
    if best.start is not None and best.share == 0:
        lines.append(
            f"These are the parameters of the preset {best.start}: none was clearly better."
        )
    elif best.start is not None and best.share < 1:
        lines.append(
            f"They lie {best.share:.0%} of the way from the preset {best.start} to the best "
            "proposal, and score about as well on the training images."
        )
    gains = ", ".join(
        f"{SCORE_TITLES[name]} {best.before[name]:.2f} -> {best.after[name]:.2f}"
        for name in best.before
    )
    lines.append(
        f"training images: {gains} ({best.trials} trials, {best.stopped} of them stopped early)"
    )
    if tuned.held_out is None:
        return "\n".join([*lines, ""])
    for name, values in tuned.held_out.items():
        lines.append(
            f"validation images: {SCORE_TITLES[name]} {values['before']:.2f} -> "
            f"{values['after']:.2f} ({values['gain']:+.2f}, 95 % interval {values['low']:+.2f} to "
            f"{values['high']:+.2f}); the default preset gives {values['default']:.2f}"
        )
    if tuned.held_out["mean_iou"]["gain"] < 0:
        lines.append("The CRF makes the validation images WORSE. Do not use this preset.")
    return "\n".join([*lines, ""])
