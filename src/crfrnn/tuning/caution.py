"""The one-standard-error rule: of parameters that do about equally well, those nearest to a preset.

The rule is from Breiman, Friedman, Olshen & Stone, Classification and Regression Trees (1984),
section 3.4.3. A network knows the images that it was trained on, so its errors there are smaller
than elsewhere, and what is best for them is not quite best for others. Presets were chosen on
other data and for other networks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .gains import Score, combined, drawn_gains, scores_of

#: Steps on the way from a preset, 0, to the best parameters, 1.
SHARES = (0.0, 0.25, 0.5, 0.75)


def between(
    start: Mapping[str, float], best: Mapping[str, float], share: float
) -> dict[str, float]:
    """Numbers that lie a share of the way from `start` to `best`, on a logarithmic scale."""
    return {name: start[name] ** (1 - share) * best[name] ** share for name in best}


def as_good(best: np.ndarray, other: np.ndarray, score: Score) -> bool:
    """Whether `other` scores at most one standard error below `best`, paired over images."""
    loss = combined(scores_of(best), score) - combined(scores_of(other), score)
    return bool(loss <= drawn_gains(best, other, score).std())
