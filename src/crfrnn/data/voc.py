"""PASCAL VOC and its extensions such as SBD: JPEGImages, SegmentationClass, ImageSets."""

from __future__ import annotations

from pathlib import Path

from crfrnn.io.palette import VOC_CLASSES

from .masked_images import MaskedImages, listed_entries, require_folder


def open_voc(
    root: str | Path,
    split: str = "train",
    *,
    ids: str | Path | None = None,
    masks: str | Path = "SegmentationClass",
    apply_exif: bool = False,
) -> MaskedImages:
    """Open a split of PASCAL VOC (Everingham et al.), 21 classes; void pixels are ignored.

    For SBD (Hariharan et al., ICCV 2011), with its masks as PNG in a separate folder, give `ids`
    and `masks`.

    Args:
        root: the folder with `JPEGImages`.
        split: reads `ImageSets/Segmentation/<split>.txt`.
        ids: a text file with one id per line, read in place of `split`. The stem of the first word
            of each line counts.
        apply_exif: turn photographs as their EXIF orientation says; default: as stored.
        masks: the folder of masks `<id>.png`; relative to `root`, or absolute.

    Raises:
        FileNotFoundError: a folder, the list, or a file that it names is missing.

    Example:
        >>> from crfrnn.data import open_voc
        >>> train = open_voc("VOCdevkit/VOC2012", "train")  # doctest: +SKIP
        >>> train[0].image.shape, train.num_classes  # doctest: +SKIP
        (torch.Size([3, 281, 500]), 21)
    """
    root = require_folder(Path(root), "a VOC folder with JPEGImages")
    listed = root / "ImageSets" / "Segmentation" / f"{split}.txt" if ids is None else Path(ids)
    images = require_folder(root / "JPEGImages", "the photographs")
    folder = require_folder(root / masks, "the masks")
    entries = listed_entries(listed, images, folder, ".jpg")
    return MaskedImages(entries, len(VOC_CLASSES), classes=VOC_CLASSES, apply_exif=apply_exif)
