"""The options that name a data set, and opening the data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crfrnn.io.files import shorten
from crfrnn.io.notes import spell_size

if TYPE_CHECKING:
    from crfrnn.data import MaskedImages

DATA_HELP = """\
data sets:
  voc       --root holds JPEGImages, SegmentationClass (or give --masks) and
            ImageSets (or give --ids)
  camvid    --root holds <split>.txt, <split> and <split>annot; 11 classes, void
            ignored
  folder    --images and --masks hold files of equal stems; a mask may also be
            called <stem>_mask. Masks are gray or palette images of class ids
            (give --classes), or RGB images (give --label-map, a text file with
            one line `R G B name` per class)
Mask pixels of 255 are void and do not count; but where two classes are given
and nothing but 0 and 255 occurs in the masks, 255 is class 1."""


def add_data(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("photographs and masks")
    add = group.add_argument
    add(
        "--data",
        choices=("voc", "camvid", "folder"),
        required=True,
        help="layout on disk; see below",
    )
    add("--root", metavar="DIR", type=Path, help="voc, camvid: folder of the data set")
    add("--split", metavar="NAME", help="voc, camvid: list of images (default val)")
    add("--images", metavar="DIR", type=Path, help="folder: folder of the photographs")
    add("--masks", metavar="DIR", type=Path, help="folder, voc: folder of the masks")
    add(
        "--ids",
        metavar="FILE",
        type=Path,
        help="folder, voc: text file that lists the images to use",
    )
    add(
        "--label-map",
        metavar="FILE",
        type=Path,
        help="folder: text file with the color of each class",
    )


def open_data(args: argparse.Namespace) -> MaskedImages:
    """Open the data set that the options name; its samples hold NumPy arrays."""
    from crfrnn.data import open_dataset

    if args.data == "folder":
        _check_folder(args)
    elif args.label_map is not None:
        raise ValueError("--label-map goes with --data folder; leave it out")
    given: dict[str, Any] = {
        "root": args.root,
        "split": args.split,
        "images": args.images,
        "masks": args.masks,
        "ids": args.ids,
        "num_classes": args.num_classes if args.data == "folder" else None,
        "label_map": args.label_map,
        "apply_exif": args.apply_exif or None,
    }
    if args.data != "folder":
        given["split"] = args.split or "val"
    if args.data == "voc" and args.ids is not None:
        given.pop("split")
    named = {name: value for name, value in given.items() if value is not None}
    data = open_dataset(args.data, **named).in_numpy()
    data.max_pixels = args.max_pixels
    return data


def truth_lines(data: MaskedImages) -> list[str]:
    """Say what the data set holds, and the first photograph and mask of it."""
    first = data[0]
    names = f" ({shorten(data.classes, 3)})" if data.classes else ""
    ids = shorten(sorted(set(first.label.reshape(-1).tolist())), 8)
    height, width = first.label.shape
    size = spell_size((height, width))
    return [
        f"truth: {len(data)} photographs with masks; {data.num_classes} classes{names}",
        f"first: {first.name}, {size} (height x width), ids {ids}",
    ]


def _check_folder(args: argparse.Namespace) -> None:
    """Raise, in the words of the command line, unless a folder's options are there."""
    missing = [f"--{name}" for name in ("images", "masks") if getattr(args, name) is None]
    if missing:
        raise ValueError(f"--data folder needs {' and '.join(missing)}")
    if args.num_classes is None and args.label_map is None:
        raise ValueError(
            "the number of classes is unknown: give --classes N, or --label-map FILE for masks in "
            "colors"
        )
