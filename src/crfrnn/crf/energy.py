"""The free energy that mean-field inference lowers, and when it is sure to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Filter = Callable[[Tensor], Tensor]


def free_energy(
    unary: Float[Tensor, "B C *S"],
    q: Float[Tensor, "B C *S"],
    filters: Sequence[Filter],
    weights: Float[Tensor, "K ..."],
    compatibility: Float[Tensor, "C C"],
) -> Float[Tensor, " B"]:
    """Variational free energy of marginals in a fully connected CRF: expected energy - entropy.

    F(q) = Σ_i q_i·unary_i + ½ Σ_k ⟨q, A W_k F_k q⟩ + Σ_i q_i·log q_i. The half counts each pair of
    pixels once. The filters contain j = i, as the updates do, so half the energy of each pixel with
    itself is in it too. It never rises under mean field where `may_oscillate` is False and the
    filters are symmetric (normalization "symmetric" or "none").

    Args:
        unary: energies, -log P of each class at each pixel.
        q: marginals; they sum to one over the classes.
        filters: one normalized Gaussian filter per kernel, as `mean_field` takes them.
        weights: kernel weights, (K,), (K, C) or (K, C, C).
        compatibility: penalty for label `c` beside label `d`; Potts is `1 - I`.

    Returns:
        One number per image, in nats.

    Example:
        >>> import torch
        >>> from crfrnn import free_energy
        >>> unary, q = torch.zeros(1, 2, 4), torch.full((1, 2, 4), 0.5)
        >>> free_energy(unary, q, [], torch.zeros(0), 1 - torch.eye(2))  # -4 log 2
        tensor([-2.7726])
    """
    return combine(unary, q, penalty(q, filters, weights, compatibility))


def penalty(q: Tensor, filters: Sequence[Filter], weights: Tensor, compatibility: Tensor) -> Tensor:
    """A Σ_k W_k F_k q: what each label costs beside the present marginals (B C *S)."""
    if not filters:
        return torch.zeros_like(q)
    weigh = {1: "k,kbc...->bc...", 2: "kc,kbc...->bc...", 3: "kdc,kbc...->bd..."}[weights.dim()]
    message = torch.einsum(weigh, weights, torch.stack([f(q) for f in filters]))
    return torch.einsum("cd,bd...->bc...", compatibility, message)


def combine(unary: Tensor, q: Tensor, penalty: Tensor) -> Tensor:
    """The free energy (B) from the marginals and their `penalty`."""
    per_pixel = q * (unary + 0.5 * penalty) + torch.xlogy(q, q)
    return per_pixel.flatten(1).sum(1)


def may_oscillate(weights: Tensor, compatibility: Tensor) -> bool:
    """Whether parallel updates of this model can overshoot, which they cannot where labels attract.

    They cannot where every A W_k is negative semi-definite between distributions (Krähenbühl &
    Koltun, ICML 2013), as in a Potts model with weights that are not negative.
    """
    classes = len(compatibility)
    weights, compatibility = weights.detach().cpu().double(), compatibility.detach().cpu().double()
    if weights.dim() < 3:
        weights = weights.reshape(len(weights), -1).expand(-1, classes).diag_embed()
    center = torch.eye(classes, dtype=torch.float64) - 1 / classes
    model = center @ (compatibility @ weights) @ center
    if not model.numel():
        return False
    largest = torch.linalg.eigvalsh(model + model.mT)[:, -1]
    return bool((largest > 1e-9 * model.abs().amax((1, 2)).clamp_min(1e-9)).any())
