"""Label maps and masks in one channel: what 255 means, and which pictures hold one.

One rule for commands, data sets and `refine`: a map in which nothing but 0 and 255 occurs is a
mask, and 255 is its foreground. Beside other ids, 255 means "unknown".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crfrnn._arrays import Array

#: The id of unknown pixels.
VOID = 255

#: A mask is nearly black and white if at most this share of its pixels is neither.
_GRAY_SHARE = 0.1
#: What is still black, and what is already white, on 0..1: lossy files and smooth edges stray.
_BLACK, _WHITE = 0.1, 0.9

#: Formats that change values when they save; WebP may.
_LOSSY = ("JPEG", "MPO", "JPEG2000")


def is_black_and_white(values: Array) -> bool:
    """Whether nothing but 0 and 255 occurs in a map, and both do: then 255 is the foreground.

    Example:
        >>> import numpy as np
        >>> from crfrnn.io.label_maps import is_black_and_white
        >>> is_black_and_white(np.array([0, 255])), is_black_and_white(np.array([0, 1, 255]))
        (True, False)
    """
    black, white = values == 0, values == VOID
    return bool((black | white).all()) and bool(black.any()) and bool(white.any())


def is_nearly_binary(share: np.ndarray) -> bool:
    """Whether almost all values of a mask on 0..1 are black or white, and some are white."""
    gray = (share > _BLACK) & (share < _WHITE)
    return bool(gray.mean() <= _GRAY_SHARE) and bool((share >= _WHITE).any())


def is_lossy(picture: Any) -> bool:
    """Whether a picture comes from a format that changes values, such as JPEG."""
    return getattr(picture, "format", None) in _LOSSY


def one_channel(picture: Any) -> np.ndarray:
    """Return the values (H, W) of a label map or mask: palette indices, gray values, or bools.

    A gray picture that was saved in color, or with an opaque alpha channel, is read as gray.

    Args:
        picture: a picture of Pillow.

    Raises:
        ValueError: it holds colors, or its alpha channel matters.
    """
    if picture.mode in ("LA", "PA", "RGBA"):
        alpha = np.asarray(picture.getchannel("A"))
        if (alpha != 255).any():
            raise ValueError(
                "expected class ids or a mask in one channel; got a picture with transparent "
                "pixels. If the alpha channel is the mask, save it alone, as gray: "
                "Image.open(FILE).getchannel('A').save('mask.png'); otherwise remove it"
            )
        if picture.mode == "PA":
            raise ValueError(
                "expected class ids in one channel; got a palette with an alpha channel. Save the "
                "picture again without it"
            )
        picture = picture.convert("L") if picture.mode == "LA" else picture.convert("RGB")
    if picture.mode == "RGB":
        values = np.asarray(picture)
        if (values == values[..., :1]).all():
            return values[..., 0]
    elif picture.mode in ("P", "L", "1", "F") or picture.mode.startswith("I"):
        return np.array(picture)
    raise ValueError(
        "expected class ids or a mask in one channel (palette or gray); got colors, an image of "
        f"mode {picture.mode}. Save class ids, not colors; for ground truth in colors, give a "
        "label map, a text file that says which color is which class"
    )


def foreground(values: np.ndarray) -> np.ndarray:
    """Return the ids 0 and 1 of a black and white mask; the threshold is at half."""
    return (np.asarray(values) > VOID // 2).astype(np.int64)


def refuse_lossy_ids() -> None:
    """Raise the error for class ids in a lossy file."""
    raise ValueError(
        "class ids cannot be read from a JPEG, whose compression changes them; save them as PNG. "
        "If it is a mask of one object, black and white or soft, give --kind mask"
    )
