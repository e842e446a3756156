"""The behavior of the registered operators under torch's function transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def one_by_one(operator: Any) -> Callable[..., Any]:
    """A vmap rule that runs the operator once per mapped item and stacks the results."""

    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        results = [
            operator(*(_item(arg, dim, i) for arg, dim in zip(args, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    return rule


def no_second_derivative(operator: Any, reason: str) -> None:
    """Register for a backward operator a gradient that raises NotImplementedError with `reason`."""

    def refuse(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError(reason)

    operator.register_autograd(refuse)


def direct(*tensors: Tensor) -> bool:
    """Whether an operator may skip torch's dispatcher, which is slow at its first call.

    True for plain tensors if no gradient is needed and nothing is traced or transformed.
    """
    # A subclass (a fake or functional tensor, a wrapper of a user's) has behavior that only the
    # dispatcher knows. Tracers must see one opaque operator instead of the engine's calls.
    if torch.compiler.is_compiling() or under_transform():
        return False
    plain = all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in tensors)
    return plain and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))


def under_transform() -> bool:
    """Whether vmap, grad or another transform of torch.func is active."""
    # torch has no public function for this.
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def no_forward_mode(*tensors: Tensor) -> None:
    """Refuse forward-mode derivatives, which a registered operator would silently drop."""
    if torch.compiler.is_compiling():
        return
    for tensor in tensors:
        if forward_ad.unpack_dual(tensor).tangent is not None:  # type: ignore[no-untyped-call]
            raise NotImplementedError(
                "crfrnn has no forward-mode derivatives (jvp, jacfwd); use reverse mode (vjp, "
                "jacrev, backward)"
            )


def _item(arg: Any, dim: Any, i: int) -> Any:
    """Item `i` of an argument that vmap maps along `dim`; None means that all items share it."""
    if isinstance(arg, (list, tuple)):
        dims = dim if isinstance(dim, (list, tuple)) else [dim] * len(arg)
        return [_item(part, d, i) for part, d in zip(arg, dims, strict=True)]
    return arg if dim is None else arg.select(dim, i)
