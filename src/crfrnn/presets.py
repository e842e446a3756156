"""Named parameter sets for `refine`, with where each comes from."""

from __future__ import annotations

from dataclasses import dataclass

from .pairwise import Bilateral, Gaussian, Kernel


@dataclass(frozen=True)
class Preset:
    """A published set of dense-CRF parameters.

    Attributes:
        name: how `refine(preset=...)` and `--preset` call it.
        kernels: the pairwise kernels with bandwidths (pixels, colour units of 0..255) and weights.
        iterations: mean-field steps.
        normalization: how kernels are normalised.
        purpose: what it was made for.
        source: where the numbers come from.
    """

    name: str
    kernels: tuple[Kernel, ...]
    iterations: int
    normalization: str
    purpose: str
    source: str


def _preset(
    name: str,
    spatial: tuple[float, float],
    bilateral: tuple[float, float, float],
    iterations: int,
    purpose: str,
    source: str,
    normalization: str = "symmetric",
) -> Preset:
    kernels = (
        Bilateral(position=bilateral[0], color=bilateral[1], weight=bilateral[2]),
        Gaussian(position=spatial[0], weight=spatial[1]),
    )
    return Preset(name, kernels, iterations, normalization, purpose, source)


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
            "the starting point of CRF-RNN, before training",
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
