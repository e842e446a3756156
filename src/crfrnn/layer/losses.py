"""Losses for training with few labels: relaxed Potts energies of a network's segmentation.

`DenseCRFLoss` is `PottsLoss` as Tang et al. (2018) used it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn

from crfrnn import _checks
from crfrnn.core import names
from crfrnn.crf.edges import Neighborhood, weight_of
from crfrnn.crf.kernel import Kernel
from crfrnn.crf.kernels import Bilateral, checked_kernels, weight_table
from crfrnn.crf.recipe import Recipe

from . import relaxations
from .inputs import check_logits
from .prepared import Guide, Prepared, prepare_alone, take
from .soft_labels import minimize, seeds

#: The setting of Tang et al. (2018).
_KERNELS = (Bilateral(position=100.0, color=15.0, weight=1.0),)


class PottsLoss(nn.Module):
    """Potts energy of a network's soft segmentation: neighbors that look alike should agree.

    For training with scribbles and other partial labels: add it to the cross-entropy of the labeled
    pixels. With S = softmax(logits) and the weights K_ij of pairs of pixels, per image

    `loss = 1/N Σ_ij K_ij P(S_i, S_j) + entropy_weight · 1/N Σ_i H(S_i)`,

    averaged over the batch. N is the number of pixels that take part; an image without any counts
    as 0 and has a gradient of zero. The loss has no parameters.

    The relaxations P of the Potts penalty are those of Zhang & Boykov (CVPR 2025,
    arXiv 2507.01721), by their names there:

    | `relaxation` | `log=False` | `log=True`, -log(1 - P) |
    | --- | --- | --- |
    | "bilinear" | 1 - p·q | -log p·q, collision cross-entropy |
    | "quadratic" | ½ ‖p - q‖² | -log(1 - ½ ‖p - q‖²), log-quadratic |
    | "normalized" | 1 - p·q / (‖p‖ ‖q‖) | -log(p·q / (‖p‖ ‖q‖)), collision divergence |

    Args:
        kernels: their sum weights the pairs. Default is one `Bilateral` of 100 pixels and 15 color
            units with weight 1. A kernel with one weight per class scales the terms of each class;
            this is for "bilinear" and "quadratic" over all pairs.
        relaxation: "bilinear" prefers certain labels, "quadratic" undecided ones at boundaries,
            "normalized" neither.
        log: take -log(1 - P), whose gradient does not vanish where pixels are certain; needs
            `neighbors`.
        neighbors: compare each pixel only with those near it. Weights are divided by the number of
            neighbors, and not normalized otherwise.
        entropy: "shannon", or "collision" for -log Σ_c p_c²; None leaves the term out.
        entropy_weight: factor of the entropy term.
        normalization: "symmetric" (default), "after", "before" or "none", over all pairs. With
            "symmetric" the Potts term lies between 0 and about the sum of the weights.
        filter: "lattice" or "exact", over all pairs.
        engine: "reference", "cpu" or "triton"; default is the fastest for the device.

    Example:
        >>> import torch
        >>> from crfrnn import Bilateral, Neighborhood, PottsLoss
        >>> loss = PottsLoss(
        ...     [Bilateral(100, 15, weight=1)],
        ...     relaxation="normalized", log=True, neighbors=Neighborhood(1), entropy="collision",
        ... )
        >>> logits, image = torch.zeros(1, 2, 6, 7), torch.full((1, 3, 6, 7), 90.0)
        >>> loss(logits, image)  # all agree, and all are undecided: log 2
        tensor(0.6931)
    """

    _owner = "PottsLoss"

    def __init__(
        self,
        kernels: Sequence[Kernel] | None = None,
        *,
        relaxation: names.Relaxation = "bilinear",
        log: bool = False,
        neighbors: Neighborhood | None = None,
        entropy: names.Entropy | None = None,
        entropy_weight: float = 1.0,
        normalization: names.Normalization | None = None,
        filter: names.Filter | None = None,
        engine: names.EngineName | None = None,
    ) -> None:
        super().__init__()
        _checks.one_of("relaxation", relaxation, names.RELAXATIONS)
        if entropy is not None:
            _checks.one_of("entropy", entropy, names.ENTROPIES)
        if neighbors is not None and not isinstance(neighbors, Neighborhood):
            raise TypeError(
                f"{self._owner}: neighbors must be a Neighborhood, such as Neighborhood(1.5); got "
                f"{neighbors!r}"
            )
        _checks.finite_numbers(f"{self._owner}: entropy_weight", entropy_weight)
        chosen = _KERNELS if kernels is None else checked_kernels(kernels)
        if neighbors is None and log:
            raise ValueError(
                f"{self._owner}: log=True needs neighbors=, such as Neighborhood(1.5): the "
                f"logarithm of a penalty cannot be summed over all pairs by a filter"
            )
        if neighbors is not None:
            for name, value in (("normalization", normalization), ("filter", filter)):
                if value is not None:
                    raise ValueError(
                        f"{self._owner}: {name}={value!r} is for filters over all pairs; leave out "
                        f"either it or neighbors="
                    )
            if not chosen:
                raise ValueError(f"{self._owner}: neighbors= needs at least one kernel; got none")
        if neighbors is not None or relaxation == "normalized":
            for kernel in chosen:
                weight_of(kernel)
        normalization = "symmetric" if normalization is None else normalization
        filter = "lattice" if filter is None else filter
        _checks.one_of("normalization", normalization, names.NORMALIZATIONS)
        _checks.one_of("filter", filter, names.FILTERS)
        self.relaxation, self.log = relaxation, bool(log)
        self.entropy, self.entropy_weight = entropy, float(entropy_weight)
        self.recipe = Recipe(chosen, normalization, filter, engine=engine, neighbors=neighbors)

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
            mask: bool; False leaves out a pixel, such as padding or void. Keep unlabeled pixels:
                this loss is for them.
            features: maps (B, F, *s) of any resolution that `FeatureGaussian` kernels refer to.

        Example:
            >>> import torch
            >>> from crfrnn import PottsLoss
            >>> image = torch.zeros(1, 3, 1, 8)
            >>> image[..., 4:] = 200
            >>> along = torch.tensor([9.0] * 4 + [-9.0] * 4).view(1, 1, 1, 8)  # changes at the edge
            >>> across = along.roll(2, -1)
            >>> loss = PottsLoss()
            >>> [round(float(loss(torch.cat([z, -z], 1), image)), 2) for z in (along, across)]
            [0.0, 0.5]
        """
        z, prepared = self._take(logits, Guide(image, mask, features))
        # A sum over all pixels needs more digits than half precision has.
        with torch.autocast(z.device.type, enabled=False):
            loss = self._energy(z, prepared)
            if self.entropy is not None:
                undecided = relaxations.entropy(self.entropy, z.log_softmax(1))
                loss = loss + self.entropy_weight * _mean(undecided, prepared)
            loss = loss.mean()
        _checks.finite_result(self._owner, loss, weights=self._weights(z), logits=z)
        return loss

    @torch.no_grad()
    def self_labels(
        self,
        logits: Float[Tensor, "B C *S"],
        image: Shaped[Tensor, "B F *S"] | Prepared | None = None,
        labels: Int64[Tensor, " B *S"] | None = None,
        *,
        mask: Bool[Tensor, " B *S"] | None = None,
        features: Sequence[Tensor] = (),
        cross: names.CrossEntropy = "collision",
        attachment: float = 1.0,
        steps: int = 20,
    ) -> Float[Tensor, "B C *S"]:
        """Find soft labels that agree with the predictions, the image and the labeled pixels.

        They minimize `attachment · 1/N Σ_i H(y_i, S_i) + 1/N Σ_ij K_ij P(y_i, y_j)` over
        distributions y, with y fixed at labeled pixels, by gradient descent on the logits of y,
        which start as those of the network. A step that would raise the energy of an image is
        skipped, and the next one is half as long. No gradient reaches the logits.

        Train on them with `soft_cross_entropy(logits, y, kind=cross)`, and on the labeled pixels
        with the ordinary cross-entropy.

        Args:
            logits: (B, C, *S) scores before softmax.
            image: as in `forward`; the result of `prepare` saves time.
            labels: class ids (B, *S), 255 where a pixel has no label.
            mask: as in `forward`; pixels outside keep their predictions.
            features: as in `forward`.
            cross: the H above, a `kind` of `soft_cross_entropy`.
            attachment: weight of the predictions. The weights of the kernels are relative to it.
            steps: number of steps of gradient descent.

        Returns:
            Probabilities y of the type of `logits`, float32 at least.

        Example:
            >>> import torch
            >>> from crfrnn import Bilateral, Neighborhood, PottsLoss
            >>> image = torch.zeros(1, 3, 1, 6)
            >>> image[..., 3:] = 200  # an edge in the middle
            >>> labels = torch.tensor([[[0, 255, 255, 255, 255, 1]]])  # both ends are labeled
            >>> loss = PottsLoss(
            ...     [Bilateral(100, 15, weight=40)],
            ...     relaxation="normalized",
            ...     neighbors=Neighborhood(),
            ... )
            >>> y = loss.self_labels(torch.zeros(1, 2, 1, 6), image, labels, steps=50)
            >>> y.argmax(1)
            tensor([[[0, 0, 0, 1, 1, 1]]])
        """
        _checks.one_of("cross", cross, names.CROSS_ENTROPIES)
        (attachment,) = _checks.positive(f"{self._owner}: attachment", attachment, "a weight")
        _checks.count(f"{self._owner}: steps", steps)
        z, prepared = self._take(logits, Guide(image, mask, features))
        log_p = z.log_softmax(1)
        fixed = None if labels is None else seeds(self._owner, labels, log_p)

        def energy(log_y: Tensor) -> Tensor:
            apart = relaxations.cross_entropy(cross, log_p, log_y)
            return attachment * _mean(apart, prepared) + self._energy(log_y, prepared)

        with torch.autocast(z.device.type, enabled=False):
            return minimize(energy, log_p, fixed, steps).exp()

    def prepare(
        self,
        image: Shaped[Tensor, "B F *S"],
        *,
        mask: Bool[Tensor, " B *S"] | None = None,
        features: Sequence[Tensor] = (),
        dtype: torch.dtype = torch.float32,
    ) -> Prepared:
        """Build lattices and normalizers, or weigh pairs, once, to pass in place of the image.

        Example:
            >>> import torch
            >>> from crfrnn import PottsLoss
            >>> loss, image = PottsLoss(), torch.rand(1, 3, 6, 7) * 255
            >>> prepared, logits = loss.prepare(image), torch.randn(1, 2, 6, 7)
            >>> torch.equal(loss(logits, prepared), loss(logits, image))
            True
        """
        return prepare_alone(self._owner, self.recipe, Guide(image, mask, features), dtype)

    def extra_repr(self) -> str:
        """Describe the loss in one line.

        Example:
            >>> from crfrnn import Neighborhood, PottsLoss
            >>> PottsLoss(relaxation="quadratic", neighbors=Neighborhood()).extra_repr()
            "kernels=[Bilateral(...)], relaxation='quadratic', neighbors=Neighborhood(...)"
        """
        kernels = ", ".join(map(str, self.recipe.kernels))
        parts = [f"kernels=[{kernels}]", f"relaxation={self.relaxation!r}"]
        if self.log:
            parts.append("log=True")
        if self.recipe.neighbors is None:
            parts.append(f"normalization={self.recipe.normalization!r}")
        else:
            parts.append(f"neighbors={self.recipe.neighbors}")
        if self.entropy is not None:
            parts.append(f"entropy={self.entropy!r}, entropy_weight={self.entropy_weight:g}")
        return ", ".join(parts)

    def _take(self, given: Tensor, guide: Guide) -> tuple[Tensor, Prepared]:
        """Check the input; return the logits as they are computed with, and filters or pairs."""
        logits = check_logits(self._owner, given, None, guide.image)
        _checks.finite(f"{self._owner}: logits", logits)
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        with torch.autocast(logits.device.type, enabled=False):
            z = logits.to(dtype)
            return z, take(self._owner, self.recipe, z, guide)

    def _energy(self, z: Tensor, prepared: Prepared) -> Tensor:
        """The Potts term (B) of softmax(z), per pixel.

        Its weight beside a mean cross-entropy then suits every image size.
        """
        weights = self._weights(z)
        if self.recipe.neighbors is not None:
            pairs = prepared.pairs
            energy = relaxations.over_pairs(self.relaxation, self.log, z.log_softmax(1), pairs)
        else:
            filters = prepared.filters
            energy = relaxations.over_filters(self.relaxation, z.softmax(1), filters, weights)
        return energy / _pixels(z, prepared)

    def _weights(self, z: Tensor) -> Tensor:
        """The kernel weights (K, C) in the type of the logits."""
        weights = torch.from_numpy(weight_table(self.recipe.kernels, z.shape[1])).to(z)
        _checks.finite(f"{self._owner}: kernel weights in {z.dtype}", weights)
        return weights


class DenseCRFLoss(PottsLoss):
    """The regularized loss of Tang et al. (ECCV 2018, arXiv 1803.09569), over all pairs of pixels.

    `PottsLoss` with the bilinear relaxation and no entropy term: per image, with
    S = softmax(logits),

    `loss = 1/N Σ_k w_k Σ_c ⟨S_c, F_k (1 - S_c)⟩`.

    Args:
        kernels: as in `PottsLoss`; the default is the authors' setting.
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

    _owner = "DenseCRFLoss"

    def __init__(
        self,
        kernels: Sequence[Kernel] | None = None,
        *,
        normalization: names.Normalization = "symmetric",
        filter: names.Filter = "lattice",
        engine: names.EngineName | None = None,
    ) -> None:
        super().__init__(kernels, normalization=normalization, filter=filter, engine=engine)


def _mean(values: Tensor, prepared: Prepared) -> Tensor:
    """The mean (B) of (B, *S) over the pixels that take part."""
    flat = values.flatten(1)
    if prepared.mask is not None:
        flat = flat * prepared.mask
    return flat.sum(1) / _pixels(values[:, None], prepared)


def _pixels(like: Tensor, prepared: Prepared) -> Tensor | int:
    """The pixels of each image that take part; an image without any has no energy."""
    if prepared.mask is None:
        return like[:, 0].flatten(1).shape[1]
    return prepared.mask.sum(1).clamp_min(1)
