"""Steps of Frank-Wolfe on a tile of rows, for the Triton kernels; see `ops.frank_wolfe`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def target(scores, real, valid, STEP: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr):
    """The softmax of the scores, or with STEP "l2" the nearest distributions.

    Also gives the logarithm of the softmax, and the logsumexp of the scores; with "l2" neither has
    a meaning.
    """
    scores = tl.where(real, scores, float("-inf"))
    # Rows beyond the image are all -inf. Their maximum and sum are replaced to avoid NaN from
    # inf - inf and 0 / 0. They are not stored.
    top = tl.where(valid, tl.max(scores, axis=1), 0.0)
    shifted = scores - top[:, None]
    if STEP == "l2":
        s = projected(shifted, real, CHANNELS, ROWS)
        log_s = shifted
        norm = top
    else:
        exponential = tl.exp(shifted)
        divisor = tl.where(valid, tl.sum(exponential, axis=1), 1.0)
        s = tl.where(real, exponential / divisor[:, None], 0.0)
        log_s = shifted - tl.log(divisor)[:, None]
        norm = top + tl.log(divisor)
    return s, log_s, norm


@triton.jit
def projected(shifted, real, CHANNELS: tl.constexpr, ROWS: tl.constexpr):
    """The points of the simplex nearest to the rows of `shifted`, whose largest value is zero."""
    # max(z - tau, 0) sums to one. Newton's method from a tau below never passes the root, and ends
    # exactly once no more values drop below tau; see csrc/loops/frank_wolfe.hpp.
    kind = shifted.dtype
    tau = tl.zeros([ROWS], kind) - 1.0
    last = tl.zeros([ROWS], kind) + (CHANNELS + 1)
    going = tl.max((last > 0).to(tl.int32), axis=0)
    while going > 0:
        over = shifted - tau[:, None]
        above = real & (over > 0)
        count = tl.maximum(tl.sum(above.to(kind), axis=1), 1.0)
        excess = tl.sum(tl.where(above, over, 0.0), axis=1) - 1.0
        moves = count < last
        tau = tl.where(moves, tau + excess / count, tau)
        last = count
        going = tl.max(moves.to(tl.int32), axis=0)
    return tl.where(real, tl.maximum(shifted - tau[:, None], 0.0), 0.0)


@triton.jit
def finished(
    unary,
    q,
    log_s,
    size,
    real,
    valid,
    STEP: tl.constexpr,
    MIX: tl.constexpr,
    TINY: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """The result of Frank-Wolfe from the marginals q after the last step."""
    start, log_start, constant = target(unary, real, valid, "entropy", CHANNELS, ROWS)
    r = (1 - MIX) * q + MIX * start
    least = tl.zeros_like(q) + tl.log(tl.zeros_like(q) + TINY)
    if MIX > 0:
        least = log_start + tl.log(tl.zeros_like(q) + MIX)
    elif STEP == "entropy":
        least = log_s + tl.log(size)
    logarithm = tl.where(r >= TINY, tl.log(tl.maximum(r, TINY)), least)
    return logarithm + constant[:, None]


@triton.jit
def recovered(before, after, size, ROUNDING: tl.constexpr):
    """The target of a step from the marginals before and after it."""
    moved = after - (1 - size) * before
    return tl.where(moved > ROUNDING * after, moved / size, 0.0)


@triton.jit
def jacobian(s, h, STEP: tl.constexpr):
    """The Jacobian of the map to the target s, times h."""
    if STEP == "l2":
        inside = (s > 0).to(s.dtype)
        number = tl.maximum(tl.sum(inside, axis=1), 1.0)
        g = inside * (h - (tl.sum(inside * h, axis=1) / number)[:, None])
    else:
        g = s * (h - tl.sum(s * h, axis=1)[:, None])
    return g
