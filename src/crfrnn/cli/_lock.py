"""Two jobs on one output folder: a lock says who runs, and shards share the work."""

from __future__ import annotations

import argparse
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

#: A job shows this often that it lives, and is taken for dead after this long, in seconds.
_BEAT, _DEAD = 30.0, 600.0

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from one."""

    index: int = 1
    count: int = 1

    def part(self, items: Sequence[Item]) -> list[Item]:
        """Return every `count`-th item; the parts of all shards are all items."""
        return list(items[self.index - 1 :: self.count])

    def meets(self, other: Shard) -> bool:
        """Whether two shards share items: unless both are different parts of as many."""
        return self.count != other.count or self.index == other.index


def parse_shard(text: str) -> Shard:
    """Read "2/4"."""
    numbers = [int(part) if part.isdecimal() else 0 for part in text.split("/")]
    if len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1]:
        message = f"expected I/N, such as 2/4 for the second of four parts; got {text!r}"
        raise argparse.ArgumentTypeError(message)
    return Shard(numbers[0], numbers[1])


@contextmanager
def claimed(folder: Path, command: str, shard: Shard) -> Iterator[None]:
    """Hold an output folder, or a shard of it, for as long as the block lasts.

    Raises:
        ValueError: another job that lives holds it.
    """
    path = folder / f".crfrnn-{command}.{shard.index}-of-{shard.count}.lock"
    _write(path)
    try:
        for other in folder.glob(f".crfrnn-{command}.*.lock"):
            if other != path and _shard_of(other).meets(shard) and (owner := _owner(other)):
                raise ValueError(_taken(folder, command, owner))
        done = threading.Event()
        thread = threading.Thread(target=_beat, args=(path, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
    finally:
        path.unlink(missing_ok=True)


def _write(path: Path) -> None:
    """Create the lock; take over that of a dead job."""
    owner = {"process": os.getpid(), "host": socket.gethostname(), "since": time.time()}
    for _ in range(2):
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(owner, file)
            return
        except FileExistsError:
            if living := _owner(path):
                command = path.name.split(".")[1].removeprefix("crfrnn-")
                raise ValueError(_taken(path.parent, command, living)) from None
            path.unlink(missing_ok=True)
    raise ValueError(f"{path}: another job took this lock at the same moment; try again")


def _owner(path: Path) -> dict[str, Any] | None:
    """Who holds a lock; None if that job is dead."""
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:  # it is gone
        return None
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        process, host = int(owner["process"]), str(owner["host"])
        time.localtime(float(owner["since"]))  # else it is damaged
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None if age > _BEAT else {"process": "?", "host": "?", "since": time.time() - age}
    if age > _DEAD or (host == socket.gethostname() and not _lives(process)):
        return None
    return dict(owner)


def _lives(process: int) -> bool:
    if process == os.getpid() or os.name == "nt":  # where signal 0 would interrupt it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of another user; or of none that is known
        return True
    return True


def _taken(folder: Path, command: str, owner: dict[str, Any]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(float(owner["since"])))
    return (
        f"{folder}: another crfrnn {command} is writing here (process {owner['process']} on "
        f"{owner['host']}, since {since}). Wait for it. Or stop it and share the work: give one "
        "job --shard 1/2 and the other --shard 2/2"
    )


def _shard_of(path: Path) -> Shard:
    try:
        index, count = path.name.split(".")[2].split("-of-")
        return Shard(int(index), int(count))
    except (ValueError, IndexError):
        return Shard()


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(_BEAT):
        try:
            os.utime(path)
        except OSError:
            return
