"""Two jobs on one output: a lock beside or inside it says who runs, and shards share the work."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from .files import require_writable, write_text
from .trees import read_json

#: A job renews its lock this often, and counts as dead after this long without, in seconds.
_BEAT, _DEAD = 30.0, 600.0
#: The same limit for jobs of one host name that cannot see each other's processes, as in two
#: containers, or in one that was restarted.
_UNSEEN = 3 * _BEAT

#: Names this process where the system does not say when it started.
_TOKEN = secrets.token_hex(8)

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from one."""

    index: int = 1
    count: int = 1

    def part(self, items: Sequence[Item]) -> list[Item]:
        """Return every `count`-th item; together, all shards have all items."""
        return list(items[self.index - 1 :: self.count])

    def meets(self, other: Shard) -> bool:
        """Whether two shards may share items: all but different parts of the same count."""
        return self.count != other.count or self.index == other.index


@dataclass(frozen=True)
class _Owner:
    """Who holds a lock.

    Attributes:
        process: its number; None if the lock is damaged.
        host: the name of its machine.
        since: when it took the lock, in seconds of Unix time.
        start: tells it from an earlier process of the same number; "" if the system does not say.
        space: its namespace of process numbers; "" if the system does not say.
        token: of the process.
        claim: differs for each lock.
        settings: a hash of the parameters; "" if shards need not agree.
    """

    process: int | None
    host: str
    since: float
    start: str = ""
    space: str = ""
    token: str = ""
    claim: str = ""
    settings: str = ""

    def lives(self, silence: float) -> bool:
        """Whether the job is alive, `silence` seconds after it last renewed its lock."""
        if self.process is None:  # its owner may be about to write it
            return silence <= _BEAT
        if silence > _DEAD:
            return False
        if self.host != socket.gethostname():
            return True
        if self.space and _space() and self.space != _space():
            return silence <= _UNSEEN
        if self.process == os.getpid():
            return self.token == _TOKEN
        start = _start(self.process)
        if self.start and start:
            return self.start == start
        return _exists(self.process)


@contextmanager
def claimed(
    output: Path, command: str, shard: Shard | None = None, settings: str = ""
) -> Iterator[None]:
    """Lock an output for as long as the block lasts.

    Args:
        output: a folder, of which `shard` is locked; or the file that a long job writes at its end.
        command: what writes it, such as "refine".
        shard: the part of the folder; by default all of it.
        settings: a hash of the parameters, which must be the same for all shards.

    Raises:
        ValueError: another running job holds it, or another shard has other parameters.
        OSError: nothing can be written there.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from crfrnn.io.locks import claimed
        >>> folder = Path(tempfile.mkdtemp())
        >>> with claimed(folder, "refine"):
        ...     [path.name for path in folder.iterdir()]
        ['.crfrnn-refine.1-of-1.lock']
        >>> list(folder.iterdir())
        []
    """
    shard = shard or Shard()
    inside = output.is_dir()
    if not inside:
        require_writable(output)
    name = f".crfrnn-{command}.{shard.index}-of-{shard.count}.lock"
    path = output / name if inside else output.with_name(f".{output.name}.crfrnn-{command}.lock")
    mine = replace(_me(), settings=settings)
    living = _acquire(path, mine)
    if living is not None:
        raise ValueError(_taken(output, command, living))
    try:
        for other in output.glob(f".crfrnn-{command}.*.lock") if inside else ():
            owner = None if other == path else _holder(other)
            if owner is None:
                continue
            if _shard_of(other).meets(shard):
                raise ValueError(_taken(output, command, owner))
            if owner.settings and settings and owner.settings != settings:
                raise ValueError(_other_settings(output, command, owner))
        done = threading.Event()
        thread = threading.Thread(target=_beat, args=(path, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
    finally:
        _release(path, mine)


def count_jobs(folder: Path, command: str) -> int:
    """Count the running jobs that hold a lock on a folder.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from crfrnn.io.locks import Shard, claimed, count_jobs
        >>> folder = Path(tempfile.mkdtemp())
        >>> with claimed(folder, "refine", Shard(1, 2)), claimed(folder, "refine", Shard(2, 2)):
        ...     count_jobs(folder, "refine")
        2
    """
    return sum(_holder(path) is not None for path in folder.glob(f".crfrnn-{command}.*.lock"))


def _acquire(path: Path, mine: _Owner) -> _Owner | None:
    """Take a lock; return None once it is ours, or who holds it if that job is alive.

    If several jobs find the lock of a dead job at once, only one takes it over: it first takes a
    second lock, named by a hash of the dead one's content. Until it releases that, no other job
    can replace this content, and jobs that come later find a different one.
    """
    try:
        file = path.open("x", encoding="utf-8")
    except FileExistsError:
        pass
    else:
        try:
            with file:
                json.dump(asdict(mine), file)
        except BaseException:
            path.unlink()
            raise
        return None
    found = _content(path)
    if found is None:  # it was released in the meantime
        return _acquire(path, mine)
    if (holder := _holder(path)) is not None:
        return holder
    digest = hashlib.sha256(found).hexdigest()[:16]
    turn = path.with_name(f"{path.name[:64]}.{digest}.turn")
    other = _acquire(turn, mine)
    if other is not None:
        return other
    try:
        if _content(path) != found:
            return _acquire(path, mine)
        if (holder := _holder(path)) is not None:  # it was asleep
            return holder
        write_text(path, json.dumps(asdict(mine)))
        return None
    finally:
        _release(turn, mine)


def _release(path: Path, mine: _Owner) -> None:
    """Remove a lock, unless another job took it over while this one was suspended."""
    if _parse(_content(path) or b"") == mine:
        path.unlink(missing_ok=True)


def _holder(path: Path) -> _Owner | None:
    """Who holds a lock; None if that job is dead, or there is no lock."""
    try:
        silence = time.time() - path.stat().st_mtime
    except OSError:
        return None
    content = _content(path)
    if content is None:
        return None
    owner = _parse(content) or _Owner(None, "?", time.time() - silence)
    return owner if owner.lives(silence) else None


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError:  # it is there, but says nothing
        return b""


def _parse(content: bytes) -> _Owner | None:
    """The owner that a lock names; None if it is damaged."""
    try:
        given = read_json(content)
        process, host, since = int(given["process"]), str(given["host"]), float(given["since"])
        time.localtime(since)  # as the message will
        rest = [
            str(given.get(name, "")) for name in ("start", "space", "token", "claim", "settings")
        ]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, OSError):
        return None
    return _Owner(process, host, since, *rest)


def _me() -> _Owner:
    process = os.getpid()
    return _Owner(
        process,
        socket.gethostname(),
        time.time(),
        _start(process),
        _space(),
        _TOKEN,
        secrets.token_hex(8),
    )


def _start(process: int) -> str:
    """When a process started, and of which start of the machine; "" if the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        return f"{boot} {stat.rpartition(')')[2].split()[19]}"  # its name may hold spaces
    except (OSError, ValueError, IndexError):
        return ""


def _space() -> str:
    """The namespace of this process's number; "" if the system does not say."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _exists(process: int) -> bool:
    if os.name == "nt":  # where signal 0 would interrupt it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's, or the number is too large
        return True
    return True


def _taken(output: Path, command: str, owner: _Owner) -> str:
    remedy = (
        "Or stop it and share the work: give one job --shard 1/2 and the other --shard 2/2"
        if output.is_dir()
        else "Or write to another file"
    )
    where = f"{output}: another crfrnn {command} is writing here ({_spell(owner)})"
    return f"{where}. Wait for it. {remedy}"


def _other_settings(output: Path, command: str, owner: _Owner) -> str:
    return (
        f"{output}: another crfrnn {command} works on another shard with other parameters "
        f"({_spell(owner)}). Give the same parameters, or stop it, or write to another folder"
    )


def _spell(owner: _Owner) -> str:
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(owner.since))
    process = "?" if owner.process is None else owner.process
    return f"process {process} on {owner.host}, since {since}"


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
