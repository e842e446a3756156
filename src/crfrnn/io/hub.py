"""Models on a hub: upload a directory, or find the directory that a name stands for.

The only module that knows huggingface_hub, which is optional and imported when a hub is needed.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crfrnn._extras import install, load

from .files import describe
from .storage import FILES

_PACKAGE, _EXTRA = "huggingface_hub", "hub"

#: A namespace and a name, as hubs allow them.
_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True)
class Download:
    """How to get a model from a hub.

    Attributes:
        revision: a branch, tag or commit; default is the main branch.
        token: for private models; default is that of the login.
        cache_dir: where downloads are kept.
        local_files_only: take what was downloaded before, and do not ask the hub.
    """

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False


@dataclass(frozen=True)
class Upload:
    """How to put a model on a hub.

    Attributes:
        private: for a new repository; default is what the owner's account says.
        token: default is that of the login.
        branch: default is the main branch.
        create_pr: propose the files, and do not write them.
        message: of the commit.
    """

    private: bool | None = None
    token: str | None = None
    branch: str | None = None
    create_pr: bool = False
    message: str = "Upload a model of crfrnn"


def is_id(name: str | Path) -> bool:
    """Whether a text may name a model on a hub: `owner/name`, and nothing of that path is here."""
    return isinstance(name, str) and not Path(name).exists() and bool(_ID.fullmatch(name))


def directory_of(name: str | Path, how: Download) -> Path:
    """The directory that holds a model: the path itself, or what was downloaded from the hub.

    Raises:
        FileNotFoundError: there is neither a directory nor a model of that name.
    """
    if not is_id(name):
        return Path(name)
    if importlib.util.find_spec(_PACKAGE) is None:
        raise FileNotFoundError(
            f"{name}: no such directory. For a model of that name on a hub, {install(_EXTRA)}"
        )
    hub = load(_PACKAGE, _EXTRA, name)
    try:
        found = hub.snapshot_download(
            name,
            revision=how.revision,
            token=how.token,
            cache_dir=how.cache_dir,
            local_files_only=how.local_files_only,
            allow_patterns=list(FILES),
        )
    except (OSError, ValueError) as error:  # of the network, of the answer, of the cache
        raise FileNotFoundError(
            f"{name}: no such directory, and no such model on the hub "
            f"({type(error).__name__}: {describe(error)})"
        ) from error
    return Path(found)


def push(name: str, save: Callable[[Path], None], how: Upload) -> str:
    """Upload what `save` writes into a directory, and return the address there.

    Raises:
        ImportError: huggingface_hub is missing.
        ValueError: the name is not `owner/name` or `name`.
    """
    if not isinstance(name, str) or not _ID.fullmatch(name if "/" in str(name) else f"me/{name}"):
        raise ValueError(
            f"expected the name of a model on a hub, such as 'owner/name'; got {name!r}"
        )
    hub = load(_PACKAGE, _EXTRA, "push_to_hub")
    mixin: Any = hub.ModelHubMixin

    class Folder(mixin, library_name="crfrnn"):  # type: ignore[misc, call-arg]
        """The files of a model, for the mixin to upload."""

        def _save_pretrained(self, save_directory: Path) -> None:
            save(save_directory)

    address = Folder().push_to_hub(
        name,
        commit_message=how.message,
        private=how.private,
        token=how.token,
        branch=how.branch,
        create_pr=how.create_pr,
    )
    return str(address)
