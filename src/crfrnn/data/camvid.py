"""CamVid in the 11-class form that SegNet used: <split>/, <split>annot/, <split>.txt."""

from __future__ import annotations

from pathlib import Path

from .masked_images import MaskedImages, listed_entries, read_list, require_folder

CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist",
)  # fmt: skip

_VOID = 11


def open_camvid(
    root: str | Path, split: str = "train", *, apply_exif: bool = False
) -> MaskedImages:
    """Open a split of CamVid (Brostow et al., 2009), 11 classes; void (id 11) is ignored.

    Args:
        root: the folder that holds the list `<split>.txt` and the folders `<split>` and
            `<split>annot`. Each line of the list starts with the name or path of an image.
        split: "train", "val" or "test".
        apply_exif: turn photographs as their EXIF orientation says; default: as stored.

    Raises:
        FileNotFoundError: a folder, the list, or a file that it names is missing.
    """
    root = require_folder(Path(root), "a CamVid folder with train.txt")
    read_list(root / f"{split}.txt")  # of all that may be missing, the list says most
    images = require_folder(root / split, "the photographs")
    masks = require_folder(root / f"{split}annot", "the masks")
    return MaskedImages(
        listed_entries(root / f"{split}.txt", images, masks, ".png"),
        len(CAMVID_CLASSES),
        classes=CAMVID_CLASSES,
        ignore=[_VOID],
        apply_exif=apply_exif,
    )
