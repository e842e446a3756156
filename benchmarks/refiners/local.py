"""Refiners that send messages within a small window; both are written from their papers."""

from __future__ import annotations

import numpy as np

from .method import Choice, Method, Numbers, Scene, Span, moved, offsets, over_classes, softmax

_STEPS = 5


def _windowed_crf(scene: Scene, numbers: Numbers) -> np.ndarray:
    """Mean field whose kernels end at the window: |dy| + |dx| <= radius, as in ConvCRF."""
    radius = numbers["radius"]
    steps = list(offsets(radius, diamond=True))
    image = np.pad(
        scene.image.transpose(2, 0, 1).astype(np.float32), ((0, 0), (radius, radius), (radius,) * 2)
    )
    here = moved(image, radius, 0, 0)
    inside = np.pad(np.ones(here.shape[1:], np.float32), radius)
    total = np.zeros(here.shape[1:], np.float32)
    near, alike = [], []
    for dy, dx in steps:
        exists = moved(inside, radius, dy, dx)
        squared = ((here - moved(image, radius, dy, dx)) ** 2).sum(axis=0)
        color = np.exp(squared / (-2 * numbers["color"] ** 2)) * exists
        near.append(np.exp(-(dy * dy + dx * dx) / (2 * numbers["position"] ** 2)) * exists)
        alike.append(color)
        total += color
    count = np.maximum(np.sum(near, axis=0), 1e-12)
    share = numbers["bilateral_weight"] / np.maximum(total, 1e-12)
    even = numbers["gaussian_weight"] / count
    weights = [share * b + even * g for b, g in zip(alike, near, strict=True)]

    def infer(probs: np.ndarray) -> np.ndarray:
        logits = np.log(np.maximum(probs, 1e-7))
        q = probs / probs.sum(axis=0)
        for _ in range(_STEPS):
            padded = np.pad(q, ((0, 0), (radius, radius), (radius, radius)))
            message = np.zeros_like(q)
            for (dy, dx), weight in zip(steps, weights, strict=True):
                message += weight * moved(padded, radius, dy, dx)
            q = softmax(logits + message)
        return q

    return over_classes(scene.probs(), infer)


def _pamr(scene: Scene, numbers: Numbers) -> np.ndarray:
    """Pixel-adaptive mask refinement: repeated averages over dilated 3 x 3 neighborhoods."""
    dilations = numbers["dilations"]
    steps = [(dy * d, dx * d) for d in dilations for dy, dx in offsets(1)]
    radius = max(dilations)
    around = ((0, 0), (radius, radius), (radius, radius))
    image = np.pad(scene.image.transpose(2, 0, 1).astype(np.float32) / 255, around, mode="edge")
    here = moved(image, radius, 0, 0)
    total, squares = np.zeros_like(here), np.zeros_like(here)
    for dy, dx in steps:
        there = moved(image, radius, dy, dx)
        total += there
        squares += there * there
    mean = total / len(steps)
    deviation = np.sqrt(np.maximum(squares / len(steps) - mean * mean, 0)) + 1e-8
    affinity = np.empty((len(steps), *here.shape[1:]), np.float32)
    for row, (dy, dx) in zip(affinity, steps, strict=True):
        difference = np.abs(here - moved(image, radius, dy, dx)) / deviation
        row[:] = difference.mean(axis=0) / -numbers["softness"]
    affinity = softmax(affinity)

    def propagate(maps: np.ndarray) -> np.ndarray:
        for _ in range(numbers["iterations"]):
            padded = np.pad(maps, around, mode="edge")
            maps = np.zeros_like(maps)
            for weight, (dy, dx) in zip(affinity, steps, strict=True):
                maps += weight * moved(padded, radius, dy, dx)
        return maps

    return over_classes(scene.probs(), propagate)


METHODS = (
    Method(
        "windowed-crf",
        "windowed CRF (the idea of ConvCRF)",
        _windowed_crf,
        (
            {
                "radius": 3, "color": 13.0, "position": 3.0,
                "bilateral_weight": 4.0, "gaussian_weight": 2.0,
            },
        ),
        {
            "radius": Choice((2, 3, 4, 5, 6)),
            "color": Span(3, 40),
            "position": Span(0.7, 4),
            "bilateral_weight": Span(0.5, 20),
            "gaussian_weight": Span(0.2, 10),
        },
        source="Teichmann & Cipolla, BMVC 2019, arXiv 1805.04777",
    ),
    Method(
        "pamr",
        "PAMR",
        _pamr,
        ({"softness": 0.1, "iterations": 10, "dilations": (1, 2, 4, 8, 12, 24)},),
        {
            "softness": Span(0.03, 1),
            "iterations": Span(2, 20, whole=True),
            "dilations": Choice(((1,), (1, 2), (1, 2, 4, 8), (1, 2, 4, 8, 12, 24))),
        },
        source="Araslanov & Roth, CVPR 2020, arXiv 2005.08104",
    ),
)  # fmt: skip
