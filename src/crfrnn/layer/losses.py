"""DenseCRFLoss: the energy of a fully connected CRF as a loss, for training with few labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from crfrnn import _checks
from crfrnn.core.names import FILTERS, NORMALIZATIONS, EngineName, Filter, Normalization
from crfrnn.crf.kernel import Kernel
from crfrnn.crf.kernels import Bilateral, checked_kernels, weight_table
from crfrnn.crf.recipe import Recipe

from .inputs import check_logits
from .prepared import Guide, Prepared, prepare_alone, take


class DenseCRFLoss(nn.Module):
    """Potts energy of a network's soft segmentation: neighbors that look alike should agree.

    The regularized loss of Tang et al. (ECCV 2018, arXiv 1803.09569) for scribbles, boxes and other
    partial labels: add it, with a small factor, to a cross-entropy over the labeled pixels. Per
    image, with S = softmax(logits),

    `loss = 1/N Σ_k w_k Σ_c ⟨S_c, F_k (1 - S_c)⟩`,

    averaged over the batch. N is the number of pixels that take part; an image without any counts
    as 0 and has a gradient of zero. The loss has no parameters.

    Args:
        kernels: default is one `Bilateral` of 100 pixels and 15 color units, the authors' setting,
            with weight 1. A kernel with one weight per class scales the terms of each class.
        normalization: "symmetric", "after", "before" or "none". With "symmetric", the default, the
            loss lies between 0 and about the sum of the weights.
        filter: "lattice" or "exact".
        engine: "reference", "cpu" or "triton"; default is the fastest for the device.

    Example:
        >>> import torch
        >>> from crfrnn import DenseCRFLoss
        >>> logits, image = torch.zeros(1, 2, 6, 7), torch.full((1, 3, 6, 7), 90.0)
        >>> DenseCRFLoss()(logits, image)  # undecided everywhere
        tensor(0.5000)
    """

    def __init__(
        self,
        kernels: Sequence[Kernel] | None = None,
        *,
        normalization: Normalization = "symmetric",
        filter: Filter = "lattice",
        engine: EngineName | None = None,
    ) -> None:
        super().__init__()
        _checks.one_of("normalization", normalization, NORMALIZATIONS)
        _checks.one_of("filter", filter, FILTERS)
        default = (Bilateral(position=100.0, color=15.0, weight=1.0),)
        chosen = default if kernels is None else checked_kernels(kernels)
        self.recipe = Recipe(chosen, normalization, filter, engine=engine)

    def forward(
        self,
        logits: Float[Tensor, "B C *S"],
        image: Shaped[Tensor, "B F *S"] | Prepared | None = None,
        *,
        mask: Bool[Tensor, " B *S"] | None = None,
        features: Sequence[Tensor] = (),
    ) -> Float[Tensor, ""]:
        """Compute the loss.

        Args:
            logits: (B, C, *S) scores before softmax.
            image: (B, F, *S) on 0..255, as `CRFRNN` takes it, or the result of `prepare`.
            mask: bool; False leaves out a pixel, such as padding or void. Unlabeled pixels belong
                inside: this loss is for them.
            features: maps (B, F, *s) of any resolution that `FeatureGaussian` kernels refer to.

        Example:
            >>> import torch
            >>> from crfrnn import DenseCRFLoss
            >>> image = torch.zeros(1, 3, 1, 8)
            >>> image[..., 4:] = 200
            >>> along = torch.tensor([9.0] * 4 + [-9.0] * 4).view(1, 1, 1, 8)  # changes at the edge
            >>> across = along.roll(2, -1)
            >>> loss = DenseCRFLoss()
            >>> [round(float(loss(torch.cat([z, -z], 1), image)), 2) for z in (along, across)]
            [0.0, 0.5]
        """
        logits = check_logits("DenseCRFLoss", logits, None, image)
        _checks.finite("DenseCRFLoss: logits", logits)
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        # A sum over all pixels needs more digits than half precision has.
        with torch.autocast(logits.device.type, enabled=False):
            s = logits.to(dtype).softmax(1)
            prepared = take("DenseCRFLoss", self.recipe, s, Guide(image, mask, features))
            weights = torch.from_numpy(weight_table(self.recipe.kernels, s.shape[1])).to(s)
            _checks.finite(f"DenseCRFLoss: kernel weights in {dtype}", weights)
            pixels: Tensor | int = s[:, 0].flatten(1).shape[1]
            if prepared.mask is not None:  # an image without pixels has no energy, and no gradient
                pixels = prepared.mask.sum(1).clamp_min(1)
            # The Potts energy of soft labels is the sum of S_c(i) F(i, j) S_d(j) over ordered pairs
            # of pixels and over d ≠ c. Since Σ_d S_d = 1, the sum over d is 1 - S_c: one filter
            # per class is enough. F (1 - S_c) is not 1 - F S_c, because only filters normalized
            # "after" keep the constant 1.
            energy = s.new_zeros(len(s))
            for kernel_filter, weight in zip(prepared.filters, weights, strict=True):
                disagreement = s * kernel_filter(1 - s)
                energy = energy + disagreement.flatten(2).sum(2) @ weight
            # Per pixel: the factor beside a mean cross-entropy then holds for every image size.
            loss = (energy / pixels).mean()
        _checks.finite_result("DenseCRFLoss", loss, weights=weights, logits=logits)
        return loss

    def prepare(
        self,
        image: Shaped[Tensor, "B F *S"],
        *,
        mask: Bool[Tensor, " B *S"] | None = None,
        features: Sequence[Tensor] = (),
        dtype: torch.dtype = torch.float32,
    ) -> Prepared:
        """Build lattices and normalizers once, to pass in place of the image in later calls.

        Example:
            >>> import torch
            >>> from crfrnn import DenseCRFLoss
            >>> loss, image = DenseCRFLoss(), torch.rand(1, 3, 6, 7) * 255
            >>> prepared, logits = loss.prepare(image), torch.randn(1, 2, 6, 7)
            >>> torch.equal(loss(logits, prepared), loss(logits, image))
            True
        """
        return prepare_alone("DenseCRFLoss", self.recipe, Guide(image, mask, features), dtype)

    def extra_repr(self) -> str:
        """Describe the loss in one line.

        Example:
            >>> from crfrnn import DenseCRFLoss
            >>> DenseCRFLoss().extra_repr()
            "kernels=[Bilateral(position=100.0, color=15.0, weight=1.0)], normalization='symmetric'"
        """
        kernels = ", ".join(map(str, self.recipe.kernels))
        return f"kernels=[{kernels}], normalization={self.recipe.normalization!r}"
