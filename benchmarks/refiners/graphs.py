"""Refiners that cut a graph of pixels, or solve a linear system on one."""

from __future__ import annotations

import warnings
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import numpy as np

from .method import Method, Numbers, Scene, Span, likely, scattered

#: Unlike the other refiners, matting sees masks of which a share is already decided.
_UNKNOWN, _NO, _YES = 0.5, 0.0, 1.0


def _grab_cut(scene: Scene, numbers: Numbers) -> np.ndarray:
    import cv2

    probs = scene.probs()
    before = probs.argmax(axis=0)
    present, counts = np.unique(before, return_counts=True)
    rivals = probs[present]
    if len(present) == 1:
        return before
    # One class after the other against the rest; of two, the second is the rest of the first.
    order = present[np.argsort(counts, kind="stable")]
    ordered = order[:1] if len(present) == 2 else order
    claims = np.zeros(rivals.shape, bool)
    for label in ordered:
        claims[present == label] = _one_cut(cv2, scene.image, probs[label], numbers)
    if len(present) == 2:
        claims[present == order[1]] = ~claims[present == order[0]]
    score = np.where(claims, rivals, 0.0)
    labels = present[score.argmax(axis=0)]
    return np.where(claims.any(axis=0), labels, before).astype(np.int64)


def _one_cut(cv2, image, prob, numbers) -> np.ndarray:  # type: ignore[no-untyped-def]
    sure = numbers["sure"]
    state = np.where(prob > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    state[prob >= sure] = cv2.GC_FGD
    state[prob <= 1 - sure] = cv2.GC_BGD
    foreground = np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if foreground.sum() < 8 or (~foreground).sum() < 8:  # too few for its mixtures of colors
        return foreground
    if not np.isin(state, (cv2.GC_PR_FGD, cv2.GC_PR_BGD)).any():
        return foreground
    cv2.setRNGSeed(0)
    bgr = np.ascontiguousarray(image[..., ::-1])
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(bgr, state, None, *models, numbers["iterations"], cv2.GC_INIT_WITH_MASK)
    return np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _random_walker(scene: Scene, numbers: Numbers) -> np.ndarray:
    from skimage.segmentation import random_walker

    probs = scene.probs()
    before = probs.argmax(axis=0)
    sure = probs.max(axis=0) >= numbers["sure"]
    present = np.unique(before[sure])
    if len(present) < 2 or sure.all():
        return before
    # It numbers the labels that occur anew, so they must have no gaps: 0 is a pixel without one.
    seeds = np.where(sure, np.searchsorted(present, before) + 1, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # islands of unsure pixels, and slow convergence
        labels = random_walker(
            scene.image, seeds, beta=numbers["beta"], mode="cg_j", tol=1e-3, channel_axis=-1
        )
    return np.where(labels > 0, present[labels - 1], before).astype(np.int64)


def _expansion(scene: Scene, numbers: Numbers) -> np.ndarray:
    import gco

    probs = scene.probs()
    ids = likely(probs)
    unary = -np.log(np.maximum(probs[ids], 1e-5)).transpose(1, 2, 0)
    image = scene.image.astype(np.float64)

    def costs(axis: int) -> np.ndarray:
        squared = (np.diff(image, axis=axis) ** 2).sum(axis=2)
        near = np.exp(-squared / (2 * numbers["color"] ** 2))
        return numbers["constant"] + numbers["contrast"] * near

    labels = gco.cut_grid_graph(
        np.ascontiguousarray(unary, np.float64), 1.0 - np.eye(len(ids)), costs(0), costs(1),
        n_iter=-1, algorithm="expansion",
    )  # fmt: skip
    return scattered(labels.reshape(probs.shape[1:]), ids)


def _matting(scene: Scene, numbers: Numbers) -> np.ndarray:
    from pymatting import estimate_alpha_cf

    probs = scene.probs()
    before = probs.argmax(axis=0)
    present = np.unique(before)
    if len(present) == 1:
        return before
    sure, image = numbers["sure"], scene.image / 255.0
    alphas = []
    for label in present[1:] if len(present) == 2 else present:
        trimap = np.where(probs[label] >= sure, _YES, _UNKNOWN)
        trimap[probs[label] <= 1 - sure] = _NO
        alphas.append(_matte(estimate_alpha_cf, image, trimap, probs[label], numbers))
    if len(present) == 2:
        alphas.insert(0, 1 - alphas[0])
    return present[np.stack(alphas).argmax(axis=0)].astype(np.int64)


def _matte(estimate, image, trimap, prob, numbers) -> np.ndarray:  # type: ignore[no-untyped-def]
    if not (trimap == _YES).any() or not (trimap == _NO).any() or not (trimap == _UNKNOWN).any():
        return np.asarray(prob)
    rows, columns = np.nonzero(trimap == _UNKNOWN)
    # Known pixels farther than the window of its Laplacian take no part: cut them off.
    margin = 4
    top, left = max(rows.min() - margin, 0), max(columns.min() - margin, 0)
    box = np.s_[top : rows.max() + margin + 1, left : columns.max() + margin + 1]
    inside = trimap[box]
    alpha = np.where(trimap == _UNKNOWN, prob, trimap)
    if (inside == _YES).any() and (inside == _NO).any():
        # It prints that its factorization takes a second try.
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            alpha[box] = estimate(
                np.ascontiguousarray(image[box]),
                np.ascontiguousarray(inside),
                laplacian_kwargs={"epsilon": numbers["epsilon"]},
                cg_kwargs={"rtol": 1e-4, "maxiter": 300},
            )
    return np.asarray(alpha)


METHODS = (
    Method(
        "grab-cut",
        "GrabCut",
        _grab_cut,
        ({"sure": 0.95, "iterations": 2},),
        {"sure": Span(0.55, 0.999), "iterations": Span(1, 4, whole=True)},
        needs=("cv2",),
        install="opencv-contrib-python-headless",
        source="Rother, Kolmogorov & Blake, SIGGRAPH 2004",
    ),
    Method(
        "random-walker",
        "random walker",
        _random_walker,
        ({"sure": 0.95, "beta": 130.0},),
        {"sure": Span(0.55, 0.995), "beta": Span(10, 3000)},
        needs=("skimage",),
        install="scikit-image",
        source="Grady, TPAMI 2006",
    ),
    Method(
        "alpha-expansion",
        "graph cut (alpha-expansion)",
        _expansion,
        ({"constant": 0.5, "contrast": 4.0, "color": 10.0},),
        {"constant": Span(0.05, 4), "contrast": Span(0.3, 30), "color": Span(2, 40)},
        needs=("gco",),
        install="gco-wrapper",
        source="Boykov, Veksler & Zabih, TPAMI 2001",
    ),
    Method(
        "closed-form-matting",
        "closed-form matting",
        _matting,
        ({"sure": 0.95, "epsilon": 1e-7},),
        {"sure": Span(0.55, 0.995), "epsilon": Span(1e-7, 1e-3)},
        needs=("pymatting",),
        install="pymatting",
        source="Levin, Lischinski & Weiss, TPAMI 2008",
    ),
)
