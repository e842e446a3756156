"""The fast bilateral solver, written from its paper (Barron & Poole, ECCV 2016, section 3).

The wheels of OpenCV hold its function, but not the library that it needs.
"""

from __future__ import annotations

import numpy as np

from .method import Method, Numbers, Scene, Span, over_classes

_BALANCING, _STEPS, _TOLERANCE = 10, 25, 1e-5

#: BT.601, as JPEG's.
_YUV = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])


def _solver(scene: Scene, numbers: Numbers) -> np.ndarray:
    from scipy.sparse import csr_array, diags_array

    grid, cell = _grid(scene.image, numbers)
    count = grid.shape[0]
    pixels = cell.size
    splat = csr_array((np.ones(pixels), (cell, np.arange(pixels))), shape=(count, pixels))
    mass = splat @ np.ones(pixels)
    # Balance: with n, the blurred grid of ones is that of the masses.
    scale = np.ones(count)
    for _ in range(_BALANCING):
        scale = np.sqrt(scale * mass / (grid @ scale))
    balanced = diags_array(scale) @ grid @ diags_array(scale)
    smooth = diags_array(balanced @ np.ones(count)) - balanced
    probs = scene.probs()
    confidence = (probs.max(axis=0) ** numbers["trust"]).ravel().astype(np.float64)
    known = splat @ confidence
    system = csr_array(numbers["smoothness"] * smooth + diags_array(np.maximum(known, 1e-9)))

    def solve(maps: np.ndarray) -> np.ndarray:
        values = maps.reshape(len(maps), -1).astype(np.float64)
        target = splat @ (confidence * values).T
        start = target / np.maximum(known, 1e-9)[:, None]
        found = _conjugate_gradients(system, target, start)
        return (splat.T @ found).T.reshape(maps.shape).astype(np.float32)

    return over_classes(probs, solve)


def _grid(image: np.ndarray, numbers: Numbers) -> tuple:  # type: ignore[type-arg]
    """The blur of the bilateral grid's occupied vertices, and the vertex of each pixel."""
    from scipy.sparse import csr_array

    height, width = image.shape[:2]
    luma, u, v = np.moveaxis(image @ _YUV.T, 2, 0)
    y, x = np.mgrid[:height, :width]
    axes = (
        (x, numbers["position"]),
        (y, numbers["position"]),
        (luma, numbers["luma"]),
        (u + 128, numbers["chroma"]),
        (v + 128, numbers["chroma"]),
    )
    places = np.stack([(value / step).round().astype(np.int64).ravel() for value, step in axes])
    # A free place at both ends of each axis, so that no neighbor wraps into the next row.
    sides = places.max(axis=1) + 3
    strides = np.concatenate([[1], np.cumprod(sides[:-1])])
    keys, cell = np.unique(strides @ (places + 1), return_inverse=True)
    count = len(keys)
    rows, columns = [np.arange(count)], [np.arange(count)]
    for stride in strides:
        place = np.minimum(np.searchsorted(keys, keys + stride), count - 1)
        here = np.flatnonzero(keys[place] == keys + stride)
        rows += [here, place[here]]
        columns += [place[here], here]
    weights = np.ones(sum(map(len, rows)))
    weights[:count] = 2 * len(axes)
    entries = (weights, (np.concatenate(rows), np.concatenate(columns)))
    return csr_array(entries, shape=(count, count)), cell.ravel()


def _conjugate_gradients(system, target: np.ndarray, start: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Solve for all columns at once, with the diagonal as preconditioner."""
    inverse = 1 / system.diagonal()[:, None]
    x = start
    residual = target - system @ x
    z = inverse * residual
    direction, size = z, (residual * z).sum(axis=0)
    limit = _TOLERANCE**2 * np.maximum((target * inverse * target).sum(axis=0), 1e-30)
    for _ in range(_STEPS):
        if (size <= limit).all():
            break
        image = system @ direction
        length = size / np.maximum((direction * image).sum(axis=0), 1e-30)
        x = x + length * direction
        residual = residual - length * image
        z = inverse * residual
        before, size = size, (residual * z).sum(axis=0)
        direction = z + size / np.maximum(before, 1e-30) * direction
    return x


METHODS = (
    Method(
        "bilateral-solver",
        "fast bilateral solver",
        _solver,
        ({"position": 8.0, "luma": 8.0, "chroma": 8.0, "smoothness": 128.0, "trust": 1.0},),
        {
            "position": Span(4, 32),
            "luma": Span(3, 24),
            "chroma": Span(3, 24),
            "smoothness": Span(4, 512),
            "trust": Span(0.5, 16),
        },
        needs=("scipy",),
        install="scipy",
        source="Barron & Poole, ECCV 2016",
    ),
)
