"""From the kernels of a layer and a batch of images to filters, with learned bandwidths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from crfrnn import _checks
from crfrnn._door import admit_tensor
from crfrnn._guide import check_range, finest_color
from crfrnn.crf.edges import Pair, build_edges
from crfrnn.crf.filters import KernelFilter, build_filters
from crfrnn.crf.kernel import Scene
from crfrnn.crf.recipe import Recipe

from .inputs import check_gradients, check_map, check_mask
from .parameters import learned_bandwidths


class Guide(NamedTuple):
    """What a layer is given beside the logits.

    Attributes:
        image: (B, F, *S); or the filters that were prepared from one.
        mask: (B, *S) bool; pixels outside take no part.
        features: maps (B, F, *s) of any resolution for the kernels that refer to them.
        clamp: (B, *S) bool; these pixels send, and keep their logits.
    """

    image: Tensor | Prepared | None
    mask: Tensor | None = None
    features: Sequence[Tensor] = ()
    clamp: Tensor | None = None


@dataclass(frozen=True)
class Bandwidths:
    """The learned bandwidths that filters were built with.

    Attributes:
        parameters: the layer's parameters themselves.
        versions: how often each had been changed in place.
        values: what each held.
    """

    parameters: tuple[Tensor, ...] = ()
    versions: tuple[int, ...] = ()
    values: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, logs: nn.ModuleList | None) -> Bandwidths:
        """The present bandwidths of a layer."""
        parameters = () if logs is None else tuple(logs.parameters())
        values = tuple(parameter.detach().clone() for parameter in parameters)
        return cls(parameters, tuple(map(_version, parameters)), values)

    def are(self, logs: nn.ModuleList | None) -> bool:
        """Whether a layer still has these bandwidths; True if tracing or vmap hides the values."""
        now = () if logs is None else tuple(logs.parameters())
        if len(now) != len(self.parameters):
            return False
        if not now or torch.compiler.is_compiling():
            return True
        if not _checks.readable(now[0]):
            # On a device, their values are read only if something has changed the parameters.
            same = all(old is new for old, new in zip(self.parameters, now, strict=True))
            if same and self.versions == tuple(map(_version, now)):
                return True
        try:
            return all(
                torch.equal(old.to(new), new) for old, new in zip(self.values, now, strict=True)
            )
        except RuntimeError:  # under vmap a tensor has no value
            return True


def _learns(logs: nn.ModuleList) -> bool:
    wanted = logs.training and torch.is_grad_enabled()
    return wanted and any(parameter.requires_grad for parameter in logs.parameters())


def _version(parameter: Tensor) -> int:
    return 0 if parameter.is_inference() else parameter._version


@dataclass(frozen=True)
class Prepared:
    """Filters of one batch of images, from `CRFRNN.prepare`, to pass in place of the image.

    Attributes:
        filters: one normalized filter per kernel, each mapping (B, C, *S) to itself.
        shape: (B, *S).
        dtype: the type they compute in.
        device: where they are.
        recipe: what they were built for.
        mask: (B, N) bool, the pixels that take part; None stands for all.
        pairs: in place of filters, the weighted pairs of pixels of a loss with `neighbors`.
        bandwidths: the learned ones that the filters were built with; None if none are learned.

    Example:
        >>> import torch
        >>> from crfrnn import CRFRNN
        >>> prepared = CRFRNN(4).eval().prepare(torch.rand(2, 3, 8, 9) * 255)
        >>> prepared.shape, len(prepared.filters)
        ((2, 8, 9), 2)
        >>> ones = torch.ones(2, 1, 8, 9)
        >>> bool(prepared.filters[1](ones).mean() > 0.9)  # normalized: constants nearly stay
        True
    """

    filters: tuple[KernelFilter, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    recipe: Recipe
    mask: Tensor | None = None
    pairs: tuple[Pair, ...] = ()
    bandwidths: Bandwidths | None = None

    def check(
        self, owner: str, logits: Tensor, recipe: Recipe, logs: nn.ModuleList | None = None
    ) -> None:
        """Refuse logits, or a layer, that these filters were not built for.

        Example:
            >>> import torch
            >>> from crfrnn import CRFRNN
            >>> layer = CRFRNN(4).eval()
            >>> prepared = layer.prepare(torch.rand(2, 3, 8, 9) * 255)
            >>> prepared.check("CRFRNN", torch.zeros(2, 4, 8, 9), layer.recipe)
            >>> prepared.check("CRFRNN", torch.zeros(2, 4, 8, 10), layer.recipe)
            Traceback (most recent call last):
                ...
            ValueError: CRFRNN: the prepared filters are for a batch and size of (2, 8, 9) ...
        """
        if self.recipe != recipe:
            raise ValueError(
                f"{owner}: the prepared filters were built for {self.recipe} but this layer has "
                f"{recipe}; call prepare of this layer"
            )
        shape = (logits.shape[0], *logits.shape[2:])
        got = (shape, logits.dtype, logits.device)
        if got != (self.shape, self.dtype, self.device):
            raise ValueError(
                f"{owner}: the prepared filters are for a batch and size of {self.shape} in "
                f"{self.dtype} on {self.device}; got logits for {shape} that need {logits.dtype} "
                f"on {logits.device}. Prepare the image again."
            )
        if logs is not None and _learns(logs):
            raise ValueError(
                f"{owner}: no gradient reaches bandwidths through prepared filters; pass the image "
                f"itself in training, or call layer.eval() or torch.no_grad() first"
            )
        if not (self.bandwidths or Bandwidths()).are(logs):
            raise ValueError(
                f"{owner}: the prepared filters have other bandwidths than this layer has now. "
                f"Prepare the image again."
            )


def prepare(
    owner: str, recipe: Recipe, like: Tensor, guide: Guide, logs: nn.ModuleList | None = None
) -> Prepared:
    """Check the maps and build filters for logits `like` (B C *S)."""
    features = [
        check_map(owner, f"features[{i}]", value, like, any_size=True)
        for i, value in enumerate(guide.features)
    ]
    maps = [(f"features[{i}]", value) for i, value in enumerate(features)]
    image = None  # what was prepared before never comes here
    if guide.image is not None:
        image = check_map(owner, "image", guide.image, like)
        maps.append(("image", image))
    check_gradients(owner, maps, recipe.feature_gradients)
    mask = None if guide.mask is None else check_mask(owner, guide.mask, like)
    if image is not None:
        check_range(image, finest_color(recipe.kernels))
    bandwidths = [] if logs is None else learned_bandwidths(logs, like.dtype)
    scene = Scene(like, image, features)
    filters: list[KernelFilter] = []
    pairs: tuple[Pair, ...] = ()
    if recipe.neighbors is None:
        filters = build_filters(recipe, scene, mask=mask, bandwidths=bandwidths)
    else:
        with torch.no_grad():
            pairs = build_edges(recipe.kernels, recipe.neighbors, scene, mask)
    shape = (like.shape[0], *like.shape[2:])
    inside = None if mask is None else mask.flatten(1)
    return Prepared(tuple(filters), shape, like.dtype, like.device, recipe, inside, pairs)


def prepare_alone(
    owner: str,
    recipe: Recipe,
    guide: Guide,
    dtype: torch.dtype,
    logs: nn.ModuleList | None = None,
    learning: bool = False,
) -> Prepared:
    """Build filters from an image without its logits, and without gradients."""
    if learning or (recipe.feature_gradients and torch.is_grad_enabled()):
        raise ValueError(
            f"{owner}: filters that are being learned change with every step and cannot be "
            f"prepared; call layer.eval() and torch.no_grad() first, or pass the image itself"
        )
    image = guide.image
    if not isinstance(image, Tensor):
        raise ValueError(
            f"{owner}: prepare needs an image tensor (B, F, *S); got {type(image).__name__}"
        )
    image = admit_tensor(f"{owner}: image", image)
    if not 3 <= image.dim() <= 5 or 0 in image.shape:
        raise ValueError(
            f"{owner}: prepare needs an image tensor (B, F, *S), not empty; got "
            f"{tuple(image.shape)}"
        )
    size = (image.shape[0], 1, *image.shape[2:])
    like = torch.zeros((), dtype=dtype, device=image.device).expand(size)
    with torch.no_grad():
        prepared = prepare(owner, recipe, like, guide, logs)
    return prepared if logs is None else replace(prepared, bandwidths=Bandwidths.of(logs))


def take(
    owner: str, recipe: Recipe, unary: Tensor, guide: Guide, logs: nn.ModuleList | None = None
) -> Prepared:
    """The filters for logits `unary`: those prepared before, or new ones."""
    _refuse_formats(owner)
    prepared = guide.image
    if not isinstance(prepared, Prepared):
        return prepare(owner, recipe, unary, guide, logs)
    if guide.mask is not None or guide.features:
        raise ValueError(
            f"{owner}: give mask and features to prepare, not together with its result"
        )
    prepared.check(owner, unary, recipe, logs)
    return prepared


def _refuse_formats(owner: str) -> None:
    """Refuse formats that cannot hold the operators; torch would ask to report a bug to PyTorch."""
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    if traced or torch.onnx.is_in_onnx_export():
        raise NotImplementedError(
            f"{owner}: TorchScript (torch.jit.trace) and ONNX cannot hold the CRF, whose filters "
            "depend on the image. Use torch.export.export(model, (logits, image)), which can; or "
            "export the network alone, and apply the CRF, or crfrnn.refine, to its logits"
        )
