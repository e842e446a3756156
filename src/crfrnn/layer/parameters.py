"""What the layer learns: kernel weights, compatibility and bandwidths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from crfrnn import _checks
from crfrnn._arrays import to_torch
from crfrnn._door import admit
from crfrnn.crf.frank_wolfe import Rates, Step
from crfrnn.crf.kernel import Kernel, Number
from crfrnn.crf.kernels import weight_table

#: Factors of the released solver on the network's learning rate, for `parameter_groups(2.5e-8,
#: **SOLVER_FACTORS)`: its 1e-13 on a sum over the pixels is 2.5e-8 on their mean. At a rate of 1e-3
#: the kernel weights would get 10, and the loss grows.
SOLVER_FACTORS = {"weights": 1e4, "compatibility": 1e3, "others": 1e3}


def initial_weights(kernels: Sequence[Kernel], classes: int, form: str) -> nn.Parameter:
    """Initial kernel weights: (K,), (K, C) or (K, C, C)."""
    dtype = torch.get_default_dtype()
    table = torch.tensor(weight_table(kernels, classes), dtype=dtype, device="cpu")
    _checks.finite(f"kernel weights in {str(dtype).removeprefix('torch.')}", table)
    if form == "matrix":
        # Off the diagonal the messages of other classes start at zero, so the layer starts as the
        # one with a weight per class.
        table = table.diag_embed()
    elif form == "scalar":
        if not bool((table == table[:, :1]).all()):
            raise ValueError(
                "weights='scalar' needs kernels with one weight each, not one per class"
            )
        table = table[:, 0].clone()
    return nn.Parameter(table.to(torch.get_default_device()))


def initial_compatibility(given: Any, classes: int) -> Tensor:
    """Initial compatibility (C, C), on the CPU: it has values even for a layer on "meta"."""
    if isinstance(given, str):
        _checks.one_of("compatibility", given, ("potts",))
        return 1 - torch.eye(classes, device="cpu")
    array = to_torch(admit("compatibility", given)).detach()
    matrix: Tensor = array.to("cpu", torch.get_default_dtype(), copy=True)
    if matrix.shape != (classes, classes):
        raise ValueError(
            f"compatibility must be 'potts' or a matrix ({classes}, {classes}), one row and "
            f"one column per class; got {tuple(matrix.shape)}"
        )
    _checks.finite("compatibility", matrix)
    return matrix


def log_bandwidths(kernels: Sequence[Kernel]) -> nn.ModuleList:
    """The logarithms of all bandwidths as parameters.

    The exponential of any number is positive, so no update can produce an invalid bandwidth. Since
    d log θ = dθ / θ, a step changes a bandwidth by a fraction of its value: one learning rate
    serves for 3 pixels and for 100.
    """
    return nn.ModuleList(
        nn.ParameterDict(
            {
                name: nn.Parameter(torch.tensor(_floats(value)).log())
                for name, value in kernel.bandwidths().items()
            }
        )
        for kernel in kernels
    )


def learned_step(step: Step) -> tuple[nn.Parameter, nn.Parameter | None]:
    """The logarithm of λ, and the logit of α if that is learned too, as parameters."""
    strength = nn.Parameter(torch.tensor(float(step.strength)).log())
    if step.learn == "strength":
        return strength, None
    return strength, nn.Parameter(torch.tensor(min(step.size, 0.95)).logit())


def reset(layer: Any, compatibility: str | Tensor) -> None:
    """Reset the parameters of a layer to its arguments; `compatibility` is the one it was given."""
    kernels, classes = layer.recipe.kernels, layer.num_classes
    with torch.no_grad(), torch.device("cpu"):
        _fill(layer, "kernel_weights", initial_weights(kernels, classes, layer.weights))
        if layer.compatibility is not None:
            _fill(layer, "compatibility", initial_compatibility(compatibility, classes))
        if layer.log_bandwidths is not None:
            for learned, starts in zip(layer.log_bandwidths, log_bandwidths(kernels), strict=True):
                for name, start in _dictionary(starts).items():
                    _fill(learned, name, start)
        if layer.step.learn:
            strength, size = learned_step(layer.step)
            _fill(layer, "step_strength", strength)
            if size is not None:
                _fill(layer, "step_size", size)


def _fill(module: nn.Module, name: str, start: Tensor) -> None:
    """Set a parameter in place, even if it is parametrized or sharded over devices."""
    held = getattr(module, name)
    start = start.detach().to(held.device, held.dtype)
    if is_parametrized(module, name):
        setattr(module, name, start)
        return
    if hasattr(held, "placements"):
        from torch.distributed.tensor import distribute_tensor  # late: torch may lack it

        start = distribute_tensor(start, held.device_mesh, held.placements)
    held.copy_(start)


def current_kernels(kernels: Sequence[Kernel], logs: nn.ModuleList | None) -> tuple[Kernel, ...]:
    """The kernels with the learned bandwidths in place of the initial ones."""
    if logs is None:
        return tuple(kernels)
    return tuple(
        kernel.with_bandwidths({name: log.detach().exp().tolist() for name, log in learned.items()})
        for kernel, learned in zip(kernels, map(_dictionary, logs), strict=True)
    )


def learned_rates(layer: Any, dtype: torch.dtype) -> Rates | None:
    """λ and α of a layer's step, if they are learned."""
    if not layer.step.learn:
        return None
    strength, size = layer.step_strength.to(dtype).exp(), layer.step_size
    return Rates(strength, layer.step.size if size is None else size.to(dtype).sigmoid())


def grouped(
    parameters: Iterable[tuple[str, nn.Parameter]], lr: float, factors: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Optimizer groups by name; a parameter without a named factor joins "others"."""
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in factors}
    for name, parameter in parameters:
        plain = plain_name(name)
        groups[plain if plain in factors else "others"].append(parameter)
    return [
        {"params": members, "lr": lr * factors[name], "name": f"crf.{name}"}
        for name, members in groups.items()
        if members
    ]


def plain_name(name: str) -> str:
    """The name of a parameter without what a parametrization adds to it."""
    return re.sub(r"\bparametrizations\.([^.]+)\..*", r"\1", name)


def learned_bandwidths(logs: nn.ModuleList, dtype: torch.dtype) -> list[dict[str, Tensor]]:
    """The learned bandwidths of each kernel by name, in the shapes of the initial ones."""
    return [
        {name: parameter.to(dtype).exp() for name, parameter in parameters.items()}
        for parameters in map(_dictionary, logs)
    ]


def _dictionary(parameters: nn.Module) -> nn.ParameterDict:
    return cast(nn.ParameterDict, parameters)


def _floats(value: Number) -> Number:
    """The numbers as floats: integers would make an integer tensor, which has no gradient."""
    return tuple(map(float, value)) if isinstance(value, (tuple, list)) else float(value)
