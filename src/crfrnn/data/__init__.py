"""Data sets of photographs and masks, augmentation, and generated images."""

from .camvid import CAMVID_CLASSES, open_camvid
from .folder import open_folder
from .masked_images import IGNORE, MaskedImages, Sample
from .registry import DATASETS, open_dataset
from .scribbles import scribble
from .voc import open_voc

__all__ = [
    "CAMVID_CLASSES",
    "DATASETS",
    "IGNORE",
    "MaskedImages",
    "Sample",
    "open_camvid",
    "open_dataset",
    "open_folder",
    "open_voc",
    "scribble",
]
