"""Which refinement of scores is worth using? A table of refiners that need no weights.

python -m benchmarks refiners --photographs JPEGImages --masks SegmentationClass \
    --scores val.npz --train-scores train.npz --canvas 513 --output DIR

Each method is tuned on the same training photographs with the same number of trials, then scored on
the photographs of --scores: mean IoU, trimap IoU, boundary IoU and F, with paired bootstrap
intervals over photographs, and processor time and memory of one thread, each call in a process of
its own. --output gets league.json, league.md and league.png. A run that was stopped, even killed,
resumes there. Methods whose packages are missing are left out, with a line that says what to
install; "make bench" installs all of them.
"""

from __future__ import annotations

from .command import main

__all__ = ["main"]
