"""The configuration of the layer on top of the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from crfrnn.core.names import Filter, Normalization, Weights
from crfrnn.crf.kernel import Kernel
from crfrnn.presets import find_preset

from ._limits import at_least


@dataclass(frozen=True)
class CrfConfig:
    """The layer to put on top of the network; the fields are the arguments of `CRFRNN`.

    Attributes:
        preset: name of a preset, or a preset file, with the initial parameters.
        kernels: kernels in place of the preset's. A file spells each as a mapping of `kind`, the
            name of its class, and the arguments of that class.
        iterations: mean-field steps during training.
        eval_iterations: mean-field steps during evaluation.
        weights: "scalar", "class" or "matrix".
        learn_compatibility: learn the label compatibility.
        normalization: "symmetric", "after", "before" or "none"; default is the preset's.
        filter: "lattice" or "exact".
        learn_bandwidths: learn the bandwidths too.
        step: arguments of `crfrnn.Step`: regularizer, strength, size, learn, mix.
    """

    preset: str = "deeplab"
    kernels: tuple[Kernel, ...] | None = None
    iterations: int = 5
    eval_iterations: int = 10
    weights: Weights = "class"
    learn_compatibility: bool = True
    normalization: Normalization | None = None
    filter: Filter = "lattice"
    learn_bandwidths: bool = False
    step: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the preset, the counts and the step now; the layer would refuse them only later."""
        find_preset(self.preset)
        at_least("iterations", self.iterations, 0)
        at_least("eval_iterations", self.eval_iterations, 0)
        self._step()

    def make(self, num_classes: int) -> Any:
        """Make the layer, a `CRFRNN`, for a number of classes."""
        from crfrnn.layer.crfrnn import CRFRNN  # late: it needs torch

        preset = find_preset(self.preset)
        return CRFRNN(
            num_classes,
            preset.kernels if self.kernels is None else self.kernels,
            iterations=self.iterations,
            eval_iterations=self.eval_iterations,
            weights=self.weights,
            learn_compatibility=self.learn_compatibility,
            normalization=self.normalization or preset.normalization,
            filter=self.filter,
            learn_bandwidths=self.learn_bandwidths,
            step=self._step(),
        )

    def _step(self) -> Any:
        from crfrnn.crf.frank_wolfe import Step  # late: it needs torch

        try:
            return Step(**self.step)
        except TypeError as error:
            allowed = "regularizer, strength, size, learn, mix"
            raise ValueError(f"step: {error}; allowed: {allowed}") from None
