"""Real photographs with a real network's scores, for the benchmarks that use them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from crfrnn.io.files import read_image
from crfrnn.io.options import ReadOptions
from crfrnn.io.score_pack import read_pack
from crfrnn.io.scores import interpret_scores


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that name photographs and scores."""
    parser.add_argument(
        "--photographs", type=Path, metavar="FOLDER", help="folder of JPEG photographs"
    )
    parser.add_argument(
        "--scores", type=Path, metavar="FILE", help="their scores: an .npz with ids and logits"
    )
    parser.add_argument(
        "--canvas", type=int, metavar="PIXELS", help="side of the padded canvas of the scores"
    )
    parser.add_argument("--limit", type=int, default=24, help="photographs to use (default: 24)")


def read(chosen: argparse.Namespace) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield name, image (1 3 H W) and logits (1 C H W) of each photograph with scores."""
    pack = read_pack(chosen.scores)
    names = [name for name in pack.names if (chosen.photographs / f"{name}.jpg").is_file()]
    if not names:
        raise SystemExit(
            f"{chosen.photographs}: no photograph has scores in {chosen.scores}; files must be "
            "called <id>.jpg"
        )
    canvas = None if chosen.canvas is None else (chosen.canvas, chosen.canvas)
    reading = ReadOptions(canvas=canvas, align_corners=canvas is not None)
    for name in names[: chosen.limit]:
        image = read_image(chosen.photographs / f"{name}.jpg")
        size = image.shape[:2]
        scores = interpret_scores(pack.arrays(name), chosen.scores, size, reading)
        logits = torch.from_numpy(scores.values)
        assert logits.shape[1:] == size, (logits.shape, size)
        picture = torch.from_numpy(image).permute(2, 0, 1).float()
        yield name, picture[None].contiguous(), logits[None].contiguous()
