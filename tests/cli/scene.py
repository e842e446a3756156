"""A photograph and scores for the commands: an edge, and a border of classes near it."""

import numpy as np

SIZE = (24, 32)


def photograph() -> np.ndarray:
    """Dark on the left, bright from column 14 on."""
    image = np.full((*SIZE, 3), 40, np.uint8)
    image[:, 14:] = 200
    return image


def logits() -> np.ndarray:
    """Three classes; the border between the first two is three columns off the photograph's."""
    scores = np.zeros((3, *SIZE), np.float32)
    scores[0, :, :17] = 1
    scores[1, :, 17:] = 1
    scores[2] = -3
    return scores
