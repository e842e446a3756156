"""Predictor: the labels of a row for several numbers of mean-field steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from crfrnn.evaluation.metrics import Counts, Judge, Settings, confusion_matrix, stack
from crfrnn.io.progress import Progress
from crfrnn.layer.crfrnn import CRFRNN
from crfrnn.training import StageConfig
from crfrnn.training.batches import order
from crfrnn.training.objective import Objective, count_labeled
from crfrnn.training.source import Source
from crfrnn.tuning.scored import in_threads

from .measure import Cost, measure

#: Number of images for the measurement of time and memory.
_TIMED = 3


class Predictor:
    """A row, ready to predict.

    Args:
        objective: the network, if any.
        crf: the layer; None for the network alone.
        device: of both.
    """

    def __init__(self, objective: Objective, crf: CRFRNN | None, device: torch.device) -> None:
        self.objective = objective.eval().to(device)
        self.crf = None if crf is None else crf.eval().to(device)
        self.device = device

    @torch.no_grad()
    def unary(self, source: Source, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Image and logits for the CRF, and the true labels."""
        sample, logits = source.sample(index)
        image = sample.image[None].float().to(self.device)
        given = None if logits is None else logits[None].to(self.device)
        return image, self.objective.unary(image, given), sample.label

    @torch.no_grad()
    def _network(self, image: Tensor) -> Tensor:
        return self.objective.unary(image)

    @torch.no_grad()
    def labels(self, image: Tensor, unary: Tensor, steps: Sequence[int]) -> list[Tensor]:
        """Labels (H, W) after each number of steps; the filters are built once for all."""
        if self.crf is None:
            return [unary[0].argmax(dim=0).cpu()]
        prepared = self.crf.prepare(image)
        results = (self.crf.infer(unary, prepared, iterations=count) for count in steps)
        return [result.logits[0].argmax(dim=0).cpu() for result in results]

    def score(
        self,
        source: Source,
        steps: Sequence[int],
        report: int,
        trimap: int,
        *,
        quiet: bool = True,
    ) -> tuple[Tensor, Counts]:
        """Count the predictions on all images.

        Returns:
            Confusion matrices (N, S, C, C), one per image and number of steps, and all counts
            (N, ...) for `report` steps.
        """
        settings = Settings(widths=(trimap,))
        classes = source.num_classes

        def count(index: int) -> tuple[Tensor, Counts]:
            image, unary, label = self.unary(source, index)
            predictions = self.labels(image, unary, steps)
            at = list(steps).index(report) if self.crf is not None else 0
            counts = Judge(label, classes, settings).count(predictions[at])
            matrices = [confusion_matrix(labels, label, classes) for labels in predictions]
            progress.advance()
            # A network alone predicts the same for every number of steps.
            return torch.stack(matrices * (len(steps) // len(matrices))), counts

        indices = range(len(source))
        # One image fills an accelerator; processors do better with an image on each thread.
        is_sequential = self.device.type != "cpu"
        with Progress("scoring", len(indices), "images", quiet=quiet) as progress:
            pairs = (
                [count(index) for index in indices] if is_sequential else in_threads(count, indices)
            )
        confusions, counts = zip(*pairs, strict=True)
        return torch.stack(confusions), stack(counts)

    def costs(self, source: Source, steps: Sequence[int]) -> dict[str, Cost]:
        """Costs per image, of the network and of the CRF for each number of steps."""
        measured: list[dict[str, Cost]] = []
        for index in range(min(_TIMED, len(source))):
            image, unary, _ = self.unary(source, index)
            costs = {}
            if self.objective.network is not None:
                costs["network"] = measure(partial(self._network, image), self.device)
            for count in steps if self.crf is not None else ():
                work = partial(self.labels, image, unary, [count])
                costs[str(count)] = measure(work, self.device)
            measured.append(costs)
        return {name: _median([costs[name] for costs in measured]) for name in measured[0]}

    def training_cost(self, source: Source, stage: StageConfig) -> Cost:
        """Costs of a training step: forward and backward of one batch, without loading it."""
        objective = self.objective
        objective.enter(stage)
        plan = order(len(source), stage.batch_size, 0)[:1]
        batch = next(source.batches(plan, stage, (0,), 0)).to(self.device)

        def step() -> None:
            loss: Any = objective(batch.image, batch.label, batch.inside, batch.logits)
            (loss / count_labeled(batch)).backward()
            objective.zero_grad(set_to_none=True)

        cost = measure(step, self.device)
        objective.eval()
        return cost


def _median(costs: Sequence[Cost]) -> Cost:
    return sorted(costs, key=lambda cost: cost.seconds)[len(costs) // 2]
