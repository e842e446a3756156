"""The options of `refine`, defined once for Python and the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any

from crfrnn import _checks
from crfrnn.core.names import (
    ENGINES,
    FILTERS,
    NORMALIZATIONS,
    PRECISIONS,
    EngineName,
    Filter,
    Normalization,
    Precision,
)
from crfrnn.crf.kernel import Kernel
from crfrnn.crf.kernels import checked_kernels
from crfrnn.io.options import CONFIDENCE, Confidence, Option
from crfrnn.presets import Preset, find_preset


@dataclass(frozen=True)
class RefineOptions:
    """How `refine` infers. The arguments of `refine` document the attributes not listed here.

    `num_classes`, `confidence` and `ignore_index` are checked together with the labels, because
    their limits depend on these.

    Attributes:
        numbers: the preset, with the kernels, iterations and normalization that are given here.

    Example:
        >>> from crfrnn.offline.options import RefineOptions
        >>> RefineOptions(preset="krahenbuhl", normalization="after").numbers.iterations
        5
    """

    preset: Annotated[
        str,
        Option(
            "name of a preset (see below), or a preset file that crfrnn tune wrote",
            metavar="NAME",
            about="crf",
        ),
    ] = "deeplab"
    kernels: Annotated[
        Sequence[Kernel] | None,
        Option("each number of the preset's kernels is an option", about="crf"),
    ] = None
    compatibility: Annotated[
        Any,
        Option(
            "(C, C) penalties for label c beside label d (default Potts: 1 for different labels)",
            metavar="FILE.npy",
            about="crf",
        ),
    ] = None
    iterations: Annotated[
        int | None, Option("mean-field steps (default: the preset's)", metavar="T", about="crf")
    ] = None
    normalization: Annotated[
        Normalization | None,
        Option(
            "how the Gaussian sums are normalized (default: the preset's)",
            choices=NORMALIZATIONS,
            about="crf",
        ),
    ] = None
    filter: Annotated[
        Filter,
        Option("lattice: fast; exact: the Gaussian sum itself, slow", choices=FILTERS, about="crf"),
    ] = "lattice"
    prune: Annotated[
        bool,
        Option(python_only="only comparisons with the full inference turn it off"),
    ] = True
    precision: Annotated[
        Precision,
        Option(
            "half: store the lattice's values as float16, a little faster with many classes",
            choices=PRECISIONS,
            about="crf",
        ),
    ] = "full"
    tol: Annotated[
        float | None,
        Option(
            "stop early when the marginals of an image change by less than X on average; 0.001 is "
            "a good value (default: never)",
            metavar="X",
            about="crf",
        ),
    ] = None
    guard: Annotated[
        bool,
        Option(
            "keep the input where the scores speak against the CRF: in an image where it relabels "
            "more than 0.3 times as many pixels as are unsure (likeliest class below 0.9), and at "
            "a pixel whose new label has a probability below 0.25 in SCORES",
            about="crf",
        ),
    ] = False
    band: Annotated[
        float | None,
        Option(
            "refine only within N pixels of the label changes of SCORES; all other pixels keep "
            "their scores (default: refine all)",
            metavar="N",
            about="crf",
        ),
    ] = None
    num_classes: Annotated[
        int | None,
        Option("labels: number of classes (default: the largest id of all files + 1)", metavar="C"),
    ] = None
    confidence: Confidence = CONFIDENCE
    ignore_index: Annotated[
        int, Option("labels: id of unknown pixels, which the CRF fills in", metavar="ID")
    ] = 255
    engine: Annotated[
        EngineName | None,
        Option(
            "cpu, or reference, which is slow; triton on a GPU (default: the fastest available)",
            metavar="NAME",
            about="crf",
        ),
    ] = None
    numbers: Preset = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Look up the preset, and check what can be checked without an image."""
        numbers = find_preset(self.preset)
        if self.kernels is not None:
            numbers = replace(numbers, kernels=checked_kernels(self.kernels))
        if self.iterations is not None:
            numbers = replace(numbers, iterations=_checks.count("iterations", self.iterations))
        if self.normalization is not None:
            _checks.one_of("normalization", self.normalization, NORMALIZATIONS)
            numbers = replace(numbers, normalization=self.normalization)
        _checks.one_of("filter", self.filter, FILTERS)
        _checks.one_of("precision", self.precision, PRECISIONS)
        if self.engine is not None:
            _checks.one_of("engine", self.engine, ENGINES)
        object.__setattr__(self, "numbers", numbers)
        if self.tol is not None:
            tol = _checks.positive("tol", self.tol, "a mean change")[0]
            object.__setattr__(self, "tol", tol)
        if self.band is not None:
            if isinstance(self.band, (bool, tuple, list)):
                raise TypeError(f"band must be one number of pixels; got {self.band!r}")
            band = _checks.positive("band", self.band, "a distance in pixels")[0]
            object.__setattr__(self, "band", band)

    def parameters(self) -> dict[str, Any]:
        """Return every option as a JSON value, with the numbers of the preset filled in."""
        numbers = self.numbers
        kernels = [kernel.to_dict() for kernel in numbers.kernels]
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return {
            **given,
            "kernels": kernels,
            "iterations": numbers.iterations,
            "normalization": numbers.normalization,
        }
