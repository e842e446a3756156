"""What one open page works on: the subject, kept lattices, scribbles, and the last result."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crfrnn.core.inference import apply
from crfrnn.crf.compiled import build_filters
from crfrnn.crf.kept import KeptFilters
from crfrnn.crf.kernel import Scene
from crfrnn.crf.marginals import Pruned
from crfrnn.crf.recipe import Recipe
from crfrnn.evaluation.metrics import Judge, Settings, stack, summarize
from crfrnn.offline.clamp import FREE, free_value
from crfrnn.offline.guard import Guarded
from crfrnn.offline.inputs import Inputs
from crfrnn.offline.options import RefineOptions
from crfrnn.offline.refine import refine_inputs
from crfrnn.offline.refined import Refined
from crfrnn.offline.verdict import Changed

from .choice import Choice
from .subject import Subject


@dataclass(frozen=True, eq=False)
class Result:
    """The result of one choice.

    Attributes:
        choice: the parameters.
        refined: what `refine` returned.
        changed: what the CRF changed.
        guarded: what the guard did, if it was on.
        seconds: how long the computation took.
    """

    choice: Choice
    refined: Refined[Any]
    changed: Changed
    guarded: Guarded | None
    seconds: float


@dataclass(frozen=True)
class Step:
    """The state of the marginals after a mean-field step.

    Attributes:
        number: of the step; 0 is the start.
        energy: free energy per pixel, in nats.
        change: mean absolute change of the marginals in this step; NaN at the start.
    """

    number: int
    energy: float
    change: float


class Work:
    """What one open page works on.

    Args:
        subject: the photograph and its scores.

    Attributes:
        before: the scores as logits and labels, without a CRF.
        scribbles: (H, W), the class of each pixel that is clamped, or `free`.
        free: the value of free pixels in `scribbles`, as `refine(clamp=)` takes it.
        truth: (H, W) true labels, if there is a mask.
        point: (x, y) of the pixel that is looked at.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.kept = KeptFilters()
        self.truth: np.ndarray | None = None
        self._judge: Judge | None = None
        self._result: Result | None = None
        self._steps: tuple[Choice, list[Step]] | None = None
        # Without a kernel, whatever the kind of the scores: probabilities and labels as they come.
        self._bare = Inputs(subject.image, subject.kind, subject.values, channels_last=True)
        self.before = refine_inputs(self._bare, self._options(replace(Choice(), iterations=0)))
        self.free = free_value(self.num_classes)
        self.scribbles = np.full(subject.size, self.free, np.min_scalar_type(self.free))
        self.point = _first_point(self.before.labels, subject.photo)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.before.probs)

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, or their ids."""
        known = self.subject.classes
        if len(known) == self.num_classes:
            return list(known)
        return [f"class {index}" for index in range(self.num_classes)]

    @property
    def has_scribbles(self) -> bool:
        """Whether any pixel is clamped."""
        return bool((self.scribbles != self.free).any())

    def refine(self, choice: Choice) -> Result:
        """Refine with these parameters; the last result is kept."""
        if self._result is None or self._result.choice != choice:
            start = time.perf_counter()
            refined = refine_inputs(self._inputs(), self._options(choice), kept=self.kept)
            seconds = time.perf_counter() - start
            changed, guarded = refined.changed, refined.guarded
            assert isinstance(changed, Changed)  # of one image
            assert not isinstance(guarded, list)
            self._result = Result(choice, refined, changed, guarded, seconds)
        return self._result

    def scribble(self, points: Sequence[tuple[float, float]], radius: float, label: int) -> None:
        """Clamp the pixels along a line to a class, or free them again with `FREE`.

        Args:
            points: (x, y) corners of the line, in pixels.
            radius: half the width of the line, in pixels.
            label: the class.
        """
        from PIL import Image, ImageDraw

        if label != FREE and not 0 <= label < self.num_classes:
            raise ValueError(f"the class must be 0..{self.num_classes - 1}; got {label}")
        height, width = self.subject.size
        page = Image.new("1", (width, height))
        draw = ImageDraw.Draw(page)
        line = [(float(x), float(y)) for x, y in points]
        draw.line(line, fill=1, width=max(1, round(2 * radius)))
        for x, y in line:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
        self.scribbles[np.asarray(page)] = self.free if label == FREE else label
        self._forget()

    def clear_scribbles(self) -> None:
        """Free all pixels."""
        self.scribbles[:] = self.free
        self._forget()

    def compare_with(self, truth: np.ndarray | None) -> None:
        """Take a true mask (H, W), 255 for void, or none."""
        self.truth = truth
        self._judge = None if truth is None else Judge(truth, max(self.num_classes, 2), Settings())

    def scores(self, choice: Choice) -> Mapping[str, tuple[float, float]] | None:
        """Each score of `crfrnn evaluate` before and after the CRF, on 0..1; None without truth."""
        if self._judge is None:
            return None
        before, after = (
            summarize(stack([self._judge.count(labels)]), self._judge.settings)
            for labels in (self.before.labels, self.refine(choice).refined.labels)
        )
        return {name: (float(before[name][0]), float(after[name][0])) for name in before}

    def steps(self, choice: Choice) -> list[Step]:
        """The free energy, and the change of the marginals, after each step.

        The energy is that of `crfrnn.free_energy`, over the classes that take part, and per pixel.
        """
        choice = replace(choice, guard=False)  # it acts after the last step
        if self._steps is None or self._steps[0] != choice:
            self._steps = (choice, list(self._trace(choice)))
        return self._steps[1]

    def weights_around(self, choice: Choice) -> np.ndarray:
        """How strongly the bilateral kernel ties each pixel to `point`: (H, W) on 0..1."""
        height, width = self.subject.size
        x, y = self.point
        color = self.subject.image.astype(np.float32)
        distance = ((color - color[y, x]) ** 2).sum(2) / choice.color**2
        distance += (np.arange(width, dtype=np.float32) - x) ** 2 / choice.position**2
        distance += ((np.arange(height, dtype=np.float32) - y) ** 2 / choice.position**2)[:, None]
        return np.asarray(np.exp(-0.5 * distance))

    def _trace(self, choice: Choice) -> list[Step]:
        states = [
            refine_inputs(
                self._inputs(), self._options(replace(choice, iterations=t)), kept=self.kept
            )
            for t in range(choice.iterations + 1)
        ]
        pruned = states[-1].pruned
        classes = list(pruned.kept) if isinstance(pruned, Pruned) else list(range(self.num_classes))
        marginals = [state.probs[classes].reshape(len(classes), -1) for state in states]
        with np.errstate(divide="ignore"):
            unary = -np.log(marginals[0])
        found = []
        for number, q in enumerate(marginals):
            change = np.abs(q - marginals[number - 1]).sum(0).mean() if number else math.nan
            found.append(Step(number, self._energy(choice, unary, q), float(change)))
        return found

    def _energy(self, choice: Choice, unary: np.ndarray, q: np.ndarray) -> float:
        """The free energy of Potts marginals (C, N) per pixel; see `crfrnn.free_energy`."""
        image = np.moveaxis(self.subject.image, -1, 0)[None].astype(q.dtype)
        scene = Scene(q.reshape(1, len(q), *self.subject.size), image)
        recipe = Recipe(choice.kernels, choice.normalization, choice.filter)
        (filters,) = build_filters(recipe, scene, None, kept=self.kept)
        penalty = np.zeros_like(q)
        for kernel, filter in zip(choice.kernels, filters, strict=True):
            message = apply(filter, q)
            penalty += float(kernel.weight) * (message.sum(0) - message)  # type: ignore[arg-type]
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = q * (unary + 0.5 * penalty) + q * np.log(q)
        return float(np.where(q > 0, terms, 0).sum(dtype=np.float64) / q.shape[1])

    def _inputs(self) -> Inputs:
        return replace(self._bare, clamp=self.scribbles if self.has_scribbles else None)

    def _options(self, choice: Choice) -> RefineOptions:
        source = self.subject.source
        return choice.options() if source is None else choice.options(source.reading.confidence)

    def _forget(self) -> None:
        self._result = self._steps = None


def _first_point(labels: np.ndarray, photo: np.ndarray) -> tuple[int, int]:
    """A pixel (x, y) near a change of labels where the photograph is smooth, or the middle.

    There, pixels that are alike are easy to see.
    """
    edge = np.zeros(labels.shape, np.float32)
    edge[:, 1:] += labels[:, 1:] != labels[:, :-1]
    edge[1:] += labels[1:] != labels[:-1]
    gray = photo.mean(2, dtype=np.float32)
    rough = np.zeros(labels.shape, np.float32)
    rough[:, 1:] += np.abs(np.diff(gray, axis=1))
    rough[1:] += np.abs(np.diff(gray, axis=0))
    near = max(2, max(labels.shape) // 60)
    rough = np.where((_sums(edge, near) > 0) & (_sums(edge, 1) == 0), _sums(rough, 3), np.inf)
    y, x = np.unravel_index(int(rough.argmin()), labels.shape)
    if not np.isfinite(rough[y, x]):
        return labels.shape[1] // 2, labels.shape[0] // 2
    return int(x), int(y)


def _sums(values: np.ndarray, reach: int) -> np.ndarray:
    """Sums over squares of 2 `reach` + 1 pixels."""
    padded = np.pad(values.astype(np.float64), reach).cumsum(0).cumsum(1)
    table = np.pad(padded, ((1, 0), (1, 0)))
    side = 2 * reach + 1
    sums = table[side:, side:] - table[:-side, side:] - table[side:, :-side] + table[:-side, :-side]
    return np.asarray(np.round(sums, 3))


def gain(scores: Mapping[str, tuple[float, float]], name: str = "mean_iou") -> float:
    """The change of a score, in points of 100."""
    before, after = scores[name]
    return 100 * (after - before)


def spell_changes(changed: Changed, names: Sequence[str]) -> list[str]:
    """Say what the CRF changed, in sentences."""
    lines = [
        f"The CRF gave {changed.relabeled} of {changed.pixels} pixels another label "
        f"({changed.share_relabeled:.1%})."
    ]
    if changed.confident:
        lines.append(
            f"Of the pixels that the network was sure of (90 % or more), it changed "
            f"{changed.share_flipped:.2%}."
        )
    lines += [f"“{names[i]}” vanished from the picture." for i in changed.vanished]
    lines += [f"“{names[i]}” appeared; no pixel had it before." for i in changed.appeared]
    lines += [f"Most of “{names[a]}” became “{names[b]}”." for a, b in changed.swapped]
    return lines


def spell_guard(guarded: Guarded | None) -> list[str]:
    """Say what the guard did."""
    if guarded is None or not guarded.reverted:
        return []
    if guarded.kept_input:
        return ["The guard kept the network's labels: the CRF would have changed too much."]
    return [f"The guard gave {guarded.reverted} pixels their label back."]


def spell_scores(scores: Mapping[str, tuple[float, float]]) -> str:
    """Say whether the CRF helped, judged by a true mask."""
    points = gain(scores)
    old, new = (100 * value for value in scores["mean_iou"])
    numbers = f"mean IoU {old:.2f} → {new:.2f} ({points:+.2f} points)"
    if abs(points) < 0.05:
        return f"The CRF makes no difference here: {numbers}."
    return f"The CRF {'helps' if points > 0 else 'HARMS'} here: {numbers}."
