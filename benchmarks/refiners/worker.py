"""A process that refines photographs on request, each in a child of its own, on one thread.

A request is a line of JSON on standard input, and its answer a line on standard output. A child is
a fork: its packages are imported and warm, its arrays are not. It may run out of time or memory
without harm to the others, and the growth of its memory is the refiner's.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import pickle
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn.evaluation.metrics import Judge, Settings

from .counts import encode
from .crfs import rankseg
from .data import Folders, Split
from .method import Method, Scene
from .table import methods, present

#: Suffix of the row that RankSEG decides.
DECIDED = "+rankseg"


@dataclass(frozen=True)
class Outcome:
    """One refiner on one photograph.

    Attributes:
        labels: (H, W) by the name of the row.
        seconds: of the processor, by row.
        memory: growth of the process in bytes, by row.
    """

    labels: dict[str, np.ndarray]
    seconds: dict[str, float]
    memory: dict[str, int]


def refined(
    method: Method, scene: Scene, numbers: Mapping[str, Any], decide: Mapping[str, Any] | None
) -> Outcome:
    """Refine a scene, and decide its probabilities by RankSEG too if `decide` has its numbers.

    Raises:
        ValueError: the result is not finite.
    """
    outcome = Outcome({}, {}, {})
    before, start = _peak(), time.process_time()

    def keep(row: str, labels: np.ndarray) -> None:
        outcome.seconds[row] = time.process_time() - start
        outcome.memory[row] = _peak() - before
        outcome.labels[row] = labels.astype(np.int32)

    out = method.refine(scene, numbers)
    keep(method.name, out if out.ndim == 2 else out.argmax(axis=0))
    if decide is not None and out.ndim == 3:
        keep(method.name + DECIDED, rankseg(out, decide))
    if not np.isfinite(out).all():  # an argmax would take the first NaN, mostly the background
        raise ValueError("the result is not finite")
    return outcome


def in_child(work: Callable[[], Any], limit: float) -> Any:
    """Return what `work` returns in a child process.

    Raises:
        RuntimeError: it failed, died, or took longer than `limit` seconds.
    """
    gc.collect()
    _trim()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            try:
                answer = (work(), None)
            except BaseException as error:
                answer = (None, f"{type(error).__name__}: {error}"[:300])
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump(answer, pipe)
        finally:
            os._exit(0)
    os.close(writing)
    data, end = b"", time.monotonic() + limit
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while True:
            left = end - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                raise RuntimeError(f"took longer than {limit:g} s")
            part = pipe.read(1 << 20)
            if not part:
                break
            data += part
    _, status = os.waitpid(child, 0)
    if not data:
        raise RuntimeError(f"its process died (status {status})")
    result, error = pickle.loads(data)
    if error is not None:
        raise RuntimeError(error)
    return result


def _peak() -> int:
    """The largest memory of this process so far, in bytes; a fork starts with what it holds."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _trim() -> None:
    """Give freed memory back, so that a child does not start with memory to spare."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def answer(
    request: Mapping[str, Any], known: Mapping[str, Method], split: Split, kept: dict[str, Any]
) -> dict[str, Any]:
    """Do what a request asks for: refine and count. A failure counts as the network's labels."""
    name = request["photograph"]
    key = (request["stage"], name)
    if kept.get("key") != key:
        scene, label = split.read(name)
        judge = Judge(label, split.num_classes, Settings(tuple(request["widths"])))
        kept.update(key=key, scene=scene, judge=judge)
    scene, judge = kept["scene"], kept["judge"]
    method = known[request["method"]]
    decide = request["decide"] if method.with_rankseg else None
    clock, error = time.perf_counter(), None
    try:
        numbers = request["numbers"]
        outcome = in_child(lambda: refined(method, scene, numbers, decide), request["limit"])
    except RuntimeError as failure:
        error = str(failure)
        rows = [method.name] + [method.name + DECIDED] * (decide is not None)
        plain = scene.logits.argmax(axis=0)
        spent = {row: time.perf_counter() - clock for row in rows}
        outcome = Outcome(dict.fromkeys(rows, plain), spent, dict.fromkeys(rows, 0))
    counts = {row: encode(judge.count(labels)) for row, labels in outcome.labels.items()}
    return {
        "counts": counts,
        "seconds": outcome.seconds,
        "memory": outcome.memory,
        "error": error,
        "wall": time.perf_counter() - clock,
    }


def warm(rows: list[Method], num_classes: int) -> None:
    """Run each method on a few pixels: imports, compilers and first calls are nobody's time."""
    random = np.random.default_rng(0)
    image = random.integers(0, 255, (40, 48, 3)).astype(np.uint8)
    logits = np.zeros((num_classes, 40, 48), np.float32)
    logits[0, :, :20], logits[1, :, 28:] = 6, 6
    scene = Scene(image, logits, np.ascontiguousarray(logits[:, ::8, ::8]), (40, 48), False)
    numbers = {row.name: row.start[0] for row in rows}
    for row in rows:
        try:
            refined(row, scene, numbers[row.same_as or row.name], numbers.get("rankseg"))
        except Exception as error:  # each photograph will say so
            sys.stderr.write(f"{row.title}: failed on the first try: {error}\n")


def main() -> None:
    """Answer requests until there are no more."""
    import torch

    torch.set_num_threads(1)
    try:
        import cv2

        cv2.setNumThreads(1)
    except ImportError:
        pass
    # What packages print must not mix with answers.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    config = json.loads(sys.argv[1])
    trained = None if config["trained"] is None else Path(config["trained"])
    rows, _ = present(methods(trained, config["methods"]))
    known = {row.name: row for row in rows}
    splits = {"test": Split(Folders.from_dict(config["test"]))}
    kept: dict[str, Any] = {}
    warm(rows, splits["test"].num_classes)
    gc.freeze()  # what is imported: collections need not look at it, and children need not copy it
    for line in sys.stdin:
        request = json.loads(line)
        stage = request["stage"]
        if stage not in splits:
            splits[stage] = Split(Folders.from_dict(config[stage]))
        replies.write(json.dumps(answer(request, known, splits[stage], kept)) + "\n")
        replies.flush()
