"""refine(): image + scores -> refined probabilities and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, wraps
from typing import Any, TypeVar
from typing import cast as typed

import numpy as np

from crfrnn import _checks
from crfrnn._arrays import Array, Container, cast, is_floating, is_tensor, on_cpu, to_torch
from crfrnn._guide import check_range, finest_color
from crfrnn.core.inference import Options
from crfrnn.core.names import EngineName, Filter, Normalization, Precision
from crfrnn.core.threads import settle
from crfrnn.crf.containers import for_engine, suits_core
from crfrnn.crf.kept import KeptFilters
from crfrnn.crf.kernel import Kernel, Scene
from crfrnn.crf.marginals import Marginals, marginals
from crfrnn.crf.masks import mask_marginals
from crfrnn.crf.recipe import Recipe

from .clamp import arrange_clamp, free_pixels, held_masks, held_pixels, put_seeds
from .guard import Guarded, protect
from .inputs import (
    Inputs,
    Layout,
    arrange_image,
    arrange_map,
    check_masks,
    find_layout,
    mask_logits,
    to_array,
    to_container,
    unary_logits,
)
from .labels import settle_labels
from .options import RefineOptions
from .refined import Refined
from .verdict import Before, MasksBefore, counted_pixels

_Call = TypeVar("_Call", bound=Callable[..., Any])


def _scores_by_name(function: _Call) -> _Call:
    """Meet scores without a name with an error that gives the names."""

    @wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        if len(args) > 1:
            raise TypeError(
                "refine: name the scores: refine(image, logits=...) for what a network gives "
                "before softmax, probs= for probabilities, labels= for class numbers, energy= for "
                "-log(probabilities), masks= for overlapping masks; got "
                f"{len(args)} arguments without a name"
            )
        return function(*args, **named)

    return typed(_Call, call)


@_scores_by_name
def refine(
    image: Array,
    *,
    logits: Container | None = None,
    probs: Container | None = None,
    labels: Container | None = None,
    energy: Container | None = None,
    masks: Container | None = None,
    preset: str = "deeplab",
    kernels: Sequence[Kernel] | None = None,
    compatibility: Array | None = None,
    iterations: int | None = None,
    normalization: Normalization | None = None,
    filter: Filter = "lattice",
    prune: bool = True,
    precision: Precision = "full",
    tol: float | None = None,
    guard: bool = False,
    band: float | None = None,
    num_classes: int | None = None,
    confidence: float = 0.7,
    ignore_index: int = 255,
    mask: Array | None = None,
    clamp: Array | None = None,
    features: Sequence[Array] = (),
    channels_last: bool | None = None,
    engine: EngineName | None = None,
) -> Refined[Container]:
    """Sharpen a network's scores with a fully connected CRF.

    Mean-field inference of Krähenbühl & Koltun (NIPS 2011, arXiv 1210.5644): pixels that are near
    and alike pull each other toward the same label. Give exactly one of `logits`, `probs`,
    `labels`, `energy` and `masks`.

    Args:
        image: (H, W, 3), (H, W) or (3, H, W), any number of channels, 8-bit or float **on 0..255**;
            also volumes (D, H, W) and signals (W,), and batches with a leading axis. Where the
            shapes fit several of these, images come first, then batches of them, then volumes and
            signals; a leading axis of one marks a volume clearly. None if no kernel uses it.
        logits: (C, H, W) or (B, C, H, W) scores before softmax, at the size of the image. One
            channel is read as the score of the foreground against 0.
        probs: probabilities of the same shapes; they must sum to one over the classes (to 2 %) and
            are clipped at 1e-5. One channel is read as the probability of the foreground.
        labels: (H, W) or (B, H, W) integers, each right with probability `confidence`; the rest is
            shared by the other ids that occur, or by all `num_classes`. Where nothing but 0 and
            255 occurs, 255 is the foreground, with a warning; beside other ids, it is unknown.
        energy: energies -log P, shaped like `logits`, as in `pydensecrf`.
        masks: (K, H, W) or (B, K, H, W) masks that may overlap. Each is refined separately against
            its background, on one shared lattice. Bools and integers on 0..255 are right with
            probability `confidence`; floats on 0..1 are probabilities, clipped at 1e-5. A kernel
            weight is one number, or two: for the background and the foreground. For masks,
            `compatibility`, `tol`, `prune` and `guard` do not apply.
        preset: named parameters (see `crfrnn.presets.PRESETS`), or a file of parameters from
            `crfrnn tune`. The default "deeplab" is gentle: on the scores of a strong network the
            others can do harm.
        kernels: pairwise kernels instead of those of the preset.
        compatibility: (C, C) penalty for label c beside label d; default Potts, `1 - I`.
        iterations: mean-field steps, 0 for none; default as in the preset.
        normalization: "symmetric", "after", "before" or "none"; default as in the preset.
        filter: "lattice" (fast) or "exact" (the Gaussian sum itself, quadratic in the pixels).
        prune: leave out classes that provably win no pixel and receive no message above
            `Pruned.bound`. Several times faster on photographs, which show few of many classes.
            The other classes' marginals change little, but where they are nearly tied they may
            change much (see `Pruned`). Needs Potts and weights >= 0; on a GPU, used only for 10
            million scores or more. In images of 65,536 pixels or more, it also merges clamped
            pixels that are alike; `Refined.joined` says whether it did.
        precision: "full", or "half" to store the lattice's values as float16 where the engine can
            (the CPU's: with more than 8 classes at work, and F16C). Arithmetic stays in full
            precision; a marginal changes by 5e-7 on average, and at most one label in 10 000.
        tol: stop an image early when its marginals change by less than this on average (0.001 is
            a good value: it leaves fewer than 0.2 % of labels undecided); default never.
        guard: keep the input where the scores speak against the CRF. An image keeps it if the CRF
            relabels more pixels than 0.3 times the number of unsure ones, whose likeliest class
            has a probability below 0.9; elsewhere a pixel keeps it if the scores give its new
            label a probability below 0.25. `Refined.guarded` says what was done. The limits come
            from photographs of PASCAL VOC; for `labels`, only the first applies, with all unsure.
        band: refine only pixels that lie fewer than this many pixels (Euclidean) from a change of
            the likeliest class, seeds of `clamp` included, and clamp all others; unknown pixels of
            `labels` are always free. Default: refine all.
        num_classes: number of classes for `labels`. Default the largest label + 1, at least 2;
            classes that do not occur are then left out of the competition.
        confidence: for `labels` and `masks`; default 0.7 (IRNet).
        ignore_index: the label of unknown pixels, which start uniform. Default 255.
        mask: (H, W) or (B, H, W) bool; pixels outside take no part and keep their scores.
        clamp: (H, W) or (B, H, W), the pixels that keep their scores but still send messages: bool,
            True where clamped; or integers, the class of each clamped pixel (a seed, which becomes
            certain of it) and 255 for free ones, or 65535 from 256 classes on. See
            docs/guide/clamp.md. For masks, only bool.
        features: maps for `FeatureGaussian` kernels, (H, W, F), (F, H, W) or (H, W), of any
            resolution; they are interpolated or averaged to the grid of the scores.
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
    name, scores = _pick_scores(
        logits=logits, probs=probs, labels=labels, energy=energy, masks=masks
    )
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
        guard=guard,
        band=band,
        num_classes=num_classes,
        confidence=confidence,
        ignore_index=ignore_index,
        engine=engine,
    )
    return refine_inputs(Inputs(image, name, scores, mask, clamp, features, channels_last), options)


def refine_inputs(
    inputs: Inputs, options: RefineOptions, *, kept: KeptFilters | None = None
) -> Refined[Any]:
    """Do the work of `refine`, which only gathers its arguments.

    Args:
        inputs: the arrays.
        options: how to refine.
        kept: where filters are kept for later calls with the same image; masks do not use it.
    """
    settle()
    if kept is not None:
        kept.follow(inputs.image, *inputs.features)
    given = to_array(inputs.name, inputs.scores)
    if inputs.name == "labels":
        given = settle_labels(given, options, inputs.ids)
    # The core takes NumPy arrays, so CPU tensors are viewed as arrays. Other engines take tensors.
    numpy = on_cpu(given) and suits_core(options.engine)
    scores = to_container(inputs.name, given, numpy=numpy)
    picture = None if inputs.image is None else to_container("image", inputs.image, numpy=numpy)
    layout = find_layout(
        inputs.name,
        given,
        None if picture is None else tuple(picture.shape),
        inputs.channels_last,
    )
    if inputs.name == "masks":
        scale = check_masks(scores, options.confidence)
        to_logits = partial(mask_logits, confidence=options.confidence, scale=scale)
        scores = scores if layout.batched else scores[None]
        unary = to_logits(scores[:, :1])  # gives size, type and device
    else:
        unary = unary_logits(inputs.name, scores, layout, options, inputs.ids)
        if inputs.name != "labels" and options.num_classes not in (None, unary.shape[1]):
            raise ValueError(
                f"num_classes={options.num_classes}, but {inputs.name} have {unary.shape[1]} "
                "classes; leave num_classes out, which is for labels"
            )
    if picture is not None:
        check_range(picture, finest_color(options.numbers.kernels))
    where = None if inputs.mask is None else _arrange_mask(inputs.mask, layout, unary)
    classes = 0 if inputs.name == "masks" else unary.shape[1]
    clamp = None
    if inputs.clamp is not None:
        part = bool(inputs.origin)
        clamp = arrange_clamp(inputs.clamp, layout, unary, classes, part=part)
    unary = unary if clamp is None else put_seeds(unary, clamp)
    guide = None if picture is None else arrange_image("image", picture, layout, unary)
    maps = [arrange_image("features", feature, layout, unary) for feature in inputs.features]
    _, engine = for_engine(unary, options.engine)
    numbers = options.numbers
    recipe = Recipe(numbers.kernels, numbers.normalization, options.filter, engine)
    scene = Scene(unary, guide, maps, inputs.origin)
    if inputs.name == "masks":
        result = _refine_masks(recipe, scene, scores, to_logits, options, where, clamp)
        packed = _pack(result, given, inputs.scores, layout, engine)
        return replace(packed, _before=MasksBefore(scores, to_logits, where, layout.batched))
    counted = counted_pixels(inputs.name, scores, options.ignore_index, layout.batched, where)
    known = counted if inputs.name == "labels" else None
    held = held_pixels(unary, clamp, options.band, inside=where, known=known)
    try:
        result = marginals(
            recipe,
            scene,
            Options(numbers.iterations, options.tol or 0.0, half=options.precision == "half"),
            mask=where,
            held=held,
            compatibility=_compatibility(options.compatibility, unary),
            prune=options.prune,
            kept=kept,
        )
    except ValueError:
        _checks.finite(inputs.name, given)  # names the reason in the caller's terms
        raise
    before = Before(
        partial(_before, inputs.name, scores, layout, options, clamp, inputs.ids),
        counted,
        layout.batched,
    )
    guarded: Guarded | list[Guarded] | None = None
    if options.guard:  # changes the result in place
        of_images = protect(
            result, unary, free_pixels(counted, held), graded=inputs.name != "labels"
        )
        guarded = of_images if layout.batched else of_images[0]
    packed = _pack(result, given, inputs.scores, layout, engine)
    return replace(packed, guarded=guarded, _before=before)


def _refine_masks(
    recipe: Recipe,
    scene: Scene,
    masks: Array,
    to_logits: Callable[[Array], Array],
    options: RefineOptions,
    where: Array | None,
    clamp: Array | None,
) -> Marginals:
    if options.compatibility is not None or options.tol is not None or options.guard:
        raise ValueError(
            "compatibility, tol and guard do not go with masks, whose models have two classes and "
            "all their steps; leave them out"
        )
    steps = options.numbers.iterations
    probs = mask_marginals(
        recipe,
        scene,
        masks,
        to_logits,
        Options(steps, half=options.precision == "half"),
        mask=where,
        held=held_masks(masks, to_logits, clamp, options.band, inside=where),
    )
    return Marginals(probs, probs > 0.5, [steps] * len(probs), [None] * len(probs))


def _pick_scores(**scores: Array | None) -> tuple[str, Array]:
    given = [(name, value) for name, value in scores.items() if value is not None]
    if len(given) != 1:
        names = ", ".join(name for name, _ in given) or "none"
        raise ValueError(
            f"give exactly one of logits=, probs=, labels=, energy=, masks=; got {names}"
        )
    return given[0]


def _before(
    name: str,
    scores: Array,
    layout: Layout,
    options: RefineOptions,
    clamp: Array | None,
    ids: Sequence[int] | None,
) -> Array:
    unary = unary_logits(name, scores, layout, options, ids)
    return unary if clamp is None else put_seeds(unary, clamp)


def _compatibility(given: Array | None, unary: Array) -> Array | None:
    classes = unary.shape[1]
    if given is None:
        return None
    matrix = to_container("compatibility", given, numpy=not is_tensor(unary))
    matrix = matrix.to(unary) if is_tensor(unary) else cast(matrix, unary.dtype)
    if matrix.shape != (classes, classes):
        raise ValueError(
            f"compatibility must be ({classes}, {classes}), one row and column per class; "
            f"got {_checks.shape_text(matrix)}"
        )
    _checks.finite("compatibility", matrix)
    return matrix


def _arrange_mask(mask: Array, layout: Layout, unary: Array) -> Array:
    array = arrange_map("mask", mask, layout, unary)
    return array.bool() if is_tensor(array) else cast(array, np.bool_)


def _pack(
    result: Marginals, given: Array, like: Array, layout: Layout, engine: str
) -> Refined[Any]:
    """Return the result in the container, type and layout of the scores `given` as `like`."""
    probs, labels, steps = result.probs, result.labels, result.steps
    if is_tensor(like):
        probs, labels = to_torch(probs), to_torch(labels)
    elif is_tensor(probs):
        probs, labels = probs.numpy(), labels.numpy()
    probs = cast(probs, given.dtype) if is_floating(given) else probs
    if not layout.batched:
        probs, labels = probs[0], labels[0]
    steps_of = steps if layout.batched else steps[0]
    pruned = result.pruned if layout.batched else result.pruned[0]
    return Refined(probs, labels, engine, steps_of, pruned, joined=result.joined)
