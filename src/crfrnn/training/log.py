"""The logs of a training run: CSV lines per step and epoch, TensorBoard, and progress."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from crfrnn._extras import install
from crfrnn.io.files import write_text
from crfrnn.io.progress import Progress

STEPS = "steps.csv"
EPOCHS = "epochs.csv"

_COLUMNS = {
    STEPS: (
        "step", "stage", "epoch", "loss", "gradient", "rate.network", "rate.crf.kernel_weights",
        "rate.crf.compatibility", "rate.crf.others", "seconds",
    ),
    EPOCHS: ("step", "stage", "epoch", "loss", "iou.network", "iou.crf", "seconds"),
}  # fmt: skip


class Log:
    """The logs of one training run.

    Args:
        folder: where they are written.
        step: steps already trained. Lines of later steps, left by a killed run, are removed.
        total: steps of all stages.
        tensorboard: also write TensorBoard events.
        quiet: no progress on stderr.
        writes: False in all processes but the first.
    """

    def __init__(
        self,
        folder: Path,
        *,
        step: int,
        total: int,
        tensorboard: bool,
        quiet: bool,
        writes: bool = True,
    ) -> None:
        self.folder = folder
        self.writes = writes
        for name in _COLUMNS if writes else ():
            _trim(folder / name, _COLUMNS[name], step)
        self.board = _board(folder, step) if tensorboard else None
        self.progress = Progress("training", total, "steps", done=step, quiet=quiet)

    def __enter__(self) -> Log:
        """Start the progress display."""
        self.progress.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close everything."""
        self.progress.__exit__(kind, error, trace)
        if self.board is not None:
            self.board.close()

    def add(self, name: str, values: Mapping[str, Any]) -> None:
        """Add a line to `STEPS` or `EPOCHS`."""
        if not self.writes:
            return
        row = [_spell(values.get(column)) for column in _COLUMNS[name]]
        with (self.folder / name).open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)
        if self.board is not None:
            for key, value in values.items():
                if isinstance(value, float):
                    self.board.add_scalar(f"{name[:-4]}/{key}", value, values["step"])
        note = f"stage {values['stage']}, epoch {values['epoch']}, loss {values['loss']:.4f}"
        self.progress.update(values["step"], note)


def _spell(value: Any) -> str:
    return "" if value is None else f"{value:.9g}" if isinstance(value, float) else str(value)


def _trim(path: Path, columns: tuple[str, ...], step: int) -> None:
    """Keep the heading and the lines up to `step`, and drop an incomplete last line."""
    # A run that was killed has logged steps after its last checkpoint; resumed, it logs them again.
    rows: list[list[str]] = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if len(row) == len(columns)][1:]
    kept = [row for row in rows if int(row[0]) <= step]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *kept])
    write_text(path, text.getvalue())


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils import tensorboard
    except ImportError as error:
        raise ImportError(
            "TensorBoard logs need the tensorboard package; install it with "
            f"{install('tensorboard')}, or set tensorboard: false"
        ) from error
    make: Any = tensorboard.SummaryWriter
    return make(str(folder / "tensorboard"), purge_step=step + 1)
