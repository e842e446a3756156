"""Draw the pictures of guide/parameters.md and guide/gallery.md, with the code of `crfrnn app`.

`python docs/make_pictures.py` writes them into docs/images/parameters and docs/images/gallery. The
photographs come with scikit-image, and the scores of a real network with the package; `crfrnn demo`
refines them too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from crfrnn.app.choice import Choice
from crfrnn.app.subject import Subject, of_arrays, open_demo
from crfrnn.app.work import Work
from crfrnn.demo import photograph
from crfrnn.plots.figures import Column, Row, rows_of_columns
from crfrnn.presets import PRESETS

#: The part of the photograph that is shown: rows and columns.
SHOWN = (slice(40, 300), slice(191, 451))

NAME = "chelsea"
FOLDER = Path(__file__).parent / "images"


def strips() -> dict[str, list[tuple[str, Choice]]]:
    """For each picture of a parameter, the title and the parameters of each panel.

    What does not change is that of the preset `deeplab`, the default.
    """
    values: dict[str, tuple[str, str, Sequence[float]]] = {
        "bilateral_position": ("position", "position", (8, 30, 67, 160)),
        "bilateral_color": ("color", "color", (1, 3, 10, 40)),
        "bilateral_weight": ("weight", "weight", (1, 4, 10, 40)),
        "gaussian_position": ("near", "position", (1, 3, 8, 20)),
        "gaussian_weight": ("smoothness", "weight", (0, 3, 10, 40)),
    }
    made = {
        picture: [(f"{said} {v:g}", replace(Choice(), **{field: float(v)})) for v in numbers]
        for picture, (field, said, numbers) in values.items()
    }
    made["iterations"] = [
        (f"iterations {steps}", replace(Choice(), iterations=steps)) for steps in (0, 1, 3, 10)
    ]
    made["normalization"] = [
        (scheme, replace(Choice(), normalization=scheme))
        for scheme in ("symmetric", "after", "before", "none")
    ]
    made["preset"] = [
        (name, Choice.of_preset(name)) for name in ("deeplab", "crfasrnn", "krahenbuhl", "maskcut")
    ]
    return made


def subjects() -> dict[str, Subject]:
    """The photographs of the gallery, and their scores."""
    return {
        "astronaut": open_demo("astronaut"),
        "chelsea": open_demo("chelsea"),
        "coffee": coffee(),
    }


def coffee() -> Subject:
    """A cup of coffee, with a rough mask: an ellipse around cup and saucer, drawn by hand."""
    photo = photograph("coffee")
    y, x = np.mgrid[: photo.shape[0], : photo.shape[1]]
    inside = ((x - 280) / 205) ** 2 + ((y - 205) / 165) ** 2 < 1
    return of_arrays(photo, "labels", inside.astype(np.int64))


def draw_parameter(
    work: Work, panels: Sequence[tuple[str, Choice]], part: tuple[slice, slice]
) -> Image.Image:
    """Draw panels in pairs below each other, with the share of changed labels in their titles."""
    columns = []
    for title, choice in panels:
        result = work.refine(choice)
        share = result.changed.share_relabeled
        columns.append(Column(f"{title}: {share:.1%} changed", result.refined.labels[part]))
    shown = np.ascontiguousarray(work.subject.photo[part])
    pairs = [columns[i : i + 2] for i in range(0, len(columns), 2)]
    return stacked([Row(shown, pair, "") for pair in pairs])


def draw_presets(work: Work) -> Image.Image:
    """Draw the scores and the seven presets."""
    columns = [Column("before", work.before.labels)]
    for name in PRESETS:
        result = work.refine(Choice.of_preset(name))
        share = result.changed.share_relabeled
        columns.append(Column(f"{name}: {share:.1%} changed", result.refined.labels))
    pairs = [columns[i : i + 2] for i in range(0, len(columns), 2)]
    return stacked([Row(work.subject.photo, pair, "") for pair in pairs])


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
    names = [*strips(), *(f"presets_{name}" for name in subjects())]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(names)}")
    parser.add_argument("--output", type=Path, default=FOLDER, help="the folder to write to")
    args = parser.parse_args()
    cat = Work(open_demo(NAME))
    for name in args.names or names:
        if name in strips():
            path = args.output / "parameters" / f"{name}.jpg"
            picture = draw_parameter(cat, strips()[name], SHOWN)
        else:
            path = args.output / "gallery" / f"{name}.jpg"
            picture = draw_presets(Work(subjects()[name.removeprefix("presets_")]))
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=80, optimize=True)


if __name__ == "__main__":
    main()
