"""Paths anywhere: on this machine, or behind a URL such as s3://bucket/photos, through fsspec."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from crfrnn._extras import load

from .files import PART_SUFFIX, describe

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")

#: Stores that show an object only once it is complete. Elsewhere a file is renamed when it is.
_WHOLE_AT_ONCE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
_READ_ONLY = frozenset({"http", "https"})
#: Stores whose listings fsspec would keep, and so miss what others write.
_KEEPS_LISTINGS = (_WHOLE_AT_ONCE | _READ_ONLY) - {"memory"}

#: What the libraries call the time of the last change.
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")


@dataclass(frozen=True)
class Entry:
    """A file in a listing.

    Attributes:
        size: in bytes; None if the store does not say.
        changed: nanoseconds since 1970; None if the store does not say.
    """

    size: int | None
    changed: int | None


@dataclass(frozen=True, slots=True)  # slots, because a job may hold millions
class Remote:
    """A file or a folder behind a URL, with the methods of `Path` that jobs need.

    Attributes:
        protocol: "s3" of s3://bucket/name.
        key: "bucket/name".
        options: options of fsspec's file system, as JSON.

    Example:
        >>> from crfrnn.io.paths import parse_path
        >>> photo = parse_path("s3://bucket/photos") / "a.jpg"
        >>> str(photo), photo.stem, str(photo.parent)
        ('s3://bucket/photos/a.jpg', 'a', 's3://bucket/photos')
    """

    protocol: str
    key: str
    options: str = field(default="", repr=False)  # may hold a secret

    def __str__(self) -> str:
        """Return the URL."""
        return f"{self.protocol}://{self.key}"

    def __truediv__(self, name: str) -> Remote:
        """Name a file in this folder."""
        return replace(self, key=f"{self.key}/{name}")

    @property
    def name(self) -> str:
        """The last part, without the query of a signed URL."""
        key = self.key.partition("?")[0] if self.protocol in _READ_ONLY else self.key
        return key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The suffix of the name, with its dot."""
        return Path(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return Path(self.name).stem

    @property
    def parent(self) -> Remote:
        """The folder."""
        return replace(self, key=self.key.rpartition("/")[0])

    def with_name(self, name: str) -> Remote:
        """Name another file in the same folder."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> Remote:
        """Replace the suffix."""
        return self.with_name(f"{self.stem}{suffix}")

    def resolve(self) -> Remote:
        """Return the URL itself, which is absolute."""
        return self

    def is_dir(self) -> bool:
        """Whether it is a folder, or a prefix of the names of objects."""
        system, path = _system(self)
        with _naming(self, "looked up"):
            return bool(system.isdir(path))

    def is_file(self) -> bool:
        """Whether it is a file."""
        return stat(self) is not None

    def exists(self) -> bool:
        """Whether it is a file or a folder."""
        system, path = _system(self)
        with _naming(self, "looked up"):
            return bool(system.exists(path))


#: A file or a folder anywhere.
AnyPath = Path | Remote


def parse_path(text: str, options: str = "") -> AnyPath:
    """Read a path, or a URL.

    Args:
        text: such as "photos", "s3://bucket/photos", "https://host/a.png", "file:///tmp/a.png".
        options: for fsspec's file system, as a JSON object; by default its own configuration and
            the credentials that the store's library finds.

    Raises:
        ValueError: the URL lacks a bucket or host, or chains file systems.

    Example:
        >>> from crfrnn.io.paths import parse_path
        >>> parse_path("photos").name, parse_path("gs://bucket/photos/").name
        ('photos', 'photos')
    """
    if "::" in text and "://" in text:
        raise ValueError(f"{text}: chains of file systems (::) are not supported; give a plain URL")
    if not _URL.match(text):
        return Path(text)
    protocol, _, key = text.partition("://")
    protocol, key = protocol.lower(), key.rstrip("/")
    if protocol == "file":
        return Path(unquote(urlsplit(text).path))
    if not key and protocol != "memory":
        raise ValueError(f"{text}: expected a bucket or a host after {protocol}://")
    return Remote(protocol, key, options)


def parse_options(text: str) -> str:
    """Check a JSON object of options for fsspec's file system, and return it.

    Raises:
        ValueError: it is not a JSON object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(
            'expected a JSON object, such as {"endpoint_url": "http://127.0.0.1:9000"}'  # not shown
        )
    return json.dumps(value, sort_keys=True)


def join(base: AnyPath, text: str, options: str = "") -> AnyPath:
    """Read a path, or a URL with the options of `parse_path`; a relative path begins at `base`.

    Example:
        >>> from crfrnn.io.paths import join, parse_path
        >>> str(join(parse_path("s3://bucket/jobs"), "photos/a.jpg"))
        's3://bucket/jobs/photos/a.jpg'
    """
    if _URL.match(text) or Path(text).is_absolute():
        return parse_path(text, options)
    return base / text


def stat(path: AnyPath) -> Entry | None:
    """Return size and time of a file; None if there is none.

    Raises:
        OSError: the store does not answer.
    """
    if isinstance(path, Path):
        if not path.is_file():
            return None
        found = path.stat()
        return Entry(found.st_size, found.st_mtime_ns)
    system, key = _system(path)
    try:
        with _naming(path, "looked up"):
            info = system.info(key)
    except FileNotFoundError:
        return None
    return _entry(info) if info.get("type") == "file" else None


def entries(folder: AnyPath) -> dict[str, Entry]:
    """List the files of a folder by name, without those of its subfolders and hidden ones.

    Raises:
        FileNotFoundError: there is no such folder.
        OSError: it cannot be listed.
    """
    if isinstance(folder, Path):
        files = sorted(path for path in folder.iterdir() if path.is_file())
        found = {path.name: path.stat() for path in files if not path.name.startswith(".")}
        return {name: Entry(stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}
    system, key = _system(folder)
    with _naming(folder, "listed"):
        listed = {
            info["name"].rstrip("/").rpartition("/")[2]: _entry(info)
            for info in system.ls(key, detail=True)
            if info.get("type") == "file"
        }
    return {name: listed[name] for name in sorted(listed) if name and not name.startswith(".")}


def read_bytes(path: AnyPath) -> bytes:
    """Read a file as a whole; every error of a store names the URL."""
    if isinstance(path, Path):
        return path.read_bytes()
    system, key = _system(path)
    with _naming(path, "read"):
        return bytes(system.cat_file(key))


def read_end(path: AnyPath, count: int) -> bytes:
    """Read the last bytes of a file."""
    if isinstance(path, Path):
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - count, 0))
            return file.read()
    system, key = _system(path)
    with _naming(path, "read"):
        return bytes(system.cat_file(key, start=-count))


def write_remote(path: Remote, data: bytes) -> None:
    """Write an object, which appears whole or not at all.

    Raises:
        ValueError: the URL is http(s)://, which can only be read.
        OSError: the store refuses it.
    """
    require_store(path)
    system, key = _system(path)
    with _naming(path, "written"):
        if path.protocol in _WHOLE_AT_ONCE:
            system.pipe_file(key, data)
            return
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART_SUFFIX}")
        hidden = _system(part)[1]
        system.makedirs(_system(path.parent)[1], exist_ok=True)
        try:
            system.pipe_file(hidden, data)
            system.mv(hidden, key)
        except BaseException:
            if system.exists(hidden):
                system.rm_file(hidden)
            raise


def require_local(path: AnyPath) -> Path:
    """Return a local path; raise ValueError for a URL, where only local files are read."""
    if isinstance(path, Remote):
        raise ValueError(f"{path}: expected a local path; got a URL")
    return path


def require_store(path: AnyPath) -> None:
    """Raise ValueError if a path can only be read."""
    if isinstance(path, Remote) and path.protocol in _READ_ONLY:
        raise ValueError(f"{path}: http(s):// can only be read; write to a folder or a bucket")


def _system(path: Remote) -> tuple[Any, str]:
    """Return fsspec's file system, and the path in its terms."""
    kind, url = _kind(path.protocol), str(path)
    host = tuple(sorted(kind._get_kwargs_from_urls(url).items()))
    return _open(path.protocol, path.options, host), str(kind._strip_protocol(url))


@lru_cache(maxsize=64)
def _kind(protocol: str) -> Any:
    fsspec = load("fsspec", "remote", f"{protocol}://")
    try:
        return fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise ImportError(f"{protocol}:// needs one more package: {describe(error)}") from error
    except ValueError as error:
        raise ValueError(f"{protocol}:// is unknown to fsspec ({describe(error)})") from error


@lru_cache(maxsize=64)
def _open(protocol: str, options: str, host: tuple[tuple[str, Any], ...]) -> Any:
    given = {**dict(host), **(json.loads(options) if options else {})}
    if protocol in _KEEPS_LISTINGS:
        given.setdefault("use_listings_cache", False)
    try:
        return load("fsspec", "remote", f"{protocol}://").filesystem(protocol, **given)
    except Exception as error:  # mostly options that it does not take
        raise ValueError(f"{protocol}:// cannot be opened ({_reason(error)})") from error


@contextmanager
def _naming(path: Remote, done: str) -> Iterator[None]:
    """Turn what the libraries of stores raise into an OSError that names the URL."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: there is no such file or folder") from error
    except Exception as error:  # each library has its own, and some are not even OSErrors
        kind = PermissionError if isinstance(error, PermissionError) else OSError
        raise kind(f"{path}: cannot be {done} ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    text, name = describe(error), type(error).__name__
    return text if text.startswith(name) or isinstance(error, OSError) else f"{name}: {text}"


def _entry(info: dict[str, Any]) -> Entry:
    size = info.get("size")
    return Entry(None if size is None else int(size), _changed(info))


def _changed(info: dict[str, Any]) -> int | None:
    value = next((info[name] for name in _TIMES if info.get(name) is not None), None)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            return None
    if isinstance(value, datetime):
        value = value.timestamp()
    return round(value * 1e9) if isinstance(value, (int, float)) else None
