"""Models on disk: a directory with config.yaml and weights.safetensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from crfrnn import _checks
from crfrnn.io.files import describe, make_folder, replacing, write_text
from crfrnn.layer import pretrained
from crfrnn.layer.crfrnn import CRFRNN

from .loading import LoadReport, load_by_name
from .registry import make_network
from .segmenter import network_logits

CONFIG = "config.yaml"
WEIGHTS = "weights.safetensors"

_FORMAT = 1


@dataclass
class Checkpoint:
    """A network of the registry, perhaps with a CRF on top, and what its classes are called.

    Attributes:
        name: the network's name in `crfrnn.models.NETWORKS`.
        num_classes: C.
        arguments: further arguments of the network, as plain numbers and strings.
        network: made from these if it is not given.
        crf: None for the network alone.
        classes: names of the classes, in order of their ids.
        notes: anything else to keep in config.yaml, as plain numbers, strings, lists and mappings.

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
        """Make the network if need be, and check that the parts fit."""
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
        """Logits (B, C, H, W) of the network, at the size of the image, and those after the CRF.

        Without a CRF both are the same tensor. The image is RGB (B, 3, H, W) on 0..255.
        """
        before = network_logits(self.network, image)
        return before, before if self.crf is None else self.crf(before, image)

    @property
    def has_crf(self) -> bool:
        """Whether there is a CRF on top."""
        return self.crf is not None

    def parts(self) -> nn.ModuleDict:
        """The parts as one module, whose `state_dict` is what the file holds."""
        return nn.ModuleDict({"network": self.network, **({"crf": self.crf} if self.crf else {})})

    def eval(self) -> Checkpoint:
        """Switch to evaluation mode; returns itself."""
        self.parts().eval()
        return self

    def to(self, device: torch.device | str) -> Checkpoint:
        """Move to a device; returns itself."""
        self.parts().to(device)
        return self

    def save(self, directory: str | Path) -> None:
        """Write config.yaml and weights.safetensors, each whole or not at all."""
        from safetensors.torch import save

        directory = Path(directory)
        make_folder(directory)
        config = {
            "format": _FORMAT,
            "network": {"name": self.name, **self.arguments},
            "num_classes": self.num_classes,
            "classes": None if self.classes is None else list(self.classes),
            "crf": None if self.crf is None else pretrained.config_of(self.crf),
            "notes": dict(self.notes),
        }
        tensors = self.parts().state_dict()
        flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        text = yaml.safe_dump(config, sort_keys=False)  # before anything is written
        with replacing(directory / WEIGHTS) as file:
            file.write(save(flat, metadata={"format": "pt"}))
        write_text(directory / CONFIG, text)


def is_checkpoint(directory: str | Path) -> bool:
    """Whether a directory looks like one that `Checkpoint.save` wrote."""
    return (Path(directory) / CONFIG).is_file() and (Path(directory) / WEIGHTS).is_file()


def load_checkpoint(directory: str | Path, *, num_classes: int | None = None) -> Checkpoint:
    """Read a model that `Checkpoint.save` wrote; it comes in evaluation mode, on the CPU.

    Args:
        directory: with config.yaml and weights.safetensors.
        num_classes: refuse a model of another number of classes.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the configuration is not readable, has other classes than asked for, or the
            weights do not fit it.
    """
    directory = Path(directory)
    config = _read_config(directory)
    tensors = _read_weights(directory)
    where = directory / CONFIG
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
            parts = {key[4:]: t for key, t in tensors.items() if key.startswith("crf.")}
            crf = CRFRNN(**pretrained.arguments(config["crf"], parts))
        model = Checkpoint(
            name,
            classes,
            arguments,
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
    load_by_name(model.parts(), tensors, source=str(directory / WEIGHTS))
    return model.eval()


def load_weights(model: Checkpoint, directory: str | Path) -> LoadReport:
    """Copy from a saved model whatever fits `model` by name and shape; tell what was skipped."""
    directory = Path(directory)
    tensors = _read_weights(directory)
    return load_by_name(model.parts(), tensors, strict=False, source=str(directory / WEIGHTS))


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{directory} has no {CONFIG}; expected a model directory that crfrnn wrote"
        )
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML ({describe(error)})") from error
    if not isinstance(config, dict) or not isinstance(config.get("network"), dict):
        raise ValueError(f"{path}: expected a mapping with `network` and `num_classes`")
    if config.get("format") != _FORMAT:
        raise ValueError(
            f"{path}: expected format {_FORMAT}, got {config.get('format')}; a newer crfrnn wrote "
            "it, or it is not a model"
        )
    return config


def _read_weights(directory: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    path = directory / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{directory} has no {WEIGHTS}; expected a model directory")
    try:
        return dict(load_file(path))
    except Exception as error:  # the library's own exceptions for a broken file
        raise ValueError(f"{path}: not a readable safetensors file ({describe(error)})") from error
