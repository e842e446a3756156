"""Layers on disk in the format of `io.storage`, and weights published by others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from crfrnn.crf.frank_wolfe import Step
from crfrnn.crf.kernel import Kernel
from crfrnn.io import storage
from crfrnn.presets import find_preset

from .parameters import plain_name

#: Prefix of the CRF's tensors in a file.
PREFIX = "crf."

#: How many of a kernel's weights a model card lists.
_MOST = 21

#: The parameters of the layer of crfasrnn_pytorch, each C x C.
_PUBLISHED = ("bilateral_ker_weights", "spatial_ker_weights", "compatibility_matrix")


def write(directory: Path, layer: Any) -> None:
    """Write a `CRFRNN`, and create the directory if it is missing."""
    storage.write(directory, {"crf": config_of(layer)}, stored_tensors(layer))


def stored_tensors(layer: Any) -> dict[str, Tensor]:
    """The tensors of a layer as its file holds them; of parametrized ones, the computed values."""
    state = {}
    for stored, tensor in layer.state_dict().items():
        name = plain_name(stored)
        value = tensor if name == stored else attrgetter(name)(layer).detach()
        state[f"{PREFIX}{name}"] = value
    return state


def read(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the tensors of a layer, or of the CRF of a stored model."""
    stored = storage.read(directory)
    if not isinstance(stored.config.get("crf"), dict):
        raise ValueError(f"{stored.config_path}: this model has no CRF")
    return stored.config["crf"], crf_tensors(stored.tensors)


def crf_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the CRF in a stored model, by their names in the layer."""
    return {
        name.removeprefix(PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(PREFIX)
    }


def config_of(layer: Any) -> dict[str, Any]:
    """The arguments that construct an equal `CRFRNN`, as plain numbers and strings."""
    learned = any(plain_name(name) == "compatibility" for name, _ in layer.named_parameters())
    return {
        "num_classes": layer.num_classes,
        "kernels": [kernel.to_dict() for kernel in layer.recipe.kernels],
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
        "independent": layer.independent,
        "tol": layer.tol,
    }


def facts(layer: Any) -> dict[str, object]:
    """What a model card says about a layer: its present parameters, as text."""
    weights = layer.kernel_weights.detach()
    per_kernel = [tuple(round(float(w), 4) for w in row.flatten()[:_MOST]) for row in weights]
    more = "" if weights[0].numel() <= _MOST else f" (the first {_MOST} of {weights[0].numel()})"
    return {
        "classes": layer.num_classes,
        **{f"kernel {k + 1}": kernel for k, kernel in enumerate(layer.current_kernels())},
        f"kernel weights, {layer.weights}{more}": per_kernel,
        "compatibility": "Potts, fixed" if layer.compatibility is None else "a matrix",
        "iterations in training and evaluation": (layer.iterations, layer.eval_iterations),
        "normalization": layer.recipe.normalization,
        "filter": layer.recipe.filter,
    }


def arguments(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of `CRFRNN` from a configuration of `config_of`."""
    # A learned compatibility is loaded with the state, and `reset_parameters` returns to Potts.
    fixed = config["compatibility"] != "potts" and not config["learn_compatibility"]
    return {
        **config,
        "kernels": [Kernel.from_dict(entry) for entry in config["kernels"]],
        "compatibility": tensors["compatibility"] if fixed else "potts",
        "step": Step(**config["step"]),
    }


def published(source: Mapping[str, Any] | str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of the `CRFRNN` that computes what published weights do, and its state."""
    weights, compatibility = _published_tensors(source)
    bilateral, gaussian = find_preset("crfasrnn").kernels
    arguments = {
        "num_classes": len(compatibility),
        "kernels": [bilateral, dataclasses.replace(cast(Any, gaussian), lattice=True)],
        "weights": "matrix",
        "normalization": "after",
    }
    return arguments, {"kernel_weights": weights, "compatibility": compatibility}


def _published_tensors(source: Mapping[str, Any] | str | Path) -> tuple[Tensor, Tensor]:
    """Kernel weights (2 C C) and compatibility (C C) of a crfasrnn_pytorch state dict.

    The bilateral kernel comes first. That layer adds its pairwise term, z = u + C Σ_k W_k F_k q;
    this library subtracts it, z = u - A Σ_k W_k F_k q. So A = -C.
    """
    state = source
    if not isinstance(state, Mapping):
        state = torch.load(Path(state), map_location="cpu", weights_only=True)
    published = {}
    for parameter in _PUBLISHED:
        # A whole network's state dict puts a prefix before the names of the layer.
        names = [name for name in state if name == parameter or name.endswith(f".{parameter}")]
        if len(names) != 1:
            raise ValueError(
                f"expected one {parameter} in the state dict of crfasrnn_pytorch; got "
                f"{len(names)}. It has: {', '.join(list(state)[-6:]) or 'nothing'}."
            )
        published[parameter] = torch.as_tensor(state[names[0]]).detach().clone()
    bilateral, spatial, compatibility = (published[name] for name in _PUBLISHED)
    classes = len(bilateral)
    for name, tensor in published.items():
        if tensor.shape != (classes, classes):
            raise ValueError(
                f"{name} must be square and as large as the others, {classes}; "
                f"got {tuple(tensor.shape)}"
            )
    return torch.stack([bilateral, spatial]), -compatibility
