"""Tensors in, tensors out, around functions that compute on NumPy arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, ParamSpec, TypeVar

import numpy as np

from crfrnn._arrays import is_tensor, namespace, to_numpy

P = ParamSpec("P")
R = TypeVar("R")


def tensors_too(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function of NumPy arrays take tensors; it then answers in tensors on their device.

    Arrays may lie in mappings, sequences and dataclasses, in the arguments and in the result.
    """

    @functools.wraps(function)
    def call(*args: P.args, **named: P.kwargs) -> R:
        tensors: list[Any] = []

        def view(leaf: Any) -> Any:
            if not is_tensor(leaf):
                return leaf
            tensors.append(leaf)
            return to_numpy(leaf)

        viewed, viewed_named = _map(view, args), _map(view, named)
        result = function(*viewed, **viewed_named)
        if not tensors:
            return result
        torch, device = namespace(tensors[0]), tensors[0].device

        def answer(leaf: Any) -> Any:
            if isinstance(leaf, (np.ndarray, np.generic)):
                return torch.from_numpy(np.asarray(leaf)).to(device)
            return leaf

        answered: R = _map(answer, result)
        return answered

    return call


def _map(leaf: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to what mappings, sequences and dataclasses hold."""
    if isinstance(value, Mapping):
        return {name: _map(leaf, member) for name, member in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_map(leaf, member) for member in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _map(leaf, getattr(value, f.name)) for f in fields(value)})
    return leaf(value)
