"""From kernels and an image to normalised filters, ready for the recurrence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import _checks, ops
from .lattice import ExactFilter, Lattice, normalizers
from .pairwise import Gaussian, Kernel, kernel_points, spread

#: Taps of the separable filter reach this many bandwidths (error 0.03 % of a message).
_REACH = 3.3


class KernelFilter:
    """One kernel on one batch of images: F = D_post · G · D_pre, mapping (B, C, *S) to itself."""

    def __init__(self, run: GaussianFilter, before: Tensor | None, after: Tensor | None) -> None:
        """Scale the filter `run` by `before` and `after` (B, N); None stands for ones."""
        self.run = run
        self.before = before
        self.after = after
        self._total: Tensor | None = None

    @classmethod
    def normalized(
        cls, run: GaussianFilter, ones: Tensor, normalization: str, mask: Tensor | None = None
    ) -> KernelFilter:
        """Normalise `run` by its response to `ones` (B, N), inside `mask` (B, N) if given."""
        if normalization == "none":
            return cls(run, mask, mask)
        if run.engine == "cpu" and ops.direct(ones, *run.arrays):
            power = -0.5 if normalization == "symmetric" else -1.0
            term = ops.Term(run.kind, run.arrays, mask, None, None)
            scale = ops.core_response(term, (len(ones), ones.shape[1]), run.size, power)
            scale = scale if mask is None else scale * mask
            before = mask if normalization == "after" else scale
            return cls(run, before, mask if normalization == "before" else scale)
        norm = run.filter((ones.contiguous() if mask is None else mask)[..., None])[..., 0]
        scales = [s if isinstance(s, Tensor) else None for s in normalizers(norm, normalization)]
        if mask is not None:
            scales = [mask if scale is None else scale * mask for scale in scales]
        return cls(run, *scales)

    def __call__(self, q: Tensor) -> Tensor:
        """Filter q (B, C, *S)."""
        return self._scaled(q.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(q.shape)

    def term(self, like: Tensor, total: bool) -> ops.Term:
        """Hand the arrays to the fused operator; `total` asks for the response to ones (B, N)."""
        if total and self._total is None:
            shape = like.shape[0], math.prod(like.shape[2:])
            if self.run.engine == "cpu" and ops.direct(*self.run.arrays):
                term = ops.Term(self.run.kind, self.run.arrays, self.before, self.after, None)
                self._total = ops.core_response(term, shape, self.run.size, 1.0)
            else:
                self._total = self._scaled(like.new_ones(*shape, 1))[..., 0]
        arrays = self.run.arrays
        return ops.Term(self.run.kind, arrays, self.before, self.after, self._total)

    @property
    def differentiable(self) -> bool:
        """Whether a gradient is wanted to what the filter was built from."""
        tensors = (*self.run.arrays, self.before, self.after)
        return any(tensor is not None and tensor.requires_grad for tensor in tensors)

    def _scaled(self, values: Tensor) -> Tensor:
        values = values if self.before is None else values * self.before[..., None]
        values = self.run.filter(values)
        return values if self.after is None else values * self.after[..., None]


class GridFilter:
    """Separable convolution with a sampled Gaussian along the axes of a grid.

    Where every pixel takes part, the normalisation of a separable kernel is separable too, and is
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
        engine: str | None,
    ) -> None:
        """Sample the taps; `bandwidths` in the order (x, y, z), `reach` in bandwidths."""
        self.size = tuple(size)
        self.engine = ops.resolve_engine(engine, like.device, like.dtype)
        self.arrays = tuple(
            _band(length, bandwidth, reach, normalization, like)
            for length, bandwidth in zip(size, reversed(list(bandwidths)), strict=True)
        )

    def filter(self, values: Tensor) -> Tensor:
        """Convolve values (B, N, C)."""
        grid = values.reshape(values.shape[0], *self.size, values.shape[2])
        return ops.separable(grid, list(self.arrays), self.engine).reshape(values.shape)


GaussianFilter = Lattice | ExactFilter | GridFilter


def build_filters(
    kernels: Sequence[Kernel],
    logits: Tensor,
    image: Tensor | None,
    features: Sequence[Tensor],
    *,
    normalization: str,
    filter: str,
    mask: Tensor | None = None,
    engine: str | None = None,
    bandwidths: Sequence[Tensor] = (),
) -> list[KernelFilter]:
    """Build the normalised filter of every kernel for a batch.

    Args:
        kernels: the pairwise kernels.
        logits: (B, C, *S); gives the sizes, type and device of the computation.
        image: (B, F, *S) on 0..255, which Bilateral kernels need.
        features: maps (B, F, *S) that FeatureGaussian kernels refer to.
        normalization: "symmetric", "after", "before" or "none".
        filter: "lattice" or "exact".
        mask: (B, *S) bool; pixels outside take no part.
        engine: "reference", "cpu" or "triton"; by default the fastest that suits.
        bandwidths: tensors (D,), one per kernel, in place of the kernels' own; gradients reach
            them, and the image and features that require one.

    Returns:
        One filter per kernel, each mapping (B, C, *S) to itself.
    """
    inside = None if mask is None else mask.flatten(1).to(logits.dtype)
    # One number: filling it in torch would wake its threads, which then spin beside the core's.
    ones = logits.new_ones(()).expand(logits.shape[0], math.prod(logits.shape[2:]))
    filters = []
    for k, kernel in enumerate(kernels):
        widths: Sequence[float] | Tensor | None
        if isinstance(kernel, Gaussian) and not kernel.lattice:
            # In exact mode the taps end where they vanish in this float type.
            vanishing = math.sqrt(-2 * math.log(torch.finfo(logits.dtype).eps))
            reach = _REACH if filter == "lattice" else vanishing
            widths = spread(kernel.position, logits.dim() - 2, "Gaussian position", "axes")
            widths = bandwidths[k] if bandwidths else widths
            folded = normalization if inside is None else "none"
            grid = GridFilter(logits.shape[2:], widths, reach, folded, logits, engine)
            left = "none" if inside is None else normalization
            filters.append(KernelFilter.normalized(grid, ones, left, inside))
        else:
            widths = bandwidths[k] if bandwidths else None
            scaled = kernel_points(kernel, logits, image, features, widths)
            run: GaussianFilter
            if filter == "exact":
                run = ExactFilter(scaled, engine=engine)
            else:
                run = Lattice(scaled, engine=engine)
            filters.append(KernelFilter.normalized(run, ones, normalization, inside))
    return filters


def _band(
    size: int, bandwidth: float | Tensor, reach: float, normalization: str, like: Tensor
) -> Tensor:
    """The normalised Gaussian along one axis as a band matrix (size, 2 r + 1)."""
    width = _checks.number(bandwidth) if isinstance(bandwidth, Tensor) else bandwidth
    # Where a learned bandwidth cannot be read, as under torch.compile, every source is a tap.
    radius = size - 1 if width is None else min(math.ceil(reach * width), size - 1)
    distance = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)

    def windows(scale: Tensor) -> Tensor:
        # Not scale[source], which wakes idle threads, and whose gradient on a device adds up in
        # any order.
        edged = torch.nn.functional.pad(scale, (radius, radius))
        return edged.unfold(0, len(distance), 1)

    band = torch.exp(-0.5 * (distance / bandwidth) ** 2) * windows(distance.new_ones(size))
    before, after = normalizers(band.sum(1), normalization)
    if isinstance(after, Tensor):
        band = band * after[:, None]
    if isinstance(before, Tensor):
        band = band * windows(before)
    return band
