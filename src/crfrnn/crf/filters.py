"""From kernels and an image to normalized filters, ready for the recurrence."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from crfrnn import _checks, ops
from crfrnn.core.names import EngineName

from .kernel import Scene
from .lattice import Lattice
from .recipe import Recipe


class KernelFilter:
    """One kernel on one batch of images: F = D_post · G · D_pre, mapping (B, C, *S) to itself.

    Attributes:
        gaussian: the filter G as it is, without normalization.
        term: the whole of F, as the operators of the recurrence take it.
    """

    def __init__(
        self, gaussian: GaussianFilter, before: Tensor | None, after: Tensor | None
    ) -> None:
        """Scale the filter by `before` and `after` (B, N); None stands for ones."""
        self.gaussian = gaussian
        self.term = ops.Term(gaussian.kind, gaussian.arrays, before, after)

    @classmethod
    def normalized(
        cls,
        gaussian: GaussianFilter,
        shape: tuple[int, int],
        normalization: str,
        mask: Tensor | None = None,
    ) -> KernelFilter:
        """Normalize a filter of `shape` (B, N) points, inside `mask` (B, N) if given.

        With n the response to ones, "symmetric" scales input and output by n^-½, "before" the input
        by 1/n and "after" the output. Pixels outside the mask send nothing and receive nothing.
        """
        term = ops.Term(gaussian.kind, gaussian.arrays, mask)
        size, engine = gaussian.size, gaussian.engine
        before, after = ops.normalizers(term, shape, size, engine, normalization)
        if mask is not None:
            before = mask if before is None else before * mask
            after = mask if after is None else after * mask
        return cls(gaussian, before, after)

    def __call__(self, q: Tensor) -> Tensor:
        """Filter q (B, C, *S)."""
        values = q.flatten(2).transpose(1, 2)
        filtered = ops.apply(self.term, values, self.gaussian.size, self.gaussian.engine)
        return filtered.transpose(1, 2).reshape(q.shape)

    @property
    def differentiable(self) -> bool:
        """Whether a gradient is wanted to what the filter was built from."""
        tensors = (*self.term.arrays, self.term.before, self.term.after)
        return any(tensor is not None and tensor.requires_grad for tensor in tensors)


class GridFilter:
    """Separable convolution with a sampled Gaussian along the axes of a grid.

    Where every pixel takes part, the normalization of a separable kernel is separable too, and is
    folded into its band matrices.
    """

    kind = "grid"

    def __init__(
        self,
        size: Sequence[int],
        bandwidths: Sequence[float] | Tensor,
        reach: float,
        normalization: str,
        like: Tensor,
        engine: EngineName | None,
    ) -> None:
        """Sample the taps; `bandwidths` in the order (x, y, z), `reach` in bandwidths."""
        self.size = tuple(size)
        self.engine = ops.resolve_engine(engine, like.device, like.dtype)
        self.arrays = tuple(
            _band(length, bandwidth, reach, normalization, like)
            for length, bandwidth in zip(size, reversed(list(bandwidths)), strict=True)
        )


class ExactFilter:
    """The exact Gaussian sum, with the interface of `Lattice`."""

    kind = "exact"

    def __init__(self, features: Tensor, *, engine: EngineName | None = None) -> None:
        _checks.finite("features", features)
        self.features = features.reshape(-1, *features.shape[-2:])
        self.size = (features.shape[-2],)
        self.engine = ops.resolve_engine(engine, features.device, features.dtype)
        self.arrays = (self.features,)
        self.tolerance = ops.exact_tolerance(features.dtype)

    def filter(self, values: Tensor, *, reverse: bool = False) -> Tensor:
        """Filter values (..., N, C); the kernel is symmetric, so `reverse` changes nothing."""
        del reverse
        flat = values.reshape(-1, *values.shape[-2:])
        return ops.exact(flat, self.features, self.tolerance, self.engine).reshape(values.shape)


GaussianFilter = Lattice | ExactFilter | GridFilter


def build_filters(
    recipe: Recipe,
    scene: Scene,
    *,
    mask: Tensor | None = None,
    bandwidths: Sequence[Mapping[str, Tensor]] = (),
) -> list[KernelFilter]:
    """Build the normalized filter of every kernel for a batch.

    Args:
        recipe: kernels, normalization, filter and engine.
        scene: what the kernels look at. Its logits give size, type and device.
        mask: (B, *S) bool; pixels outside take no part.
        bandwidths: for each kernel, tensors by the names of its bandwidths, in place of its own;
            gradients reach them, and the image and features that require one.

    Returns:
        One filter per kernel, each mapping (B, C, *S) to itself.
    """
    logits, engine, normalization = scene.like, recipe.engine, recipe.normalization
    inside = None if mask is None else mask.flatten(1).to(logits.dtype)
    shape = logits.shape[0], math.prod(logits.shape[2:])
    filters = []
    for k, kernel in enumerate(recipe.kernels):
        learned = bandwidths[k] if bandwidths else None
        if kernel.is_separable():
            reach = recipe.reach(torch.finfo(logits.dtype).eps)
            widths = kernel.divisors({"position": logits.dim() - 2}, learned)
            folded = normalization if inside is None else "none"
            grid = GridFilter(logits.shape[2:], widths, reach, folded, logits, engine)
            left = "none" if inside is None else normalization
            filters.append(KernelFilter.normalized(grid, shape, left, inside))
        else:
            scaled = kernel.points(scene, learned)
            gaussian: GaussianFilter
            if recipe.filter == "exact":
                gaussian = ExactFilter(scaled, engine=engine)
            else:
                gaussian = Lattice(scaled, engine=engine)
            filters.append(KernelFilter.normalized(gaussian, shape, normalization, inside))
    return filters


def filter_points(
    values: Tensor, points: Tensor, method: str, normalization: str, engine: EngineName
) -> Tensor:
    """`gaussian_filter` on tensors, differentiable in values and points."""
    build = Lattice if method == "lattice" else ExactFilter
    gaussian = build(points, engine=engine).filter
    if normalization == "none":
        return gaussian(values)
    ones = values.new_ones(*values.shape[:-1], 1)
    before, after = ops.factors(gaussian(ones), normalization)
    return after * gaussian(before * values)


def _band(
    size: int, bandwidth: float | Tensor, reach: float, normalization: str, like: Tensor
) -> Tensor:
    """The normalized Gaussian along one axis as a band matrix (size, 2 r + 1)."""
    if isinstance(bandwidth, Tensor) or not like.is_cuda or type(like) is not Tensor:
        return _new_band(size, bandwidth, reach, normalization, like.dtype, like.device)
    # Twenty small launches take the host as long as three steps of the recurrence.
    stream = torch.cuda.current_stream(like.device).cuda_stream
    return _kept_band(size, bandwidth, reach, normalization, like.dtype, like.device, stream)


@functools.lru_cache(maxsize=32)
def _kept_band(
    size: int,
    bandwidth: float,
    reach: float,
    normalization: str,
    dtype: torch.dtype,
    device: torch.device,
    stream: int,
) -> Tensor:
    del stream  # another stream would not wait until the band is there
    with torch.inference_mode(False), torch.no_grad():
        return _new_band(size, bandwidth, reach, normalization, dtype, device)


def _new_band(
    size: int,
    bandwidth: float | Tensor,
    reach: float,
    normalization: str,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    width = _checks.number(bandwidth) if isinstance(bandwidth, Tensor) else bandwidth
    # Where a learned bandwidth cannot be read, as under torch.compile, every source is a tap, and
    # those beyond the reach are zero.
    radius = size - 1 if width is None else min(math.ceil(reach * width), size - 1)
    distance = torch.arange(-radius, radius + 1, device=device)
    source = torch.arange(size, device=device)[:, None] + distance
    inside = (source >= 0) & (source < size)
    if isinstance(bandwidth, Tensor) and width is None:
        inside &= distance.abs() <= (reach * bandwidth.detach().double()).ceil()
    # In double precision, rounded once: the taps of every engine are then equal.
    band = torch.exp(-0.5 * (distance.double() / bandwidth) ** 2) * inside
    if normalization != "none":
        before, after = ops.factors(band.sum(1), normalization)
        band = band * after[:, None] * _at(before, source, radius)
    return band.to(dtype)


def _at(scale: Tensor, source: Tensor, radius: int) -> Tensor:
    """`scale` at each source (size, 2 r + 1), anything beyond the border."""
    if scale.is_cuda:  # the gradient of a gather adds up in any order there
        return torch.nn.functional.pad(scale, (radius, radius)).unfold(0, source.shape[1], 1)
    # Not scale[source], which would wake torch's idle threads.
    places = source.clamp(0, scale.shape[0] - 1).flatten()
    return scale.gather(0, places).view(source.shape)
