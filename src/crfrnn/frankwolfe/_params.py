"""The parameters of a Frank-Wolfe solver, by the names of the original."""

from __future__ import annotations

from dataclasses import dataclass

from crfrnn import _checks

_REGULARIZERS = ("l2", "entropy")


@dataclass
class FrankWolfeParams:
    """How the solver "fw" of `DenseGaussianCRF` takes its steps.

    The defaults are those of the original's documentation. `crfrnn.Step` is the same with this
    library's names.

    Args:
        scheme: "fixed", a constant step size.
        stepsize: α in (0, 1].
        regularizer: "l2", or "entropy", which is mean field with `lambda_` and `stepsize` 1.
        lambda_: λ > 0, the strength of the regularizer.
        lambda_learnable: learn λ.
        x0_weight: share of the starting distribution in the result, in [0, 1). In training it keeps
            gradients from vanishing; use 0 for inference.
        x0_weight_learnable: not supported.

    Example:
        >>> from crfrnn.frankwolfe import FrankWolfeParams
        >>> FrankWolfeParams(regularizer="l2", x0_weight=0.0).lambda_
        1.0
    """

    scheme: str = "fixed"
    stepsize: float = 1.0
    regularizer: str = "l2"
    lambda_: float = 1.0
    lambda_learnable: bool = False
    x0_weight: float = 0.5
    x0_weight_learnable: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        if self.scheme != "fixed":
            raise ValueError(
                f"FrankWolfeParams: scheme must be 'fixed', a constant step; got {self.scheme!r}. "
                f"crfrnn.CRFRNN(step=crfrnn.Step(learn=True)) learns the size of the step."
            )
        if self.x0_weight_learnable:
            raise ValueError(
                "FrankWolfeParams: x0_weight_learnable is not supported; give x0_weight a number"
            )
        _checks.one_of("FrankWolfeParams: regularizer", self.regularizer, _REGULARIZERS)
        _checks.positive("FrankWolfeParams: lambda_", self.lambda_, "a weight")
        if not 0 < self.stepsize <= 1:
            raise ValueError(f"FrankWolfeParams: stepsize must be in (0, 1]; got {self.stepsize!r}")
        if not 0 <= self.x0_weight < 1:
            raise ValueError(
                f"FrankWolfeParams: x0_weight must be in [0, 1); got {self.x0_weight!r}"
            )
