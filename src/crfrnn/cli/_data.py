"""The options that name a data set, and opening it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crfrnn.data import MaskedImages

DATA_HELP = """\
--data voc       --root with JPEGImages, SegmentationClass (--masks) and
                 ImageSets (or --ids)
--data camvid    --root with <split>.txt, <split> and <split>annot; 11 classes,
                 void ignored
--data folder    --images and --masks, matched by stem (<stem>_mask too): class
                 ids, gray or palette (--classes), or RGB with --label-map,
                 a text file of lines `R G B name`
Pixels of 255 in a mask do not count."""


def add_data(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    group = parser.add_argument_group("the photographs and their masks")
    add = group.add_argument
    add("--data", choices=("voc", "camvid", "folder"), required=True, help="how they lie on disk")
    add("--root", metavar="DIR", type=Path, help="voc, camvid: the folder of the data set")
    add("--split", metavar="NAME", help="voc, camvid: which list (default val)")
    add("--images", metavar="DIR", type=Path, help="folder: the photographs")
    add("--masks", metavar="DIR", type=Path, help="folder, voc: the masks")
    add("--ids", metavar="FILE", type=Path, help="folder, voc: only the images of this list")
    add("--classes", metavar="N", type=int, dest="data_classes", help="folder: how many classes")
    add("--label-map", metavar="FILE", type=Path, help="folder: the colors of the classes")


def open_data(args: argparse.Namespace) -> MaskedImages:
    """Open what the options name."""
    from crfrnn.data import open_dataset

    given: dict[str, Any] = {
        "root": args.root,
        "split": args.split,
        "images": args.images,
        "masks": args.masks,
        "ids": args.ids,
        "num_classes": args.data_classes,
        "label_map": args.label_map,
    }
    if args.data != "folder":
        given["split"] = args.split or "val"
    if args.data == "voc" and args.ids is not None:
        given.pop("split")
    return open_dataset(args.data, **{k: v for k, v in given.items() if v is not None})
