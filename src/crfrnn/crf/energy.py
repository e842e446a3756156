"""The free energy of marginals, and a test of whether mean field is certain to lower it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from crfrnn import _checks
from crfrnn._door import admit_tensor

from .mean_field import Filter, checked_model


def free_energy(
    unary: Float[Tensor, "B C *S"],
    q: Float[Tensor, "B C *S"],
    filters: Sequence[Filter],
    weights: Float[Tensor, "K ..."],
    compatibility: Float[Tensor, "C C"],
) -> Float[Tensor, " B"]:
    """Variational free energy of marginals in a fully connected CRF: expected energy - entropy.

    F(q) = Σ_i q_i·unary_i + ½ Σ_k ⟨q, A W_k F_k q⟩ + Σ_i q_i·log q_i. The half counts each pair of
    pixels once. The filters include j = i, as the updates do, so the sum also contains half of each
    pixel's energy with itself. Mean field never raises this free energy if `may_oscillate` is False
    and the filters are symmetric (normalization "symmetric" or "none").

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
    unary, weights, compatibility = checked_model(unary, filters, weights, compatibility)
    q = admit_tensor("q", q)
    if (q.shape, q.dtype, q.device) != (unary.shape, unary.dtype, unary.device):
        raise ValueError(
            f"q must be like unary, {_checks.shape_text(unary)} in {unary.dtype} on "
            f"{unary.device}; got {_checks.shape_text(q)} in {q.dtype} on {q.device}"
        )
    energy = combine(unary, q, penalty(q, filters, weights, compatibility))
    _checks.finite_result(
        "free_energy", energy, unary=unary, weights=weights, compatibility=compatibility
    )
    return energy


def penalty(q: Tensor, filters: Sequence[Filter], weights: Tensor, compatibility: Tensor) -> Tensor:
    """A Σ_k W_k F_k q (B C *S): the cost of each label beside the current marginals."""
    if not filters:
        return torch.zeros_like(q)
    weigh = {1: "k,kbc...->bc...", 2: "kc,kbc...->bc...", 3: "kdc,kbc...->bd..."}[weights.dim()]
    message = torch.einsum(weigh, weights, torch.stack([f(q) for f in filters]))
    return torch.einsum("cd,bd...->bc...", compatibility, message)


def combine(unary: Tensor, q: Tensor, penalty: Tensor) -> Tensor:
    """The free energy (B) from the marginals and their `penalty`."""
    # `xlogy` is 0 at q = 0, where q·log(q) would be NaN; small marginals underflow to 0.
    per_pixel = q * (unary + 0.5 * penalty) + torch.xlogy(q, q)
    return per_pixel.flatten(1).sum(1)


def may_oscillate(weights: Tensor, compatibility: Tensor) -> bool:
    """Whether parallel updates of this model can overshoot and oscillate.

    They cannot if every A W_k is negative semi-definite on differences of distributions
    (Krähenbühl & Koltun, ICML 2013). A Potts model with non-negative weights satisfies this.
    """
    # The pairwise energy is ½ Σ_k ⟨q, A W_k F_k q⟩. If it is concave, its tangent at the current q
    # lies above it; the update minimizes tangent + unary - entropy, an upper bound of the free
    # energy that touches it at q, so the free energy cannot rise. F_k is positive semi-definite and
    # acts on pixels, A W_k acts on classes: their product is negative semi-definite if A W_k is.
    # A change d of marginals sums to zero over the classes, so only A W_k on that subspace counts:
    # `center` = I - 1 1ᵀ/C projects onto it. A quadratic form dᵀ M d sees only the symmetric part
    # of M. For Potts with a diagonal W >= 0, dᵀ (1 1ᵀ - I) W d = -dᵀ W d <= 0, because dᵀ 1 = 0.
    classes = len(compatibility)
    weights, compatibility = weights.detach().cpu().double(), compatibility.detach().cpu().double()
    if weights.dim() < 3:
        weights = weights.reshape(len(weights), -1).expand(-1, classes).diag_embed()
    center = torch.eye(classes, dtype=torch.float64, device="cpu") - 1 / classes
    model = center @ (compatibility @ weights) @ center
    if not model.numel():
        return False
    largest = torch.linalg.eigvalsh(model + model.mT)[:, -1]
    # The vector 1 has the eigenvalue 0, to which rounding gives a sign: hence the tolerance.
    return bool((largest > 1e-9 * model.abs().amax((1, 2)).clamp_min(1e-9)).any())
