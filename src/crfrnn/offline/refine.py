"""refine(): image + scores -> refined probabilities and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crfrnn import _checks, ops
from crfrnn.core.threads import settle
from crfrnn.crf.filters import Recipe, build_filters
from crfrnn.crf.inference import Pairwise
from crfrnn.crf.kernel import Kernel, Scene
from crfrnn.crf.kernels import weight_table
from crfrnn.crf.pruning import Marginals, Pruned, marginals
from crfrnn.ops import Options

from .inputs import (
    Array,
    Inputs,
    Layout,
    arrange_image,
    find_layout,
    to_tensor,
    unary_logits,
)
from .options import RefineOptions


@dataclass(frozen=True)
class Refined:
    """What `refine` returns.

    Attributes:
        probs: (C, *S) or (B, C, *S) approximate marginals; they sum to one over the classes.
        labels: (*S) or (B, *S) int64, the likeliest class of each pixel.
        engine: the engine that was used.
        steps: mean-field steps taken; a number, or a list of one per image of a batch.
        pruned: the classes that took part and the proven bound of the others; None if all did.

    Example:
        >>> import numpy as np
        >>> from crfrnn import refine
        >>> refine(None, labels=np.array([0, 1, 1]), kernels=[]).probs.shape
        (2, 3)
    """

    probs: Array
    labels: Array
    engine: str
    steps: int | list[int]
    pruned: Pruned | None = None


def refine(
    image: Array,
    *,
    logits: Array | None = None,
    probs: Array | None = None,
    labels: Array | None = None,
    energy: Array | None = None,
    preset: str = "deeplab",
    kernels: Sequence[Kernel] | None = None,
    compatibility: Array | None = None,
    iterations: int | None = None,
    normalization: str | None = None,
    filter: str = "lattice",
    prune: bool = True,
    precision: str = "full",
    tol: float | None = None,
    num_classes: int | None = None,
    confidence: float = 0.7,
    ignore_index: int = 255,
    mask: Array | None = None,
    features: Sequence[Array] = (),
    channels_last: bool | None = None,
    engine: str | None = None,
) -> Refined:
    """Sharpen a network's scores with a fully connected CRF.

    Mean-field inference of Krähenbühl & Koltun (NIPS 2011, arXiv 1210.5644): pixels that are near
    and alike pull each other toward the same label. Give exactly one of `logits`, `probs`, `labels`
    and `energy`.

    Args:
        image: (H, W, 3), (H, W) or (3, H, W), any number of channels, 8-bit or float **on 0..255**;
            also volumes (D, H, W) and signals (W,), and batches with a leading axis. None if no
            kernel uses it.
        logits: (C, H, W) or (B, C, H, W) scores before softmax, at the size of the image. One
            channel is read as the score of the foreground against 0.
        probs: likewise, probabilities; they must sum to one over the classes (to 2 %) and are
            clipped at 1e-5. One channel is read as the probability of the foreground.
        labels: (H, W) or (B, H, W) integers, each right with probability `confidence`.
        energy: likewise, energies -log P, as `pydensecrf` takes them.
        preset: named parameters, see `crfrnn.presets.PRESETS`, or a file of them from `crfrnn
            tune`. The default "deeplab" is gentle: on the scores of a strong network the others
            can do harm.
        kernels: pairwise kernels instead of those of the preset.
        compatibility: (C, C) penalty for label c beside label d; default Potts, `1 - I`.
        iterations: mean-field steps, 0 for none; default as in the preset.
        normalization: "symmetric", "after", "before" or "none"; default as in the preset.
        filter: "lattice" (fast) or "exact" (the Gaussian sum itself, quadratic in the pixels).
        prune: leave out classes that provably win no pixel and receive no message above
            `Pruned.bound`. Several times faster on photographs, which show few of many classes.
            Needs Potts and weights >= 0; on a GPU, used only for 10 million scores or more.
        precision: "full", or "half" to store the lattice's values as float16 where the engine can
            (the CPU's: with more than 8 classes at work, on processors with F16C). Arithmetic
            stays in full precision; a marginal changes by 5e-7 on average, and at most one label
            in 10 000.
        tol: stop an image early when its marginals change by less than this on average (0.001 is
            a good value: it leaves fewer than 0.2 % of labels undecided); default never.
        num_classes: number of classes for `labels`; default the largest label + 1, at least 2.
        confidence: for `labels`; default 0.7 (IRNet).
        ignore_index: the label of unknown pixels, which start uniform. Default 255.
        mask: (H, W) or (B, H, W) bool; pixels outside take no part and keep their scores.
        features: maps for `FeatureGaussian` kernels, laid out like the image.
        channels_last: whether the channels of image and features come last; default: whatever fits
            the size of the scores, last if both do.
        engine: "reference", "cpu" or "triton"; default the fastest available.

    Returns:
        Probabilities and labels, with the container, device and float type of the scores.

    Raises:
        ValueError: sizes do not fit, values are not finite, parameters out of range.
        TypeError: integer scores, or a container that is not an array.

    Example:
        >>> import numpy as np
        >>> from crfrnn import refine
        >>> image = np.zeros((4, 6, 3), np.uint8); image[:, 3:] = 200
        >>> probs = np.full((2, 4, 6), 0.5)  # undecided at the edge
        >>> probs[:, :, :2] = [[[0.9]], [[0.1]]]; probs[:, :, 4:] = [[[0.1]], [[0.9]]]
        >>> refine(image, probs=probs).labels[0]
        array([0, 0, 0, 1, 1, 1])
    """
    name, scores = _pick_scores(logits=logits, probs=probs, labels=labels, energy=energy)
    options = RefineOptions(
        preset=preset,
        kernels=kernels,
        compatibility=compatibility,
        iterations=iterations,
        normalization=normalization,
        filter=filter,
        prune=prune,
        precision=precision,
        tol=tol,
        num_classes=num_classes,
        confidence=confidence,
        ignore_index=ignore_index,
        engine=engine,
    )
    return refine_inputs(Inputs(image, name, scores, mask, features, channels_last), options)


def refine_inputs(inputs: Inputs, options: RefineOptions) -> Refined:
    """Refine as `refine` does, which only gathers its arguments."""
    settle()
    given = to_tensor(inputs.name, inputs.scores)
    picture = None if inputs.image is None else to_tensor("image", inputs.image)
    layout = find_layout(
        inputs.name,
        given,
        None if picture is None else tuple(picture.shape),
        inputs.channels_last,
    )
    unary = unary_logits(inputs.name, given, layout, options)
    guide = None if picture is None else arrange_image("image", picture, layout, unary)
    maps = [arrange_image("features", feature, layout, unary) for feature in inputs.features]
    where = None if inputs.mask is None else _arrange_mask(inputs.mask, layout, unary)
    compatibility = _compatibility(options.compatibility, unary)
    engine = ops.resolve_engine(options.engine, unary.device, unary.dtype)
    kernels, steps = options.numbers.kernels, options.numbers.iterations

    with torch.no_grad():
        # First, because a copy to a device waits for what was launched there before.
        weights = torch.from_numpy(weight_table(kernels, unary.shape[1])).to(unary)
        used = kernels if steps else ()
        recipe = Recipe(used, options.numbers.normalization, options.filter, engine)
        filters = build_filters(recipe, Scene(unary, guide, maps), mask=where)
        pairwise = Pairwise(filters, weights, compatibility, engine)
        numeric = Options(steps, options.tol or 0.0, half=options.precision == "half")
        result = marginals(unary, pairwise, numeric, prune=options.prune)
    return _pack(result, given, inputs.scores, layout, engine)


def _pick_scores(**scores: Array | None) -> tuple[str, Array]:
    given = [(name, value) for name, value in scores.items() if value is not None]
    if len(given) != 1:
        names = ", ".join(name for name, _ in given) or "none"
        raise ValueError(f"give exactly one of logits=, probs=, labels=, energy=; got {names}")
    return given[0]


def _compatibility(given: Array | None, unary: Tensor) -> Tensor | None:
    classes = unary.shape[1]
    if given is None:
        return None
    matrix = to_tensor("compatibility", given).to(unary)
    if matrix.shape != (classes, classes):
        raise ValueError(
            f"compatibility must be ({classes}, {classes}), one row and column per class; "
            f"got {_checks.shape_text(matrix)}"
        )
    _checks.finite("compatibility", matrix)
    return matrix


def _arrange_mask(mask: Array, layout: Layout, unary: Tensor) -> Tensor:
    tensor = to_tensor("mask", mask)
    expected = ((unary.shape[0],) if layout.batched else ()) + layout.size
    if tuple(tensor.shape) != expected:
        raise ValueError(
            f"mask must have the size of the scores, {expected}; got {tuple(tensor.shape)}"
        )
    return tensor.to(unary.device).bool().reshape(unary.shape[0], *layout.size)


def _pack(result: Marginals, given: Tensor, like: Array, layout: Layout, engine: str) -> Refined:
    """Return the result in the container, type and layout of the scores `given` as `like`."""
    probs = result.probs.to(given.dtype) if given.is_floating_point() else result.probs
    labels, steps = result.labels, result.steps
    if not layout.batched:
        probs, labels = probs[0], labels[0]
    taken = steps if layout.batched else steps[0]
    if isinstance(like, Tensor):
        return Refined(probs, labels, engine, taken, result.pruned)
    return Refined(probs.numpy(), labels.numpy(), engine, taken, result.pruned)
