"""Locks on outputs: one job at a time, and those of dead jobs are taken over by one."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from crfrnn.io import locks
from crfrnn.io.locks import Shard, claimed

NAME = ".crfrnn-refine.1-of-1.lock"
HOST = socket.gethostname()
TAKEN = "another crfrnn refine is writing here"

needs_proc = pytest.mark.skipif(
    not locks._start(os.getpid()), reason="needs a system that says when a process started"
)


def leave(path: Path, silence: float = 0.0, **owner: Any) -> None:
    """Write the lock of another job, whose last beat was `silence` seconds ago."""
    whole = {"process": 1, "host": HOST, "since": time.time(), "claim": "of the other"}
    path.write_text(json.dumps({**whole, **owner}))
    os.utime(path, (time.time() - silence,) * 2)


def dead(path: Path) -> None:
    leave(path, process=os.getpid(), token="of an earlier process")


def is_refused(output: Path) -> bool:
    try:
        with claimed(output, "refine"):
            return False
    except ValueError as error:
        return TAKEN in str(error)


def test_of_jobs_that_find_a_dead_lock_at_once_one_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has seen that the lock is dead when the second takes it over."""
    dead(tmp_path / NAME)
    find, calls = locks._holder, []
    with ExitStack() as second:

        def holder(path: Path) -> Any:
            found = find(path)
            calls.append(path)
            if len(calls) == 1:
                assert found is None
                second.enter_context(claimed(tmp_path, "refine"))
            return found

        monkeypatch.setattr(locks, "_holder", holder)
        assert is_refused(tmp_path)
        assert (tmp_path / NAME).exists()
        assert is_refused(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_crowd_takes_a_dead_lock_once(tmp_path: Path) -> None:
    for _ in range(20):
        dead(tmp_path / NAME)
        start, end = threading.Barrier(8), threading.Barrier(8)
        taken: list[int] = []

        def job(
            number: int,
            start: threading.Barrier = start,
            end: threading.Barrier = end,
            taken: list[int] = taken,
        ) -> None:
            start.wait(30)
            try:
                with claimed(tmp_path, "refine"):
                    taken.append(number)
                    end.wait(30)
            except ValueError:
                end.wait(30)

        threads = [threading.Thread(target=job, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(taken) == 1
        assert not list(tmp_path.iterdir())


def test_a_job_that_died_while_it_took_over_blocks_nobody(tmp_path: Path) -> None:
    dead(tmp_path / NAME)
    content = (tmp_path / NAME).read_bytes()
    digest = locks.hashlib.sha256(content).hexdigest()[:16]
    dead(tmp_path / f"{NAME}.{digest}.turn")
    with claimed(tmp_path, "refine"):
        assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert not list(tmp_path.iterdir())


def test_a_number_that_another_process_had_before_is_not_its_lock(tmp_path: Path) -> None:
    """As in a container that was started again: its processes have the same numbers."""
    for owner in ({}, {"token": "x"}, {"start": "an earlier boot 7", "token": "x"}):
        leave(tmp_path / NAME, process=os.getpid(), **owner)
        assert not is_refused(tmp_path)


@needs_proc
def test_the_start_of_a_process_tells_it_from_others_of_its_number(tmp_path: Path) -> None:
    parent = os.getppid()
    leave(tmp_path / NAME, process=parent, start=locks._start(parent))
    assert is_refused(tmp_path)
    boot, ticks = locks._start(parent).split()
    leave(tmp_path / NAME, process=parent, start=f"{boot} {int(ticks) - 1}")
    assert not is_refused(tmp_path)
    leave(tmp_path / NAME, process=parent)  # of a version that did not note it
    assert is_refused(tmp_path)


@needs_proc
def test_processes_that_cannot_be_seen_live_as_long_as_they_beat(tmp_path: Path) -> None:
    for silence, refused in ((60, True), (120, False)):
        leave(tmp_path / NAME, silence, process=10**6, space="pid:[1]", start="b 1")
        assert is_refused(tmp_path) == refused


def test_a_job_that_slept_leaves_the_lock_of_its_successor(tmp_path: Path) -> None:
    with claimed(tmp_path, "refine"):
        leave(tmp_path / NAME, host="elsewhere")
    assert is_refused(tmp_path)


def test_a_file_is_locked_beside_it(tmp_path: Path) -> None:
    output = tmp_path / "labels.tif"
    with claimed(output, "refine"), claimed(tmp_path / "other.tif", "refine"):
        assert (tmp_path / ".labels.tif.crfrnn-refine.lock").exists()
        with pytest.raises(ValueError, match=TAKEN) as caught, claimed(output, "refine"):
            pass
        assert str(caught.value).startswith(f"{output}: ")
        assert "Or write to another file" in str(caught.value)
        assert "--shard" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_shards_that_meet_are_refused(tmp_path: Path) -> None:
    with claimed(tmp_path, "refine", Shard(1, 2)):
        with claimed(tmp_path, "refine", Shard(2, 2)):
            pass
        for other in (Shard(1, 2), Shard(), Shard(2, 3)):
            with pytest.raises(ValueError, match=TAKEN), claimed(tmp_path, "refine", other):
                pass
        assert len(list(tmp_path.iterdir())) == 1
