"""DenseGaussianCRF: the layer with the names and conventions of the original."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor, nn

from crfrnn import _checks
from crfrnn.core.names import Filter
from crfrnn.crf.frank_wolfe import Step
from crfrnn.crf.kernels import FeatureGaussian, Gaussian
from crfrnn.layer.crfrnn import CRFRNN

from ._params import FrankWolfeParams

SOLVERS = ("fw", "mf")


class DenseGaussianCRF(nn.Module):
    """The fully connected CRF with the interface of netw0rkf10w/CRF, on this library's engines.

    The kernels are a bilateral and a spatial Gaussian, with the normalization "after". The penalty
    for unequal labels is `compatibility` times Potts. From this start, kernel weights (as matrices)
    and the compatibility are learned. Arguments and defaults are those of the original's
    documentation. The attribute `layer`, a `crfrnn.CRFRNN`, does the work.

    Args:
        classes: C, the channels of the logits.
        alpha: bandwidth of the bilateral kernel's position, in pixels.
        beta: bandwidth of its color, in units of the image: 0.05 for an image on 0..1 is 12.75 for
            one on 0..255.
        gamma: bandwidth of the spatial kernel, in pixels.
        spatial_weight: weight of the spatial kernel.
        bilateral_weight: weight of the bilateral kernel.
        compatibility: the penalty for unequal labels.
        init: "potts".
        solver: "fw", Frank-Wolfe, or "mf", mean field.
        iterations: steps, in training and in evaluation.
        params: the parameters of "fw"; None for the defaults. "mf" ignores them.
        output_logits: return logits; if not, probabilities.
        filter: "lattice", like the original, or "exact": the Gaussian sum itself.

    Example:
        >>> import torch
        >>> from crfrnn.frankwolfe import DenseGaussianCRF, FrankWolfeParams
        >>> params = FrankWolfeParams(regularizer="l2", x0_weight=0.0)
        >>> crf = DenseGaussianCRF(classes=2, alpha=12, beta=0.03, gamma=4, params=params)
        >>> crf(torch.rand(1, 3, 8, 9), torch.randn(1, 2, 8, 9)).shape  # the image comes first
        torch.Size([1, 2, 8, 9])
    """

    def __init__(
        self,
        classes: int,
        alpha: float = 160.0,
        beta: float = 0.05,
        gamma: float = 3.0,
        spatial_weight: float = 1.0,
        bilateral_weight: float = 1.0,
        compatibility: float = 1.0,
        init: str = "potts",
        solver: str = "fw",
        iterations: int = 5,
        params: FrankWolfeParams | None = None,
        *,
        output_logits: bool = True,
        filter: Filter = "lattice",
        **others: Any,
    ) -> None:
        super().__init__()
        if others:
            raise TypeError(
                f"DenseGaussianCRF: {', '.join(others)}: not supported; leave it out. Options "
                f"beyond those of the original's documentation are those of crfrnn.CRFRNN."
            )
        if init != "potts":
            raise ValueError(
                f"DenseGaussianCRF: init must be 'potts'; got {init!r}. crfrnn.CRFRNN(compatibility"
                f"=matrix) starts from a matrix."
            )
        if isinstance(compatibility, bool) or not isinstance(compatibility, (int, float)):
            raise TypeError(
                f"DenseGaussianCRF: compatibility must be a number, which scales Potts; got "
                f"{type(compatibility).__name__}. crfrnn.CRFRNN(compatibility=matrix) takes a "
                f"matrix."
            )
        if not math.isfinite(compatibility):
            raise ValueError(f"DenseGaussianCRF: compatibility must be finite; got {compatibility}")
        _checks.one_of("DenseGaussianCRF: solver", solver, SOLVERS)
        if params is not None and not isinstance(params, FrankWolfeParams):
            raise TypeError(
                f"DenseGaussianCRF: params must be a FrankWolfeParams; got {type(params).__name__}"
            )
        _checks.count("DenseGaussianCRF: classes", classes, least=1)
        for name, bandwidth in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
            _checks.positive(f"DenseGaussianCRF: {name}", bandwidth, "a standard deviation")
        step = _step(params or FrankWolfeParams()) if solver == "fw" else Step()
        self.layer = CRFRNN(
            classes,
            [
                # Not `Bilateral`, whose image is on 0..255: any scale will do here.
                FeatureGaussian(bandwidth=beta, position=alpha, weight=bilateral_weight),
                Gaussian(position=gamma, weight=spatial_weight, lattice=filter == "lattice"),
            ],
            iterations=iterations,
            eval_iterations=iterations,
            weights="matrix",
            compatibility=compatibility * (1 - np.eye(classes)),
            normalization="after",
            filter=filter,
            step=step,
        )
        self.output_logits = output_logits

    def forward(self, image: Tensor, logits: Tensor) -> Tensor:
        """Refine logits.

        Args:
            image: (B, F, H, W) of any channels, on the scale that `beta` refers to. No gradient
                reaches it.
            logits: (B, C, H, W).

        Returns:
            Logits, or probabilities, of the type of `logits`.

        Example:
            >>> import torch
            >>> from crfrnn.frankwolfe import DenseGaussianCRF
            >>> crf = DenseGaussianCRF(classes=3, output_logits=False)
            >>> q = crf(torch.rand(1, 3, 4, 5), torch.zeros(1, 3, 4, 5))
            >>> bool(torch.allclose(q, torch.full_like(q, 1 / 3)))
            True
        """
        for name, value in (("image", image), ("logits", logits)):
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"DenseGaussianCRF: {name} must be a torch tensor; got {type(value).__name__}"
                )
        classes = self.layer.num_classes
        if logits.dim() > 1 < image.dim() and logits.shape[1] != classes == image.shape[1]:
            raise ValueError(
                f"DenseGaussianCRF: the image comes first, crf(image, logits); got an image "
                f"{_checks.shape_text(image)} and logits {_checks.shape_text(logits)} for "
                f"{classes} classes"
            )
        if image.shape[2:] != logits.shape[2:] or len(image) != len(logits):
            # A feature map may have another size; an image that does is a mistake.
            is_bare = image.dim() == logits.dim() == 3 and image.shape[1:] == logits.shape[1:]
            remedy = (
                "For one image without a batch axis, give image[None] and logits[None]."
                if is_bare
                else "Upsample the logits first, for example with torch.nn.functional.interpolate."
            )
            raise ValueError(
                f"DenseGaussianCRF: image and logits must have the same batch and size; got an "
                f"image {_checks.shape_text(image)} and logits {_checks.shape_text(logits)}. "
                f"{remedy}"
            )
        z: Tensor = self.layer(logits, None, features=[image.detach()])
        return z if self.output_logits else z.softmax(1)


def _step(params: FrankWolfeParams) -> Step:
    return Step(
        params.regularizer,
        strength=params.lambda_,
        size=params.stepsize,
        learn="strength" if params.lambda_learnable else False,
        mix=params.x0_weight,
    )
