"""What the layer learns: kernel weights, compatibility and bandwidths."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from crfrnn import _checks
from crfrnn.crf.kernels import Bilateral, FeatureGaussian, Kernel, weight_table


def initial_weights(kernels: Sequence[Kernel], classes: int, form: str) -> Tensor:
    """Kernel weights to start from: (K,), (K, C) or (K, C, C)."""
    table = weight_table(kernels, classes, torch.zeros(()))
    if form == "class":
        return table
    if form == "matrix":
        return table.diag_embed()
    if not bool((table == table[:, :1]).all()):
        raise ValueError("weights='scalar' needs kernels with one weight each, not one per class")
    return table[:, 0].clone()


def initial_compatibility(given: Any, classes: int) -> Tensor:
    """The penalty to start from (C, C)."""
    if isinstance(given, str):
        _checks.one_of("compatibility", given, ("potts",))
        return 1 - torch.eye(classes)
    matrix = torch.as_tensor(given)
    matrix = matrix.detach().clone() if matrix.is_floating_point() else matrix.float()
    if matrix.shape != (classes, classes):
        raise ValueError(
            f"compatibility must be 'potts' or a matrix ({classes}, {classes}), one row and column "
            f"a class; got {tuple(matrix.shape)}"
        )
    _checks.finite("compatibility", matrix)
    return matrix


def log_bandwidths(kernels: Sequence[Kernel]) -> nn.ModuleList:
    """The logarithms of all bandwidths as parameters.

    So a bandwidth stays positive, and an optimizer changes it by a share of itself.
    """
    return nn.ModuleList(
        nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(value).log()) for name, value in _fields(kernel)}
        )
        for kernel in kernels
    )


def current_kernels(kernels: Sequence[Kernel], logs: nn.ModuleList | None) -> tuple[Kernel, ...]:
    """The kernels with learned bandwidths in place of their own."""
    if logs is None:
        return tuple(kernels)
    current = []
    for kernel, parameters in zip(kernels, map(_dictionary, logs), strict=True):
        numbers = {name: value.detach().exp().tolist() for name, value in parameters.items()}
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in numbers.items()
        }
        current.append(dataclasses.replace(kernel, **fields))
    return tuple(current)


def grouped(
    parameters: Iterable[tuple[str, nn.Parameter]], lr: float, factors: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Optimizer groups by name; a parameter without a factor of its own is one of the "others"."""
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in factors}
    for name, parameter in parameters:
        groups[name if name in factors else "others"].append(parameter)
    return [
        {"params": members, "lr": lr * factors[name], "name": f"crf.{name}"}
        for name, members in groups.items()
        if members
    ]


def bandwidth_vectors(
    kernels: Sequence[Kernel],
    logs: nn.ModuleList,
    like: Tensor,
    image: Tensor | None,
    features: Sequence[Tensor],
) -> list[Tensor]:
    """One vector (D,) a kernel: its parameters, spread over axes and channels."""
    vectors = []
    for kernel, parameters in zip(kernels, map(_dictionary, logs), strict=True):
        lengths = {"position": like.dim() - 2}
        if isinstance(kernel, Bilateral) and image is not None:
            lengths["color"] = image.shape[1]
        if isinstance(kernel, FeatureGaussian) and kernel.features < len(features):
            lengths["bandwidth"] = features[kernel.features].shape[1]
        parts = [
            parameters[name].to(like.dtype).exp().reshape(-1).expand(lengths[name])
            for name, _ in _fields(kernel)
            # What does not fit is for `kernel_points` to refuse, in its own words.
            if name in lengths and parameters[name].numel() in (1, lengths[name])
        ]
        vectors.append(torch.cat([like.new_empty(0), *parts]))
    return vectors


def _dictionary(parameters: nn.Module) -> nn.ParameterDict:
    return cast(nn.ParameterDict, parameters)


def _fields(kernel: Kernel) -> list[tuple[str, float | tuple[float, ...]]]:
    """The bandwidths that a kernel has, in the order of its feature dimensions."""
    names = ("position", "color", "bandwidth")
    pairs = [(name, getattr(kernel, name, None)) for name in names]
    return [
        (name, tuple(map(float, value)) if isinstance(value, (tuple, list)) else float(value))
        for name, value in pairs
        if value is not None
    ]
