"""Named parameter sets for `refine` with their sources, and files of such sets."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _checks
from .core.names import NORMALIZATIONS, Normalization
from .crf.kernel import Kernel
from .crf.kernels import Bilateral, Gaussian
from .io.files import describe, write_text
from .io.trees import read_json, read_yaml

#: The suffixes of a file of parameters.
PRESET_SUFFIXES = (".json", ".yaml", ".yml")


@dataclass(frozen=True)
class Preset:
    """A published set of dense-CRF parameters.

    Attributes:
        name: its name in `refine(preset=...)` and `--preset`.
        kernels: the pairwise kernels, with bandwidths (pixels, color units of 0..255) and weights.
        iterations: mean-field steps.
        normalization: how kernels are normalized.
        purpose: what it suits.
        source: where the numbers come from.

    Example:
        >>> from crfrnn.presets import PRESETS
        >>> PRESETS["crfasrnn"].kernels[0], PRESETS["crfasrnn"].normalization
        (Bilateral(position=160, color=3, weight=5), 'after')
    """

    name: str
    kernels: tuple[Kernel, ...]
    iterations: int
    normalization: Normalization
    purpose: str
    source: str


def _preset(
    name: str,
    spatial: tuple[float, float],
    bilateral: tuple[float, float, float],
    iterations: int,
    purpose: str,
    source: str,
    normalization: Normalization = "symmetric",
) -> Preset:
    kernels = (
        Bilateral(position=bilateral[0], color=bilateral[1], weight=bilateral[2]),
        Gaussian(position=spatial[0], weight=spatial[1]),
    )
    return Preset(name, kernels, iterations, normalization, purpose, source)


#: The presets by name.
PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _preset(
            "deeplab",
            (1, 3),
            (67, 3, 4),
            10,
            "scores of a modern network; gentle, the default",
            "DeepLab v2 (Chen et al., arXiv 1606.00915) and its public re-implementations",
        ),
        _preset(
            "krahenbuhl",
            (3, 3),
            (80, 13, 10),
            5,
            "weak, noisy unaries; strong smoothing",
            "Krähenbühl & Koltun, NIPS 2011, and the README of pydensecrf",
        ),
        _preset(
            "crfasrnn",
            (3, 3),
            (160, 3, 5),
            10,
            "initializing CRF-RNN before training",
            "Zheng et al., ICCV 2015, arXiv 1502.03240",
            normalization="after",
        ),
        _preset(
            "psa",
            (3, 3),
            (80, 13, 10),
            10,
            "class activation maps of weakly supervised networks",
            "AffinityNet (Ahn & Kwak, CVPR 2018, arXiv 1803.10464)",
        ),
        _preset(
            "irn",
            (3, 3),
            (50, 5, 10),
            10,
            "pseudo-labels (labels=) at confidence 0.7",
            "IRNet (Ahn, Cho & Kwak, CVPR 2019, arXiv 1904.05044)",
        ),
        _preset(
            "maskcut",
            (3, 7),
            (50, 5, 10),
            10,
            "binary object masks found without supervision",
            "CutLER's MaskCut (Wang et al., CVPR 2023, arXiv 2301.11320)",
        ),
        _preset(
            "saliency",
            (3, 3),
            (60, 5, 5),
            1,
            "one-channel saliency, shadow and mirror maps",
            "post-processing of saliency networks (R3Net, BDRAR, MirrorNet)",
        ),
    )
}


def find_preset(name: str | os.PathLike[str]) -> Preset:
    """Return a named preset, or read a file that `write_preset` or a person wrote.

    Args:
        name: a key of `PRESETS`, or the path of a .json or .yaml file.

    Raises:
        ValueError: there is no such preset, or the file does not describe one.
        FileNotFoundError: there is no such file.
        TypeError: `name` is neither a string nor a path.

    Example:
        >>> from crfrnn.presets import find_preset
        >>> find_preset("deeplab").iterations
        10
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(
            f"a preset must be one of {', '.join(PRESETS)}, or the path of a file; got "
            f"{type(name).__name__}"
        )
    name = os.fspath(name)
    if not name.lower().endswith(PRESET_SUFFIXES):
        if name not in PRESETS:
            raise ValueError(
                f"unknown preset {name!r}; expected one of: {', '.join(PRESETS)}, or a file "
                f"({', '.join(PRESET_SUFFIXES)})"
            )
        return PRESETS[name]
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file of parameters, but it is missing")
    try:
        read = read_json if path.suffix.lower() == ".json" else read_yaml
        tree = read(path.read_text(encoding="utf-8"))
        return Preset(
            name=path.stem,
            kernels=tuple(Kernel.from_dict(entry) for entry in tree["kernels"]),
            iterations=_checks.count("iterations", tree["iterations"]),
            normalization=_normalization(tree["normalization"]),
            purpose=str(tree.get("purpose", "")),
            source=str(tree.get("source", "")),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else describe(error)
        raise ValueError(
            f"{path}: expected kernels (kind, bandwidths, weight), iterations and normalization; "
            f"{what}"
        ) from error


def describe_preset(preset: Preset) -> dict[str, Any]:
    """Return a preset as the mapping that its file holds.

    Example:
        >>> from crfrnn.presets import PRESETS, describe_preset
        >>> describe_preset(PRESETS["deeplab"])["kernels"][0]
        {'kind': 'Bilateral', 'position': 67, 'color': 3, 'weight': 4}
    """
    return {
        "kernels": [kernel.to_dict() for kernel in preset.kernels],
        "iterations": preset.iterations,
        "normalization": preset.normalization,
        "purpose": preset.purpose,
        "source": preset.source,
    }


def write_preset(path: str | Path, preset: Preset) -> None:
    """Write a preset for `find_preset`, as JSON or YAML according to the suffix.

    Example:
        >>> import dataclasses, tempfile
        >>> from pathlib import Path
        >>> from crfrnn.presets import PRESETS, find_preset, write_preset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "mine.yaml"
        ...     write_preset(path, dataclasses.replace(PRESETS["deeplab"], iterations=3))
        ...     find_preset(path).iterations  # or refine(..., preset=str(path))
        3
    """
    path, tree = Path(path), describe_preset(preset)
    if path.suffix.lower() == ".json":
        write_text(path, json.dumps(tree, indent=2) + "\n")
        return
    import yaml  # late: most commands write no such file

    write_text(path, yaml.safe_dump(tree))


def _normalization(given: Any) -> Normalization:
    _checks.one_of("normalization", given, NORMALIZATIONS)
    return NORMALIZATIONS[NORMALIZATIONS.index(given)]
