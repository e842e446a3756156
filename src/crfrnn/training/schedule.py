"""Learning rate schedules as a factor for each step, so that a schedule has no state."""

from __future__ import annotations

import math

from .config_stage import StageConfig

#: One-cycle (Smith & Topin, arXiv 1708.07120): share of the steps in which the rate
#: rises, and the first and last factor relative to the peak.
_RISE, _FIRST, _LAST = 0.3, 1 / 25, 1e-4


def factor(stage: StageConfig, step: int, total: int) -> float:
    """The factor on the rates of a stage at `step` of `total`, counted from 0."""
    done = step / max(total, 1)
    if stage.schedule == "onecycle":
        if done < _RISE:
            return _between(_FIRST, 1.0, done / _RISE)
        return _between(1.0, _LAST, (done - _RISE) / (1 - _RISE))
    # The first step already has a rate above zero, else it would be wasted.
    rise = min(1.0, (step + 1) / (stage.warmup + 1))
    return rise if stage.schedule == "constant" else float(rise * (1 - done) ** stage.power)


def _between(first: float, last: float, share: float) -> float:
    """Go from `first` to `last` along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
