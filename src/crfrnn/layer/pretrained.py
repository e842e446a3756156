"""Layers on disk: a directory with config.json and safetensors, and published weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crfrnn.crf.frank_wolfe import Step
from crfrnn.crf.kernels import Bilateral, FeatureGaussian, Gaussian, Kernel

CONFIG = "config.json"
TENSORS = "model.safetensors"

_KERNELS: dict[str, type[Kernel]] = {
    kind.__name__: kind for kind in (Gaussian, Bilateral, FeatureGaussian)
}

#: The parameters of the layer of crfasrnn_pytorch, each C x C.
_PUBLISHED = ("bilateral_ker_weights", "spatial_ker_weights", "compatibility_matrix")


def write(directory: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors; the directory is made if need be."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=2) + "\n"
    (directory / CONFIG).write_text(text, encoding="utf-8")
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(flat, directory / TENSORS, metadata={"format": "pt"})


def read(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `write` wrote."""
    from safetensors.torch import load_file

    for name in (CONFIG, TENSORS):
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"{directory} has no {name}; expected a directory written by save_pretrained"
            )
    config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    return config, load_file(directory / TENSORS)


def config_of(layer: Any) -> dict[str, Any]:
    """The arguments that make a `CRFRNN` like this one, as plain numbers and strings."""
    learned = isinstance(layer.compatibility, nn.Parameter)
    return {
        "num_classes": layer.num_classes,
        "kernels": [
            {"kind": type(kernel).__name__, **dataclasses.asdict(kernel)}
            for kernel in layer.recipe.kernels
        ],
        "iterations": layer.iterations,
        "eval_iterations": layer.eval_iterations,
        "weights": layer.weights,
        "compatibility": "potts" if layer.compatibility is None else "in the tensors",
        "learn_compatibility": learned,
        "normalization": layer.recipe.normalization,
        "filter": layer.recipe.filter,
        "learn_bandwidths": layer.log_bandwidths is not None,
        "feature_gradients": layer.recipe.feature_gradients,
        "step": dataclasses.asdict(layer.step),
        "tol": layer.tol,
    }


def arguments(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of `CRFRNN` that `config_of` wrote down."""
    compatibility = config["compatibility"]
    return {
        **config,
        "kernels": [_kernel(entry) for entry in config["kernels"]],
        "compatibility": compatibility if compatibility == "potts" else tensors["compatibility"],
        "step": Step(**config["step"]),
    }


def published_tensors(source: Mapping[str, Tensor] | str | Path) -> tuple[Tensor, Tensor]:
    """Kernel weights (2 C C), bilateral first, and penalty (C C), of a crfasrnn_pytorch state dict.

    That layer adds its message, z = u + C Σ_k W_k F_k, where ours subtracts it: A = -C.
    """
    state = source
    if not isinstance(state, Mapping):
        state = torch.load(Path(state), map_location="cpu", weights_only=True)
    found = {}
    for wanted in _PUBLISHED:
        names = [name for name in state if name == wanted or name.endswith(f".{wanted}")]
        if len(names) != 1:
            raise ValueError(
                f"expected one {wanted} in the state dict of crfasrnn_pytorch; got {len(names)}. "
                f"It has: {', '.join(list(state)[-6:]) or 'nothing'}."
            )
        found[wanted] = state[names[0]].detach().clone()
    bilateral, spatial, compatibility = (found[name] for name in _PUBLISHED)
    classes = len(bilateral)
    for name, tensor in found.items():
        if tensor.shape != (classes, classes):
            raise ValueError(
                f"{name} must be square and as large as the others, {classes}; "
                f"got {tuple(tensor.shape)}"
            )
    return torch.stack([bilateral, spatial]), -compatibility


def _kernel(entry: Mapping[str, Any]) -> Kernel:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
    kind = fields.pop("kind", None)
    if kind not in _KERNELS:
        raise ValueError(f"unknown kernel {kind!r}; expected one of: {', '.join(_KERNELS)}")
    return _KERNELS[kind](**fields)
