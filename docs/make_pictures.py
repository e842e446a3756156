"""Draw the pictures of guide/parameters.md: one photograph, one parameter changed at a time.

`python docs/make_pictures.py` writes them into docs/images/parameters. The photograph comes with
scikit-image, and the scores of a real network with the package; `crfrnn demo` refines them too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from crfrnn import Bilateral, Gaussian, refine
from crfrnn.demo import network_scores, photograph
from crfrnn.plots.figures import Column, Row, rows_of_columns

#: The preset that everything else is left at: `deeplab`, the default.
BASE = {"position": 67.0, "color": 3.0, "weight": 4.0, "spatial": 1.0, "smoothness": 3.0}

#: The part of the photograph that is shown: rows and columns.
SHOWN = (slice(40, 300), slice(191, 451))

NAME = "chelsea"
FOLDER = Path(__file__).parent / "images" / "parameters"


def options(**changed: float) -> dict[str, Any]:
    """The arguments of `refine` with some of `BASE` changed."""
    p = {**BASE, **changed}
    kernels = [
        Bilateral(position=p["position"], color=p["color"], weight=p["weight"]),
        Gaussian(position=p["spatial"], weight=p["smoothness"]),
    ]
    return {"kernels": kernels, "iterations": 10, "normalization": "symmetric"}


def strips() -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """For each picture, the title of each panel and the arguments of `refine`."""
    values: dict[str, tuple[str, Sequence[float]]] = {
        "bilateral_position": ("position", (8, 30, 67, 160)),
        "bilateral_color": ("color", (1, 3, 10, 40)),
        "bilateral_weight": ("weight", (1, 4, 10, 40)),
        "gaussian_position": ("spatial", (1, 3, 8, 20)),
        "gaussian_weight": ("smoothness", (0, 3, 10, 40)),
    }
    said = {"spatial": "position", "smoothness": "weight"}
    made = {
        picture: [(f"{said.get(key, key)} {v:g}", options(**{key: v})) for v in numbers]
        for picture, (key, numbers) in values.items()
    }
    made["iterations"] = [
        (f"iterations {steps}", {**options(), "iterations": steps}) for steps in (0, 1, 3, 10)
    ]
    made["normalization"] = [
        (scheme, {**options(), "normalization": scheme})
        for scheme in ("symmetric", "after", "before", "none")
    ]
    made["preset"] = [
        (name, {"preset": name}) for name in ("deeplab", "crfasrnn", "krahenbuhl", "maskcut")
    ]
    return made


def stacked(rows: Sequence[Row]) -> Image.Image:
    """Draw rows below each other, each with titles of its own."""
    parts = [rows_of_columns([row], panel=330) for row in rows]
    parts = [part.crop((16, 12, part.width - 16, part.height - 46)) for part in parts]
    whole = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)))
    for i, part in enumerate(parts):
        whole.paste(part, (0, i * parts[0].height))
    return whole


def main() -> None:
    """Draw the pictures that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(strips())}")
    parser.add_argument("--output", type=Path, default=FOLDER, help="the folder to write to")
    args = parser.parse_args()
    photo = photograph(NAME)
    logits = network_scores(NAME, photo.shape[:2]).values
    before = logits.argmax(0)
    args.output.mkdir(parents=True, exist_ok=True)
    for name in args.names or strips():
        columns = []
        for title, arguments in strips()[name]:
            labels = refine(photo, logits=logits, **arguments).labels
            share = np.mean(labels != before)
            columns.append(Column(f"{title}: {share:.1%} changed", labels[SHOWN]))
        shown = np.ascontiguousarray(photo[SHOWN])
        pairs = [Row(shown, columns[:2], ""), Row(shown, columns[2:], "")]
        stacked(pairs).save(args.output / f"{name}.jpg", quality=80, optimize=True)


if __name__ == "__main__":
    main()
