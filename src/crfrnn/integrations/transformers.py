"""Semantic segmentation models of the transformers library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crfrnn import _checks
from crfrnn._extras import install
from crfrnn.io.trees import read_json_file
from crfrnn.models.constants import set_constant
from crfrnn.models.segmenter import network_logits

#: Mean and deviation of ImageNet on 0..1, with which most of these models were trained.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

_PROCESSOR = "preprocessor_config.json"


class TransformersNetwork(nn.Module):
    """A semantic segmentation model of transformers that takes images on 0..255.

    Args:
        model: gives an object with `.logits` for `pixel_values`.
        mean: per channel, subtracted from the scaled image.
        std: per channel, divisor after that.
        scale: factor on the image, applied first; 1 / 255 in most image processors.
        flip: whether the model expects blue, green and red, as MobileViT does.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: Sequence[float] = _MEAN,
        std: Sequence[float] = _STD,
        scale: float = 1 / 255,
        flip: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.scale = scale
        self.flip = flip
        _checks.positive("std", tuple(std))
        self._scaling = {"mean": tuple(mean), "std": tuple(std)}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the mean and the deviation again, as after `to_empty`."""
        for name, values in self._scaling.items():
            column = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
            set_constant(self, name, column)

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Score a batch of RGB images on 0..255, at the resolution of the model's logits."""
        pixels = (image * self.scale - self.mean) / self.std
        pixels = pixels.flip(1) if self.flip else pixels
        logits: Tensor = self.model(pixel_values=pixels).logits
        return logits


@dataclass
class TransformersModel:
    """A model ready to segment, like `crfrnn.models.checkpoint.Checkpoint`, but without a CRF.

    Attributes:
        network: takes images on 0..255.
        num_classes: C.
        classes: their names.
    """

    network: TransformersNetwork
    num_classes: int
    classes: Sequence[str]
    has_crf: bool = field(default=False, init=False)

    def logits(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C, H, W) at the size of the image, twice: there is no CRF."""
        z = network_logits(self.network, image)
        return z, z


def transformers_network(config: Any, **preprocessing: Any) -> TransformersNetwork:
    """Make a model with random weights from a configuration of transformers; nothing is fetched.

    Args:
        config: for example `SegformerConfig(num_labels=21)`.
        preprocessing: arguments of `TransformersNetwork`.
    """
    model = _library().AutoModelForSemanticSegmentation.from_config(config)
    return TransformersNetwork(model, **preprocessing)


def load_transformers(name: str, *, fetch: bool = False) -> TransformersModel:
    """Load a model in evaluation mode.

    Images are normalized as its image processor does, but not resized.

    Args:
        name: a directory, or the name of a model on the hub.
        fetch: let the library fetch files that are not on this machine. By default only files
            that it has fetched before are used.

    Code that comes with a model is never run, and pickled weights are not read.

    Raises:
        ImportError: transformers is not installed.
        ValueError: `name` is not a model for semantic segmentation, brings code of its own, or has
            no weights in safetensors.
    """
    library = _library()
    try:
        # Neither code of the model's own, for which the library would ask on the terminal, nor
        # pickles, which can contain code.
        model = library.AutoModelForSemanticSegmentation.from_pretrained(
            name, local_files_only=not fetch, trust_remote_code=False, use_safetensors=True
        )
    except (ValueError, OSError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{name}: this model needs code of its own, which crfrnn never runs. If you "
                f"trust it, load it in Python with trust_remote_code=True and use "
                f"crfrnn.integrations.transformers.TransformersNetwork(model)."
            ) from None
        if "safetensors" in str(error):
            raise ValueError(
                f"{name}: expected weights in model.safetensors; crfrnn reads no pickled ones "
                f"(pytorch_model.bin), because they can run code. If you trust them, load the "
                f"model in Python and save it with save_pretrained(..., safe_serialization=True)."
            ) from None
        text = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{name}: not a semantic segmentation model of transformers: {text}"
        ) from error
    network = TransformersNetwork(model, **_preprocessing(name, fetch=fetch))
    names = model.config.id2label
    classes = tuple(str(names[index]) for index in sorted(names))
    network.eval()
    return TransformersModel(network, len(classes), classes)


def _preprocessing(name: str, *, fetch: bool) -> dict[str, Any]:
    """Read what the image processor does to pixels from its file."""
    from transformers.utils import cached_file

    path = cached_file(
        name,
        _PROCESSOR,
        local_files_only=not fetch,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if path is None:
        return {}
    return _arguments(read_json_file(Path(path)))


def _arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the settings of an image processor into arguments of `TransformersNetwork`.

    A processor writes all of its settings, so one without `do_normalize` does not normalize.
    """
    preprocessing: dict[str, Any] = {}
    if settings.get("do_rescale", True):
        preprocessing["scale"] = float(settings.get("rescale_factor", 1 / 255))
    else:
        preprocessing["scale"] = 1.0
    if settings.get("do_normalize", settings.get("image_mean") is not None):
        preprocessing["mean"] = settings.get("image_mean") or _MEAN
        preprocessing["std"] = settings.get("image_std") or _STD
    else:
        preprocessing["mean"], preprocessing["std"] = (0.0,) * 3, (1.0,) * 3
    early = settings.get("do_flip_channels", False)  # its name in early versions
    preprocessing["flip"] = bool(settings.get("do_flip_channel_order", early))
    return preprocessing


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"the transformers library is needed for its models: {install('transformers')}"
        ) from error
    return transformers
