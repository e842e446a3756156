"""Write the scores of a trained network on a folder of photographs as one file for the league.

python -m benchmarks.refiners.pack --model runs/camvid/seed0/network/model \
    --photographs CamVid/test --size 180 240 --output camvid_test.npz
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from crfrnn.data.masked_images import pictures_by_stem
from crfrnn.io.files import read_image, replacing
from crfrnn.io.progress import Progress
from crfrnn.models.checkpoint import Checkpoint, load_checkpoint


def scores_of(model: Checkpoint, path: Path, size: tuple[int, int] | None) -> np.ndarray:
    """The logits (C, h, w) in half precision before the CRF, of a photograph resized to `size`."""
    image = torch.from_numpy(np.ascontiguousarray(read_image(path))).permute(2, 0, 1)[None].float()
    if size is not None:
        image = nn.functional.interpolate(image, size, mode="bilinear", antialias=True)
    with torch.no_grad():
        logits = model.logits(image)[0][0]
    # Softmax ignores a constant per pixel, and half precision is finest near zero.
    half: np.ndarray = (logits - logits.amax(dim=0)).clamp_min(-1e4).half().numpy()
    return half


def main(options: list[str]) -> None:
    """Read the options and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--model", type=Path, required=True, metavar="DIR", help="a network that crfrnn train saved"
    )
    add("--photographs", type=Path, required=True, metavar="FOLDER")
    add("--size", type=int, nargs=2, metavar=("H", "W"), help="what the network sees; default: all")
    add("--output", type=Path, required=True, metavar="FILE")
    chosen = parser.parse_args(options)
    model = load_checkpoint(chosen.model)
    model.crf = None
    pictures = sorted(pictures_by_stem(chosen.photographs).items())
    size = None if chosen.size is None else (chosen.size[0], chosen.size[1])
    logits = []
    with Progress("segmenting", len(pictures), "photographs") as progress:
        for _, path in pictures:
            logits.append(scores_of(model, path, size))
            progress.advance()
    with replacing(chosen.output) as file:
        np.savez(file, ids=np.array([name for name, _ in pictures]), logits=np.stack(logits))


if __name__ == "__main__":
    main(sys.argv[1:])
