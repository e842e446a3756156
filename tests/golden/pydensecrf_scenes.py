"""Deterministic inputs for the comparison: a drawn scene, and the demo photographs."""

import functools
from pathlib import Path

import numpy as np

SCORES = Path(__file__).parents[2] / "src" / "crfrnn" / "demo" / "scores"


def drawn(height=60, width=80, noise=18):
    """A scene of five labels: image uint8, labels, probabilities of a bad network (C, H, W)."""
    random = np.random.RandomState(7)  # its stream never changes
    y, x = np.indices((height, width))
    labels = np.zeros((height, width), np.int64)
    labels[(3 * y + 2 * x) > 170] = 1
    labels[(y - 20) ** 2 + (x - 25) ** 2 < 180] = 2
    labels[(y > 34) & (y < 52) & (x > 40) & (x < 70)] = 3
    labels[(x - 60) ** 2 + 4 * (y - 15) ** 2 < 260] = 4
    colors = np.array(
        [[70, 130, 180], [90, 120, 60], [200, 80, 60], [120, 110, 100], [230, 210, 90]]
    )
    image = (
        colors[labels] + (x // 4)[..., None] + random.randint(-noise, noise + 1, (height, width, 3))
    )
    scores = 2.2 * np.eye(5)[np.roll(labels, (2, -3), (0, 1))] + random.randn(height, width, 5)
    exp = np.exp(scores)
    probs = np.ascontiguousarray((exp / exp.sum(axis=2, keepdims=True)).transpose(2, 0, 1))
    return np.clip(image, 0, 255).astype(np.uint8), labels, probs.astype(np.float32)


@functools.cache
def photograph(name):
    """A photograph of scikit-image and the probabilities of a real network (C, H, W)."""
    import skimage.data

    image = np.ascontiguousarray(getattr(skimage.data, name)())
    with np.load(SCORES / f"{name}_scores.npz") as file:
        logits = (file["logits"].astype(np.float64) - file["zero"]) * file["scale"]
    for axis, size in enumerate(image.shape[:2]):
        place = np.arange(size) * (logits.shape[axis] - 1) / 512  # a canvas of 513, corners aligned
        low = np.minimum(place.astype(int), logits.shape[axis] - 2)
        part = (place - low).reshape([-1 if i == axis else 1 for i in range(3)])
        logits = logits.take(low, axis) * (1 - part) + logits.take(low + 1, axis) * part
    exp = np.exp(logits - logits.max(axis=2, keepdims=True))
    probs = (exp / exp.sum(axis=2, keepdims=True)).transpose(2, 0, 1)
    return image, np.ascontiguousarray(probs, dtype=np.float32)
