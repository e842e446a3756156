"""The numbers that a person chooses, as arguments of `refine`, as a command and as a preset."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crfrnn.core.names import Filter, Normalization
from crfrnn.crf.kernel import Kernel
from crfrnn.crf.kernels import Bilateral, Gaussian
from crfrnn.io.options import CONFIDENCE
from crfrnn.offline.options import RefineOptions
from crfrnn.presets import Preset, describe_preset, find_preset

#: The lowest and highest value and the step of each slider, in the order of the page.
RANGES: dict[str, tuple[float, float, float]] = {
    "position": (1, 200, 1),
    "color": (0.5, 60, 0.5),
    "weight": (0, 20, 0.5),
    "near": (0.5, 30, 0.5),
    "smoothness": (0, 20, 0.5),
    "iterations": (0, 20, 1),
    "band": (0, 50, 1),
}

#: What the link that saves the scribbles calls the file.
CLAMP_FILE = "clamp.png"


@dataclass(frozen=True)
class Choice:
    """The parameters of one refinement.

    Attributes:
        preset: the preset that the numbers started from.
        position: bandwidth of the bilateral kernel in pixels.
        color: its bandwidth in color units of 0..255.
        weight: its weight.
        near: bandwidth of the Gaussian kernel in pixels.
        smoothness: its weight.
        iterations: mean-field steps.
        normalization: as in `refine`.
        filter: "lattice" or "exact".
        guard: whether the input is kept where the scores speak against the CRF.
        band: only pixels this near to a change of labels are free; 0 for all.
    """

    preset: str = "deeplab"
    position: float = 67.0
    color: float = 3.0
    weight: float = 4.0
    near: float = 1.0
    smoothness: float = 3.0
    iterations: int = 10
    normalization: Normalization = "symmetric"
    filter: Filter = "lattice"
    guard: bool = False
    band: int = 0

    @classmethod
    def of_preset(cls, name: str) -> Choice:
        """Return the numbers of a preset, or of a file of parameters.

        Raises:
            ValueError: its kernels are not one `Bilateral` and one `Gaussian` with single numbers.
        """
        preset = find_preset(name)
        numbers: dict[str, Any] = {}
        for kernel in preset.kernels:
            if isinstance(kernel, Bilateral):
                numbers |= {
                    "position": kernel.position,
                    "color": kernel.color,
                    "weight": kernel.weight,
                }
            elif isinstance(kernel, Gaussian) and not kernel.lattice:
                numbers |= {"near": kernel.position, "smoothness": kernel.weight}
        kinds = sorted(type(kernel).__name__ for kernel in preset.kernels)
        single = all(isinstance(value, (int, float)) for value in numbers.values())
        if kinds != ["Bilateral", "Gaussian"] or len(numbers) != 5 or not single:
            raise ValueError(
                f"{name}: the page has sliders for one Bilateral and one Gaussian kernel with "
                f"single numbers; got {', '.join(map(repr, preset.kernels))}"
            )
        return cls(
            name,
            **numbers,
            iterations=preset.iterations,
            normalization=preset.normalization,
        )

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The pairwise kernels."""
        return (
            Bilateral(position=self.position, color=self.color, weight=self.weight),
            Gaussian(position=self.near, weight=self.smoothness),
        )

    def options(self, confidence: float = CONFIDENCE) -> RefineOptions:
        """The options of a refinement; `confidence` as in `refine`, for labels."""
        return RefineOptions(
            confidence=confidence,
            kernels=self.kernels,
            iterations=self.iterations,
            normalization=self.normalization,
            filter=self.filter,
            guard=self.guard,
            band=self.band or None,
        )

    def arguments(self) -> dict[str, Any]:
        """The arguments of `refine`, without those that are left at their default."""
        arguments: dict[str, Any] = {
            "kernels": list(self.kernels),
            "iterations": self.iterations,
            "normalization": self.normalization,
        }
        if self.filter != "lattice":
            arguments["filter"] = self.filter
        if self.guard:
            arguments["guard"] = True
        if self.band:
            arguments["band"] = self.band
        return arguments

    def as_preset(self, name: str = "mine") -> Preset:
        """The numbers as a preset, for a file that `refine(preset=...)` reads."""
        source = f"chosen with crfrnn app, starting from {self.preset}"
        return Preset(name, self.kernels, self.iterations, self.normalization, "", source)


def limits(start: Choice) -> dict[str, tuple[float, float]]:
    """The lowest and highest value of each slider; they reach to the numbers that it starts with.

    Example:
        >>> from crfrnn.app.choice import Choice, limits
        >>> limits(Choice(position=300))["position"]
        (1, 300)
    """
    values = {name: getattr(start, name) for name in RANGES}
    return {
        name: (min(low, values[name]), max(high, values[name]))
        for name, (low, high, _) in RANGES.items()
    }


def python_text(
    choice: Choice,
    scores: str,
    *,
    imports: Sequence[str] = (),
    setup: Sequence[str] = (),
    clamp: str = "",
) -> str:
    """Return the refinement as Python code.

    Args:
        choice: the parameters.
        scores: the argument with the scores, such as "logits=logits".
        imports: further imports, by package of this library.
        setup: the lines that define `image` and the scores.
        clamp: the name of the map of scribbles, if there are any.
    """
    ours = ["from crfrnn import Bilateral, Gaussian, refine"]
    others: list[str] = []
    for line in imports:
        (ours if line.startswith("from crfrnn") else others).append(line)
    lines = [*others, *([""] if others else []), *ours, "", *setup, *([""] if setup else [])]
    lines += ["result = refine(", "    image,", f"    {scores},", "    kernels=["]
    lines += [f"        {_call(kernel)}," for kernel in choice.kernels]
    lines.append("    ],")
    rest = {name: value for name, value in choice.arguments().items() if name != "kernels"}
    lines += [f"    {name}={_value(value)}," for name, value in rest.items()]
    lines += [f"    clamp={clamp},"] if clamp else []
    return "\n".join([*lines, ")", "labels = result.labels"])


def quoted(text: str) -> str:
    """A text as a literal of Python."""
    return json.dumps(text, ensure_ascii=False)


def command_text(choice: Choice, image: str, scores: str, more: tuple[str, ...] = ()) -> str:
    """Return the refinement as a command; `more` holds options beside the parameters."""
    start = Choice.of_preset(choice.preset)
    words = ["crfrnn", "refine", image, scores, "-o", "labels.png", *more]
    words += ["--preset", choice.preset]
    for name, option in _OPTIONS.items():
        value = getattr(choice, name)
        if value != getattr(start, name):
            words += [option, value if isinstance(value, str) else _number(value)]
    if choice.guard:
        words.append("--guard")
    return shlex.join(words)


def preset_text(choice: Choice) -> str:
    """Return the numbers as the text of a preset file, in YAML."""
    import yaml  # late: most of the page works without it

    return yaml.safe_dump(describe_preset(choice.as_preset()), sort_keys=False)


_OPTIONS = {
    "position": "--bilateral-position",
    "color": "--bilateral-color",
    "weight": "--bilateral-weight",
    "near": "--gaussian-position",
    "smoothness": "--gaussian-weight",
    "iterations": "--iterations",
    "normalization": "--normalization",
    "filter": "--filter",
    "band": "--band",
}


def _call(kernel: Kernel) -> str:
    numbers = {name: value for name, value in kernel.to_dict().items() if name != "kind"}
    given = [f"{n}={_value(v)}" for n, v in numbers.items() if not isinstance(v, bool)]
    return f"{type(kernel).__name__}({', '.join(given)})"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    return str(value) if isinstance(value, bool) else _number(value)


def _number(value: float) -> str:
    """Spell a number as briefly as possible without changing its value."""
    short = f"{value:g}"
    return short if float(short) == value else str(value)
