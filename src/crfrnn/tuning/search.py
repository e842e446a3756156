"""search(): tries parameters on more and more images, and stops bad trials early.

Optuna proposes the parameters (TPE: Bergstra et al., NIPS 2011) and stores the trials in a file.
SciPy's optimizers are lighter, but can neither stop trials nor resume. This module decides which
trials continue, by a race against the best trial so far on the same images. Successive halving
would rank trials by their score on a few images, a poor estimate of their score on many. Presets
are tried first, as they are published, so that the best trial is at least as good as each of them
on these images.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from crfrnn._extras import install
from crfrnn.crf.kernels import Bilateral, Gaussian
from crfrnn.presets import PRESETS, Preset

from .caution import SHARES, as_good, between
from .config import SearchConfig
from .gains import SCORE_TITLES, SCORES, combined, drawn_gains, scores_of
from .scored import Scored

#: A trial stops if it is worse than the best so far in this share of the bootstrap samples.
_SURE = 0.8

_STUDY = "crfrnn"
_SETTINGS = "settings"
_PRESET = "preset"


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        preset: the chosen parameters; with `config.cautious`, not always the best.
        before: `mean_iou` and `trimap_iou` in percent without a CRF, on the images of the search.
        after: the same two scores with `preset`.
        trials: number of trials.
        stopped: number of trials that stopped early.
        start: the preset that was best on these images; None without presets.
        share: how far `preset` lies from `start`, 0, to the best parameters, 1, on a logarithmic
            scale: the nearest of 0, 0.25, 0.5, 0.75 and 1 whose score is at most one standard
            error below the best.
    """

    preset: Preset
    before: dict[str, float]
    after: dict[str, float]
    trials: int
    stopped: int
    start: str | None
    share: float


def search(
    scored: Scored,
    config: SearchConfig,
    *,
    storage: Path | None = None,
    name: str = "tuned",
    advance: Callable[[int, float], None] = lambda trials, best: None,
) -> Found:
    """Search for the kernel bandwidths and weights with the best score.

    The same seed gives the same result, with or without interruptions.

    Args:
        scored: training images with scores.
        config: bounds and length of the search.
        storage: file of the trials, from which a search resumes; None keeps them in memory.
        name: of the preset.
        advance: called after each trial with the number of trials and the best score so far, as
            `config.score` defines it.

    Raises:
        ImportError: optuna is not installed.
        ValueError: the trials in `storage` were made with other settings.

    Example:
        >>> from crfrnn.training import DataConfig
        >>> from crfrnn.training.source import Source
        >>> from crfrnn.tuning import SearchConfig, search
        >>> source = Source(DataConfig("shapes"), "train")
        >>> found = search(source_with_scores, SearchConfig(trials=9))  # doctest: +SKIP
    """
    optuna = _optuna()
    sizes = config.sizes(len(scored))
    chosen = balanced(scored, config.seed)[: sizes[-1]]
    before = scores_of(scored.confusions(None, chosen))
    study = _open(optuna, config, storage, before)
    states = optuna.trial.TrialState
    leader = _Leader(scored, chosen, config)
    while True:
        finished = study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))
        if len(finished) >= config.trials:
            break
        # A new sampler with a known seed for each trial: a sampler in use has a random state that
        # is not stored, and a resumed search would propose other parameters.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = optuna.samplers.TPESampler(
                seed=config.seed + 1000 * len(finished), multivariate=True
            )
        waiting = study.get_trials(deepcopy=False, states=(states.WAITING,))
        if len(finished) < len(config.start) and not waiting:
            name_of_start = config.start[len(finished)]
            numbers = _numbers(PRESETS[name_of_start], config)
            study.enqueue_trial(numbers, user_attrs={_PRESET: name_of_start})
        trial = study.ask()
        complete = study.get_trials(deepcopy=False, states=(states.COMPLETE,))
        rival = leader.counts(max(complete, key=lambda t: t.value)) if complete else None
        counts = _race(trial, _propose(trial, config), scored, chosen, sizes, config, rival)
        if len(counts) < len(chosen):
            study.tell(trial, state=states.PRUNED)
        else:
            study.tell(trial, combined(scores_of(counts), config.score))
            leader.keep(trial.number, counts)
        advance(len(finished) + 1, study.best_value)
    stopped = len(study.get_trials(deepcopy=False, states=(states.PRUNED,)))
    best = study.best_trial
    origin = _origin(study)
    share, preset, counts = 1.0, _propose(best, config), leader.counts(best)
    if origin is not None and config.cautious:
        share, preset, counts = _nearest(origin, best, counts, scored, chosen, config)
    after = scores_of(counts)
    what = f"{sizes[-1]} training images, {len(finished)} trials, seed {config.seed}"
    gains = ", ".join(
        f"{SCORE_TITLES[name]} {before[name]:.2f} -> {after[name]:.2f}" for name in SCORES
    )
    described = Preset(
        name,
        preset.kernels,
        preset.iterations,
        preset.normalization,
        "the scores that it was tuned on",
        f"crfrnn tune: {what}; {gains}",
    )
    start = None if origin is None else origin.user_attrs[_PRESET]
    return Found(described, before, after, len(finished), stopped, start, share)


def _origin(study: Any) -> Any:
    """The best trial of a preset on all images; None without presets."""
    # The value of a trial that stopped early is its score on the first images, which may be easier
    # than all of them. The first preset has no rival, so it is always complete.
    complete = "COMPLETE"
    presets = [t for t in study.trials if _PRESET in t.user_attrs and t.state.name == complete]
    return max(presets, key=lambda t: t.value, default=None)


def _nearest(
    origin: Any,
    best: Any,
    counts: np.ndarray,
    scored: Scored,
    chosen: list[int],
    config: SearchConfig,
) -> tuple[float, Preset, np.ndarray]:
    """The parameters nearest to a preset that are about as good as the best, and their counts."""
    if best.number == origin.number:
        return 0.0, _propose(best, config), counts
    for share in SHARES:
        numbers = between(origin.params, best.params, share)
        preset = _preset(numbers, config) if share else _propose(origin, config)
        nearer = scored.confusions(preset, chosen, config.tol)
        if as_good(counts, nearer, config.score):
            return share, preset, nearer
    return 1.0, _propose(best, config), counts


class _Leader:
    """The counts of the best trial; a search that resumes computes them again."""

    def __init__(self, scored: Scored, chosen: list[int], config: SearchConfig) -> None:
        self.scored, self.chosen, self.config = scored, chosen, config
        self.number, self.confusions = -1, np.zeros(0)

    def keep(self, number: int, confusions: np.ndarray) -> None:
        """Keep the counts of a complete trial if it is the best."""
        if len(self.confusions) == 0 or self._score(confusions) > self._score(self.confusions):
            self.number, self.confusions = number, confusions

    def counts(self, trial: Any) -> np.ndarray:
        """The counts of a complete trial."""
        if trial.number != self.number:
            preset = _propose(trial, self.config)
            self.number = trial.number
            self.confusions = self.scored.confusions(preset, self.chosen, self.config.tol)
        return self.confusions

    def _score(self, counts: np.ndarray) -> float:
        return combined(scores_of(counts), self.config.score)


def balanced(scored: Scored, seed: int) -> list[int]:
    """All images in a random order in which every class occurs early.

    The next image is always one that shows the class shown least so far.
    """
    # The early rungs score a few images. Were a class missing there, mean IoU would ignore it.
    shuffled = np.random.default_rng(seed).permutation(len(scored)).tolist()
    ids = range(scored.num_classes)
    shows = {index: [c for c in scored.classes_of(index) if c in ids] for index in shuffled}
    waiting = {c: [index for index in reversed(shuffled) if c in shows[index]] for c in ids}
    seen = dict.fromkeys((c for c in ids if waiting[c]), 0)
    order: dict[int, None] = {}
    while seen:
        rarest = min(seen, key=lambda c: (seen[c], len(waiting[c])))
        while waiting[rarest] and waiting[rarest][-1] in order:
            waiting[rarest].pop()
        if not waiting[rarest]:
            del seen[rarest]
            continue
        index = waiting[rarest].pop()
        order[index] = None
        for c in shows[index]:
            if c in seen:
                seen[c] += 1
    return [*order, *(index for index in shuffled if index not in order)]


def _race(
    trial: Any,
    preset: Preset,
    scored: Scored,
    chosen: list[int],
    sizes: list[int],
    config: SearchConfig,
    rival: np.ndarray | None,
) -> np.ndarray:
    """The counts of a trial on all images, or on the first few if it stops early."""
    counts = np.zeros((0, 2, scored.num_classes, scored.num_classes), np.int64)
    for size in sizes:
        more = scored.confusions(preset, chosen[len(counts) : size], config.tol)
        counts = np.concatenate([counts, more])
        if size == sizes[-1]:
            break
        trial.report(combined(scores_of(counts), config.score), step=size)
        if rival is not None:
            worse = drawn_gains(rival[:size], counts, config.score) < 0
            if worse.mean() >= _SURE:
                break
    return counts


def _propose(trial: Any, config: SearchConfig) -> Preset:
    """The parameters of a trial: a preset as published, or new ones."""
    # Ratios of bandwidths and weights matter, not differences: 160 pixels are to 80 as 40 to 20. On
    # a logarithmic scale as many trials fall between the one pair as between the other.
    if trial.params:
        numbers = trial.params
    else:
        numbers = {
            name: trial.suggest_float(name, low, high, log=True)
            for name, (low, high) in config.ranges().items()
        }
    if _PRESET in trial.user_attrs:
        return PRESETS[trial.user_attrs[_PRESET]]
    return _preset(numbers, config)


def _preset(numbers: Mapping[str, float], config: SearchConfig) -> Preset:
    kernels = (
        Bilateral(
            numbers["bilateral_position"], numbers["bilateral_color"], numbers["bilateral_weight"]
        ),
        Gaussian(numbers["gaussian_position"], numbers["gaussian_weight"]),
    )
    return Preset("trial", kernels, config.iterations, config.normalization, "", "")


def _open(optuna: Any, config: SearchConfig, storage: Path | None, before: dict[str, float]) -> Any:
    """Create a study, or open the one on disk and drop its unfinished trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = None
    if storage is not None:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        journal = JournalStorage(JournalFileBackend(str(storage)))
    study = optuna.create_study(
        study_name=_STUDY,
        storage=journal,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.NopPruner(),
    )
    # More trials may be added later, so their number is no setting. The score without a CRF stands
    # for the scores themselves: other scores give another number.
    rounded = [round(score, 6) for score in before.values()]
    settings = json.dumps({**asdict(config), "trials": 0, "before": rounded})
    stored = study.user_attrs.get(_SETTINGS)
    if stored is None:
        study.set_user_attr(_SETTINGS, settings)
    elif stored != settings:
        raise ValueError(
            f"{storage}: the trials there were made with other settings or scores; use another "
            f"output, or --restart to start over"
        )
    states = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        study.tell(trial.number, state=states.FAIL)
    return study


def _numbers(preset: Preset, config: SearchConfig) -> dict[str, float]:
    """What Optuna learns of a preset: its parameters, clamped to the bounds."""
    numbers = {
        f"{type(kernel).__name__.lower()}_{name}": float(cast(float, value))
        for kernel in preset.kernels
        for name, value in {**kernel.bandwidths(), "weight": kernel.weight}.items()
    }
    bounds = config.ranges()
    return {name: min(max(numbers[name], low), high) for name, (low, high) in bounds.items()}


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError(f"the search needs optuna; install it with {install('tune')}") from error
    return optuna
