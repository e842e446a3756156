"""Fully connected CRFs: pydensecrf2, and this library in its forms; and RankSEG."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from crfrnn import refine
from crfrnn.crf.kernel import Kernel
from crfrnn.crf.kernels import Bilateral, Gaussian
from crfrnn.io.score_grid import resample
from crfrnn.presets import PRESETS

from .method import Choice, Method, Numbers, Scene, Span, likely, softmax

_STEPS = 10

_SPACE = {
    "position": Span(5, 160),
    "color": Span(1, 30),
    "weight": Span(0.3, 20),
    "near": Span(0.5, 6),
    "near_weight": Span(0.3, 20),
}


def numbers_of(preset: str) -> dict[str, float]:
    """The numbers of a named preset."""
    bilateral, gaussian = PRESETS[preset].kernels
    assert isinstance(bilateral, Bilateral)
    assert isinstance(gaussian, Gaussian)
    return {
        "position": float(bilateral.position),
        "color": float(bilateral.color),
        "weight": float(bilateral.weight),
        "near": float(gaussian.position),
        "near_weight": float(gaussian.weight),
    }


_START = (numbers_of("deeplab"), numbers_of("crfasrnn"))


def _kernels(numbers: Numbers) -> Sequence[Kernel]:
    return (
        Bilateral(numbers["position"], numbers["color"], numbers["weight"]),
        Gaussian(numbers["near"], numbers["near_weight"]),
    )


def _ours(scene: Scene, numbers: Numbers, guard: bool = False) -> np.ndarray:
    return refine(
        scene.image,
        logits=scene.logits,
        kernels=_kernels(numbers),
        iterations=_STEPS,
        guard=guard,
        channels_last=True,
    ).probs


def _default(scene: Scene, numbers: Numbers) -> np.ndarray:
    return refine(scene.image, logits=scene.logits, channels_last=True).probs


def _exact(scene: Scene, numbers: Numbers) -> np.ndarray:
    """At half size, because the cost of the exact sum grows with the square of the pixels."""
    import cv2

    # The likely classes alone, as for the other methods: pruning does not go with exact sums.
    ids = likely(scene.probs())
    height, width = scene.image.shape[:2]
    half = ((height + 1) // 2, (width + 1) // 2)
    small = cv2.resize(scene.image, half[::-1], interpolation=cv2.INTER_AREA)
    kernels = (
        Bilateral(numbers["position"] / 2, numbers["color"], numbers["weight"]),
        Gaussian(numbers["near"] / 2, numbers["near_weight"]),
    )
    probs = refine(
        small,
        logits=resample(scene.logits[ids], half),
        kernels=kernels,
        iterations=_STEPS,
        filter="exact",
        channels_last=True,
    ).probs
    out = np.zeros_like(scene.logits)
    out[ids] = resample(probs, (height, width))
    return out


def _layered(scene: Scene, layer) -> np.ndarray:  # type: ignore[no-untyped-def]
    import torch

    image = torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))
    with torch.no_grad():
        z = layer.eval()(torch.from_numpy(scene.logits)[None], image[None].float())
    return softmax(z[0].numpy())


def _frank_wolfe(scene: Scene, numbers: Numbers) -> np.ndarray:
    from crfrnn import CRFRNN, Step

    step = Step(numbers["regularizer"], numbers["strength"], numbers["size"])
    layer = CRFRNN(
        len(scene.logits),
        _kernels(numbers),
        eval_iterations=_STEPS,
        weights="scalar",
        learn_compatibility=False,
        step=step,
    )
    return _layered(scene, layer)


def _trained(scene: Scene, numbers: Numbers, folder: Path) -> np.ndarray:
    from crfrnn import CRFRNN

    return _layered(scene, CRFRNN.from_pretrained(folder))


def _pydensecrf(scene: Scene, numbers: Numbers) -> np.ndarray:
    from pydensecrf.densecrf import DenseCRF2D

    probs = scene.probs()
    ids = likely(probs)
    height, width = scene.image.shape[:2]
    unary = -np.log(np.maximum(probs[ids], 1e-7)).reshape(len(ids), -1)
    model = DenseCRF2D(width, height, len(ids))
    model.setUnaryEnergy(np.ascontiguousarray(unary, np.float32))
    model.addPairwiseGaussian(sxy=numbers["near"], compat=numbers["near_weight"])
    model.addPairwiseBilateral(
        sxy=numbers["position"],
        srgb=numbers["color"],
        rgbim=np.ascontiguousarray(scene.image),
        compat=numbers["weight"],
    )
    out = np.zeros_like(probs)
    out[ids] = np.asarray(model.inference(_STEPS)).reshape(len(ids), height, width)
    return out


def rankseg(probs: np.ndarray, numbers: Numbers) -> np.ndarray:
    """The labels (H, W) that RankSEG decides on from probabilities (C, H, W)."""
    import torch
    from rankseg import RankSEG

    decide = RankSEG(
        metric=numbers["metric"], output_mode="multiclass", pruning_prob=numbers["least"]
    )
    with torch.no_grad():
        labels = decide.predict(torch.from_numpy(np.ascontiguousarray(probs, np.float32))[None])
    return labels[0].numpy().astype(np.int64)


#: The defaults of the package.
RANKSEG_START = {"metric": "dice", "least": 0.5}
RANKSEG = "rankseg"
_RANKSEG_NEEDS = {"needs": ("rankseg", "torch"), "install": "rankseg, after torch"}
_TORCH = {"needs": ("torch",), "install": "torch"}
_PAPER = "Krähenbühl & Koltun, NIPS 2011"
NETWORK = Method("network", "none: the network alone", lambda scene, numbers: scene.probs())

METHODS = (
    Method(
        RANKSEG,
        "RankSEG",
        lambda scene, numbers: rankseg(scene.probs(), numbers),
        (RANKSEG_START, {"metric": "iou", "least": 0.5}),
        {"metric": Choice(("dice", "iou")), "least": Span(0.05, 0.9)},
        source="Wang & Dai, NeurIPS 2025",
        **_RANKSEG_NEEDS,
    ),
    Method(
        "pydensecrf2",
        "pydensecrf2",
        _pydensecrf,
        _START,
        _SPACE,
        needs=("pydensecrf",),
        install="cython pydensecrf2",
        source=_PAPER,
    ),
    Method("crfrnn-default", "crfrnn, preset deeplab", _default, source=_PAPER, with_rankseg=True),
    Method("crfrnn", "crfrnn, tuned", _ours, _START, _SPACE, source=_PAPER, with_rankseg=True),
    Method(
        "crfrnn-guard",
        "crfrnn, tuned, guard",
        partial(_ours, guard=True),
        same_as="crfrnn",
        source=_PAPER,
        with_rankseg=True,
    ),
    Method(
        "crfrnn-exact",
        "crfrnn, tuned, exact filter at half size",
        _exact,
        same_as="crfrnn",
        needs=("cv2",),
        install="opencv-contrib-python-headless",
        source=_PAPER,
        with_rankseg=True,
    ),
    Method(
        "crfrnn-frank-wolfe",
        "crfrnn, tuned, Frank-Wolfe",
        _frank_wolfe,
        ({**_START[0], "regularizer": "l2", "strength": 1.0, "size": 0.5},),
        {
            **_SPACE,
            "regularizer": Choice(("l2", "entropy")),
            "strength": Span(0.5, 2),
            "size": Span(0.3, 1),
        },
        source="Lê-Huu & Alahari, NeurIPS 2021",
        with_rankseg=True,
        **_TORCH,
    ),
)


def trained(folder: Path) -> Method:
    """The layer whose parameters a folder holds."""
    if importlib.util.find_spec("torch"):
        from crfrnn import CRFRNN

        CRFRNN.from_pretrained(folder)  # fail now, not in every call
    return Method(
        "crfrnn-trained",
        "crfrnn, parameters trained",
        partial(_trained, folder=folder),
        source="Zheng et al., ICCV 2015",
        with_rankseg=True,
        **_TORCH,
    )
