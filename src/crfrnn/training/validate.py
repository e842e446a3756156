"""Mean IoU on the validation images, before and after the CRF."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from crfrnn.evaluation.metrics import confusion_matrix, mean_iou

from .objective import IGNORE_INDEX, Objective
from .runtime import Runtime
from .source import Source
from .state import Average


@torch.no_grad()
def validate(
    objective: Objective, average: Average | None, source: Source, runtime: Runtime
) -> dict[str, float]:
    """Mean IoU in percent on whole images, of the "network" alone and with the "crf"."""
    counts = torch.zeros(2, source.num_classes, source.num_classes, dtype=torch.int64)
    with evaluating(objective, average):
        for index in range(runtime.rank, len(source), runtime.world):
            sample, logits = source.sample(index)
            image = sample.image[None].float().to(runtime.device)
            given = None if logits is None else logits[None].to(runtime.device)
            before = objective.unary(image, given)
            after = objective.refine(before, image, None)
            for row, values in zip(counts, (before, after), strict=True):
                prediction = values[0].argmax(dim=0).cpu()
                row += confusion_matrix(
                    prediction, sample.label, source.num_classes, ignore_index=IGNORE_INDEX
                )
    # Counts add up over processes; the mean IoU of each process would not.
    total = runtime.total(counts.to(runtime.device)).cpu()
    return {
        name: 100 * float(mean_iou(row))
        for name, row in zip(("network", "crf"), total, strict=True)
    }


@contextmanager
def evaluating(objective: Objective, average: Average | None) -> Iterator[None]:
    """Switch to evaluation mode and the averaged parameters, if any; switch back afterward."""
    training = objective.training
    trained = None
    if average is not None:
        trained = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
        objective.load_state_dict(average.tensors)
    objective.eval()
    try:
        yield
    finally:
        objective.train(training)
        if trained is not None:
            objective.load_state_dict(trained)
