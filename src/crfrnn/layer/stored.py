"""The methods of a layer that write it to a directory or a hub, and read it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from crfrnn.io import hub
from crfrnn.io.cards import ModelCard, write_card
from crfrnn.io.files import describe

from . import pretrained

_Layer = TypeVar("_Layer", bound="StoredLayer")


class StoredLayer:
    """What `CRFRNN` has of it: `save_pretrained`, `push_to_hub` and `from_pretrained`."""

    def save_pretrained(self, directory: str | Path, *, card: ModelCard | None = None) -> None:
        """Write the layer as `config.json` and `model.safetensors` into a directory.

        A write that is interrupted leaves the layer that was there before, or the new one.

        Args:
            directory: created if it is missing.
            card: also write a model card, `README.md`.

        Example:
            >>> import os, tempfile
            >>> from crfrnn import CRFRNN, ModelCard
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     CRFRNN(21).save_pretrained(folder, card=ModelCard(license="mit"))
            ...     sorted(os.listdir(folder))
            ['README.md', 'config.json', 'model.safetensors']
        """
        self._save(Path(directory), card, str(directory))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: ModelCard | None = None,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool = False,
        commit_message: str = hub.Upload.message,
    ) -> str:
        """Upload the layer and its model card to a hub, through huggingface_hub.

        This needs the extra `crfrnn[hub]`, and a login or a token.

        Args:
            repo_id: `owner/name`; created if it is missing.
            card: what the model card says; default is what is known, which is the configuration.
            private: for a new repository; default is what the account says.
            token: default is that of the login.
            branch: default is the main branch.
            create_pr: propose the files, and do not write them.
            commit_message: of the commit.

        Returns:
            The address on the hub: of the commit, or of the files with an older huggingface_hub.

        Example:
            >>> from crfrnn import CRFRNN, ModelCard
            >>> layer, card = CRFRNN(21), ModelCard(license="mit", data="VOC 2012, train")
            >>> layer.push_to_hub("owner/voc-crf", card=card)  # doctest: +SKIP
        """
        how = hub.Upload(private, token, branch, create_pr, commit_message)
        given = ModelCard() if card is None else card
        return hub.push(repo_id, lambda directory: self._save(directory, given, repo_id), how)

    @classmethod
    def from_pretrained(
        cls: type[_Layer],
        directory: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> _Layer:
        """Read a layer that `save_pretrained` wrote, or the CRF of a model that `crfrnn` wrote.

        It comes in evaluation mode.

        Args:
            directory: a path; or `owner/name` of a model on a hub, if there is no such path. The
                latter needs the extra `crfrnn[hub]`.
            revision: on a hub, a branch, tag or commit.
            token: on a hub, for private models; default is that of the login.
            cache_dir: where downloads are kept.
            local_files_only: do not ask the hub for what was downloaded before.

        Raises:
            FileNotFoundError: there is no such directory, and no such model on the hub.
            ValueError: the files cannot be read.

        Example:
            >>> import tempfile
            >>> from crfrnn import CRFRNN
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     CRFRNN(21, iterations=3).save_pretrained(folder)
            ...     CRFRNN.from_pretrained(folder).iterations
            3
        """
        how = hub.Download(revision, token, cache_dir, local_files_only)
        config, tensors = pretrained.read(hub.directory_of(directory, how))
        try:
            layer: Any = cls(**pretrained.arguments(config, tensors))
            layer = layer.to(tensors["kernel_weights"].dtype)
            layer.load_state_dict(tensors)
        except KeyError as error:
            raise ValueError(f"{directory}: {error} is missing") from error
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{directory}: {describe(error)}") from error
        stored: _Layer = layer.eval()
        return stored

    def _save(self, directory: Path, card: ModelCard | None, name: str) -> None:
        pretrained.write(directory, self)
        if card is not None:
            use = f'from crfrnn import CRFRNN\n\nlayer = CRFRNN.from_pretrained("{name}")'
            write_card(directory, card.text("CRFRNN", pretrained.facts(self), use))
