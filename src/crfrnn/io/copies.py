"""Local copies of files behind URLs, for code that reads and writes local files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType

from .array_files import ZARR_SUFFIX, split_member
from .files import describe, make_folder
from .paths import AnyPath, Remote, read_bytes, require_store, stat, write_remote


class Copies:
    """Local copies of files behind URLs, kept for as long as the `with` block lasts.

    A local path stands for itself. An error within the block names the URL in place of its copy,
    and says so if only part of the file arrived.

    Example:
        >>> from pathlib import Path
        >>> from crfrnn.io.copies import Copies
        >>> with Copies() as copies:
        ...     print(copies.fetch(Path("a.png")))
        a.png
    """

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._copies: dict[Path, Remote] = {}
        self._arrived: dict[Remote, int] = {}

    def __enter__(self) -> Copies:
        """Begin; nothing is fetched yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the copies, and name URLs in the error."""
        try:
            if isinstance(error, Exception) and self._copies:
                self._explain(error)
        finally:
            if self._folder is not None:
                self._folder.cleanup()

    def fetch(self, path: AnyPath) -> Path:
        """Return a local file with the content of `path`, which may be FILE:NAME."""
        if isinstance(path, Path):
            return path
        file, member = split_member(Path(path.name))
        if file.suffix.lower() == ZARR_SUFFIX:
            raise ValueError(f"{path}: a zarr store can only be read from a local folder; copy it")
        remote = path if member is None else path.with_name(file.name)
        data = read_bytes(remote)
        copy = self._place(remote)
        try:
            copy.write_bytes(data)
        except OSError as error:
            raise self._no_room(error, remote) from error
        self._arrived[remote] = len(data)
        return copy if member is None else copy.with_name(f"{file.name}:{member}")

    def output(self, path: AnyPath) -> Path:
        """Return a local file to write, which `deliver` sends to `path`."""
        if isinstance(path, Path):
            make_folder(path.parent)
            return path
        require_store(path)
        return self._place(path)

    def deliver(self, path: AnyPath) -> None:
        """Send what was written for `path` to its place, whole or not at all."""
        if isinstance(path, Remote):
            copy = next(copy for copy, remote in self._copies.items() if remote == path)
            write_remote(path, copy.read_bytes())

    def _place(self, remote: Remote) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="crfrnn-", ignore_cleanup_errors=True)
        # Each in its own folder: a photograph and its scores often have the same name.
        copy = Path(self._folder.name) / str(len(self._copies)) / remote.name
        copy.parent.mkdir()
        self._copies[copy] = remote
        return copy

    def _explain(self, error: Exception) -> None:
        """Raise the error again in terms of URLs, if it is about a copy."""
        text = str(error)
        about = [(copy, remote) for copy, remote in self._copies.items() if str(copy) in text]
        if not about:
            return
        if isinstance(error, OSError) and error.errno is not None:
            raise self._no_room(error, about[0][1]) from error
        for copy, remote in about:
            text = text.replace(str(copy), str(remote))
            text += self._loss(remote)
        try:
            renamed = type(error)(text)
        except TypeError:  # an exception of a library that wants more than a text
            return
        raise renamed from error

    def _loss(self, remote: Remote) -> str:
        """Say that only part of a file arrived; "" if all of it did."""
        arrived = self._arrived.get(remote)
        try:
            there = None if arrived is None else stat(remote)
        except OSError:
            return ""
        if there is None or there.size in (None, arrived):
            return ""
        return f". Only {arrived} of its {there.size} bytes arrived; try again"

    def _no_room(self, error: OSError, remote: Remote) -> OSError:
        assert self._folder is not None
        text = (
            f"{describe(error)}, for a copy of {remote}. The environment variable TMPDIR names "
            "another folder for temporary files"
        )
        return type(error)(error.errno, text, self._folder.name)
