"""The colors and class names of PASCAL VOC, for label maps without a palette."""

from __future__ import annotations

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa",
    "train", "TV monitor",
)  # fmt: skip


def voc_palette() -> bytes:
    """Return the VOC color map: 256 RGB triples, label 0 black, label 255 (void) cream."""
    return b"".join(_color(label) for label in range(256))


def _color(label: int) -> bytes:
    """Color a label as the VOC devkit does.

    Each three bits of the label, from the lowest, become the next lower bit of red, green and blue.
    Small labels thus differ in the highest bits.
    """
    rgb = [0, 0, 0]
    for shift in range(7, -1, -1):
        for channel in range(3):
            rgb[channel] |= (label & 1) << shift
            label >>= 1
    return bytes(rgb)
