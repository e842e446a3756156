"""CamVid in the 11-class form that SegNet used: <split>/, <split>annot/, <split>.txt."""

from __future__ import annotations

from pathlib import Path

from crfrnn.io.files import IMAGE_SUFFIXES

from .masked_images import Entry, MaskedImages, read_list, require_folder

CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist",
)  # fmt: skip

_VOID = 11


def open_camvid(root: str | Path, split: str = "train") -> MaskedImages:
    """Open a split of CamVid (Brostow et al., 2009), 11 classes; void (id 11) is ignored.

    Args:
        root: the folder that holds the list `<split>.txt` and the folders `<split>` and
            `<split>annot`. Each line of the list starts with the name or path of an image.
        split: "train", "val" or "test".

    Raises:
        FileNotFoundError: a folder, the list, or a file that it names is missing.
    """
    root = require_folder(Path(root), "a CamVid folder with train.txt")
    names = [Path(word).stem for word in read_list(root / f"{split}.txt")]
    images = require_folder(root / split, "the photographs")
    masks = require_folder(root / f"{split}annot", "the masks")
    by_stem = {
        path.stem: path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES
    }
    entries = [
        Entry(name, by_stem.get(name, images / f"{name}.png"), masks / f"{name}.png")
        for name in names
    ]
    return MaskedImages(entries, len(CAMVID_CLASSES), classes=CAMVID_CLASSES, ignore=[_VOID])
