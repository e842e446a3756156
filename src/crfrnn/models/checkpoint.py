"""Checkpoint: a network and its CRF, on disk in the format of `io.storage`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crfrnn import _checks
from crfrnn.io import hub, storage
from crfrnn.io.cards import ModelCard, write_card
from crfrnn.io.files import describe
from crfrnn.layer import pretrained
from crfrnn.layer.crfrnn import CRFRNN

from .loading import LoadReport, load_by_name
from .registry import make_network
from .segmenter import network_logits


@dataclass
class Checkpoint:
    """A network, with or without a CRF on top, and the names of its classes.

    Attributes:
        name: the network's name in `crfrnn.models.NETWORKS`, or the import path of its class, as
            `make_network` takes it.
        num_classes: C.
        arguments: further arguments of the network, as plain numbers and strings.
        network: default is a new network made from name and arguments.
        crf: None for the network alone.
        classes: names of the classes, in order of their ids.
        notes: further entries of config.json: numbers, strings, lists, and mappings whose keys are
            strings.

    Example:
        >>> import torch
        >>> from crfrnn import CRFRNN
        >>> from crfrnn.models.checkpoint import Checkpoint
        >>> model = Checkpoint("light", 3, {"width": 4}, crf=CRFRNN(3)).eval()
        >>> before, after = model.logits(torch.rand(1, 3, 20, 30) * 255)
        >>> before.shape, after.shape
        (torch.Size([1, 3, 20, 30]), torch.Size([1, 3, 20, 30]))
    """

    name: str
    num_classes: int
    arguments: Mapping[str, Any] = field(default_factory=dict)
    network: nn.Module = None  # type: ignore[assignment]  # made from name and arguments
    crf: CRFRNN | None = None
    classes: Sequence[str] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the network unless it was given, and check that the parts fit."""
        if self.network is None:
            self.network = make_network(self.name, self.num_classes, **self.arguments)
        if self.classes is not None and len(self.classes) != self.num_classes:
            raise ValueError(
                f"expected {self.num_classes} names of classes; got {len(self.classes)}"
            )
        if self.crf is not None and self.crf.num_classes != self.num_classes:
            raise ValueError(
                f"the CRF has {self.crf.num_classes} classes and the network {self.num_classes}"
            )

    def logits(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C, H, W) before and after the CRF, at the size of the image.

        Without a CRF both are the same tensor. The image is RGB (B, 3, H, W) on 0..255.
        """
        before = network_logits(self.network, image)
        return before, before if self.crf is None else self.crf(before, image)

    @property
    def has_crf(self) -> bool:
        """Whether there is a CRF on top."""
        return self.crf is not None

    def parts(self) -> nn.ModuleDict:
        """The parts as one module, `network` and `crf`."""
        return nn.ModuleDict({"network": self.network, **({"crf": self.crf} if self.crf else {})})

    def eval(self) -> Checkpoint:
        """Switch to evaluation mode and return the checkpoint."""
        self.parts().eval()
        return self

    def to(self, device: torch.device | str) -> Checkpoint:
        """Move to a device and return the checkpoint."""
        self.parts().to(device)
        return self

    def save(self, directory: str | Path, *, card: ModelCard | None = None) -> None:
        """Write config.json and model.safetensors, and with `card` README.md, a model card.

        An interrupted write leaves either the previous model or the new one.
        """
        self._save(Path(directory), card, str(directory))

    def push_to_hub(
        self, repo_id: str, *, card: ModelCard | None = None, how: hub.Upload | None = None
    ) -> str:
        """Upload the model and its card to a hub, through huggingface_hub (`crfrnn[hub]`).

        Args:
            repo_id: `owner/name`; created if it is missing.
            card: what the card says; default is what is known, which is the configuration.
            how: token, branch and the like.

        Returns:
            The address on the hub.
        """
        given = ModelCard() if card is None else card
        save = partial(self._save, card=given, name=repo_id)
        return hub.push(repo_id, save, how or hub.Upload())

    def _save(self, directory: Path, card: ModelCard | None, name: str) -> None:
        config = {
            "network": {"name": self.name, **self.arguments},
            "num_classes": self.num_classes,
            "classes": None if self.classes is None else list(self.classes),
            "crf": None if self.crf is None else pretrained.config_of(self.crf),
            "notes": dict(self.notes),
        }
        tensors = {f"network.{k}": tensor for k, tensor in self.network.state_dict().items()}
        tensors |= {} if self.crf is None else pretrained.stored_tensors(self.crf)
        storage.write(directory, config, tensors)
        if card is None:
            return
        count = sum(parameter.numel() for parameter in self.parts().parameters())
        facts: dict[str, object] = {
            "network": self.name,
            **self.arguments,
            "parameters": count,
            "classes": self.num_classes if self.classes is None else ", ".join(self.classes),
            **({} if self.crf is None else pretrained.facts(self.crf)),
        }
        use = (
            "from crfrnn.models.checkpoint import load_checkpoint\n\n"
            f'model = load_checkpoint("{name}")'
        )
        write_card(directory, card.text("Checkpoint", facts, use))


def is_checkpoint(directory: str | Path) -> bool:
    """Whether crfrnn wrote a directory; it may hold a layer without a network."""
    return storage.is_stored(Path(directory))


def load_checkpoint(
    directory: str | Path, *, num_classes: int | None = None, how: hub.Download | None = None
) -> Checkpoint:
    """Read a model that `Checkpoint.save` wrote, in evaluation mode and on the CPU.

    The class of a network with an import path must have been imported: a directory of weights does
    not choose which code runs.

    Args:
        directory: holds config.json and model.safetensors, or the files of an older version; or
            `owner/name` of a model on a hub, if there is no such path (`crfrnn[hub]`).
        num_classes: refuse a model with another number of classes.
        how: on a hub, the revision, token and the like.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the configuration is not readable, the number of classes is not the one asked
            for, or the weights do not fit.
    """
    directory = hub.directory_of(directory, how or hub.Download())
    stored = storage.read(directory)
    config, where = stored.config, stored.config_path
    if not isinstance(config.get("network"), dict):
        alone = config.get("network") is None and config.get("crf") is not None
        raise ValueError(
            f"{where}: expected a mapping with `network` and `num_classes`"
            + ("; this is a layer alone, for CRFRNN.from_pretrained" if alone else "")
        )
    try:
        arguments = dict(config["network"])
        name = arguments.pop("name")
        classes = _checks.count("num_classes", config["num_classes"], least=1)
        crf = None
        if config.get("crf") is not None:
            if config["crf"]["num_classes"] != classes:
                raise ValueError(
                    f"the CRF has {config['crf']['num_classes']} classes and num_classes is "
                    f"{classes}"
                )
            parts = pretrained.crf_tensors(stored.tensors)
            crf = CRFRNN(**pretrained.arguments(config["crf"], parts))
        model = Checkpoint(
            name,
            classes,
            arguments,
            make_network(name, classes, imports=False, **arguments),
            crf=crf,
            classes=config.get("classes"),
            notes=config.get("notes") or {},
        )
    except KeyError as error:
        raise ValueError(f"{where}: {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {describe(error)}") from error
    if num_classes is not None and num_classes != classes:
        raise ValueError(
            f"{directory}: the model has {classes} classes, expected {num_classes}; load its "
            "weights into a network of that many with load_weights, which skips what does not fit"
        )
    load_by_name(model.parts(), stored.tensors, source=str(stored.tensors_path))
    return model.eval()


def load_weights(model: Checkpoint, directory: str | Path) -> LoadReport:
    """Copy the tensors of a saved model that fit `model` by name and shape; report the rest."""
    stored = storage.read(Path(directory))
    return load_by_name(
        model.parts(), stored.tensors, strict=False, source=str(stored.tensors_path)
    )
