"""The layer on top of the network, as configuration files spell it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from crfrnn.crf.frank_wolfe import Step
from crfrnn.crf.kernel import Kernel
from crfrnn.layer.crfrnn import CRFRNN
from crfrnn.presets import find_preset

from ._limits import at_least


@dataclass(frozen=True)
class CrfConfig:
    """The layer to put on top of the network; the fields are the arguments of `CRFRNN`.

    Attributes:
        preset: named parameters or a preset file, to start from.
        kernels: kernels instead of those of the preset; in a file, each a mapping with its `kind`,
            the name of its class, and its arguments.
        iterations: mean-field steps while training.
        eval_iterations: steps at test time.
        weights: "scalar", "class" or "matrix".
        learn_compatibility: learn the label compatibility.
        normalization: "symmetric", "after", "before" or "none"; default as in the preset.
        filter: "lattice" or "exact".
        learn_bandwidths: learn the bandwidths too.
        step: arguments of `crfrnn.Step`: regularizer, strength, size, learn, mix.
    """

    preset: str = "deeplab"
    kernels: tuple[Kernel, ...] | None = None
    iterations: int = 5
    eval_iterations: int = 10
    weights: Literal["scalar", "class", "matrix"] = "class"
    learn_compatibility: bool = True
    normalization: Literal["symmetric", "after", "before", "none"] | None = None
    filter: Literal["lattice", "exact"] = "lattice"
    learn_bandwidths: bool = False
    step: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the preset, the counts and the step, which the layer would refuse later."""
        find_preset(self.preset)
        at_least("iterations", self.iterations, 0)
        at_least("eval_iterations", self.eval_iterations, 0)
        self._step()

    def make(self, num_classes: int) -> CRFRNN:
        """The layer for a number of classes."""
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

    def _step(self) -> Step:
        try:
            return Step(**self.step)
        except TypeError as error:
            allowed = "regularizer, strength, size, learn, mix"
            raise ValueError(f"step: {error}; allowed: {allowed}") from None
