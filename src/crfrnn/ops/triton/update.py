"""Weighting, compatibility, unary and softmax of a step, fused with the slice before them."""

from __future__ import annotations

import triton
import triton.language as tl

from .frank_wolfe import finished, jacobian, recovered, target
from .lattice_filter import sliced
from .launch import program_points


@triton.jit
def filtered(
    source,
    vertex,
    weight,
    starts,
    place,
    item,
    valid,
    column,
    KIND: tl.constexpr,
    CORNERS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Some columns of a filtered result at the points `place`; see `weighted` for KIND."""
    if KIND == "lattice":
        part = sliced(
            source, vertex, weight, starts, place, item, valid, column, CORNERS, WIDTH, ROWS,
            COLUMNS,
        )  # fmt: skip
    else:
        part = tl.load(
            source + place[:, None] * WIDTH + column[None, :],
            mask=valid[:, None] & (column < WIDTH)[None, :],
            other=0.0,
        )
    return part


@triton.jit
def weighted(
    source,
    vertex,
    weight,
    starts,
    after,
    mix,
    marginals,
    sums,
    place,
    item,
    row,
    block,
    valid,
    KIND: tl.constexpr,
    FULL: tl.constexpr,
    SCALED: tl.constexpr,
    REDUCE: tl.constexpr,
    CORNERS: tl.constexpr,
    GAIN: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Weights times the filtered result at the points `place`, as a tile of all channels.

    `source` is a blurred table (KIND "lattice") or the filtered values (KIND "dense"). The weights
    are a matrix (in, out) with FULL, else a number per channel. With REDUCE, the sums over this
    block of the result times the marginals at `row` are written too: a part of ∂L/∂w.
    """
    # The factors `after`, the gain and the weights multiply the result. The first two are joined to
    # a number per point, `scale`.
    kind = mix.dtype.element_ty
    column = tl.arange(0, COLUMNS)
    result = tl.zeros([ROWS, COLUMNS], kind)
    scale = tl.zeros([ROWS], kind) + GAIN
    if SCALED:
        scale *= tl.load(after + place, mask=valid, other=0.0)
    if FULL:
        # The product takes a chunk of input channels at a time: the whole matrix, beside a tile
        # with all channels, would overflow the shared memory.
        for first in range(0, WIDTH, CHUNK):
            inner = first + tl.arange(0, CHUNK)
            part = filtered(
                source, vertex, weight, starts, place, item, valid, inner, KIND, CORNERS, WIDTH,
                ROWS, CHUNK,
            )  # fmt: skip
            matrix = tl.load(
                mix + inner[:, None] * CHANNELS + column[None, :],
                mask=(inner < CHANNELS)[:, None] & (column < CHANNELS)[None, :],
                other=0.0,
            )
            # In float32 precision: TF32 would round the messages to three digits.
            result += tl.dot(part * scale[:, None], matrix, input_precision="ieee", out_dtype=kind)
    else:
        part = filtered(
            source, vertex, weight, starts, place, item, valid, column, KIND, CORNERS, WIDTH, ROWS,
            COLUMNS,
        )  # fmt: skip
        part *= scale[:, None]
        result = part * tl.load(mix + column, mask=column < CHANNELS, other=0.0)[None, :]
        if REDUCE:
            # ∂L/∂w_c = -Σ_i R_ic q_ic. Each block writes its part to a row of its own. The rows
            # are added later, in one order and without atomics.
            q = tl.load(
                marginals + row[:, None] + column[None, :],
                mask=valid[:, None] & (column < WIDTH)[None, :],
                other=0.0,
            )
            target = sums + block * WIDTH + column
            tl.store(target, tl.sum(part * q, axis=0), mask=column < WIDTH)
    return result


@triton.jit(do_not_specialize=["points", "q_rows"])
def mix_kernel(
    source,
    vertex,
    weight,
    starts,
    after,
    mix,
    marginals,
    sums,
    message,
    points,
    q_rows,
    KIND: tl.constexpr,
    FULL: tl.constexpr,
    SCALED: tl.constexpr,
    REDUCE: tl.constexpr,
    ADD: tl.constexpr,
    CORNERS: tl.constexpr,
    GAIN: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Write the weighted result of a filter to the message, or with ADD add it."""
    item, point, valid, place = program_points(points, ROWS)
    row = (item * q_rows + point) * WIDTH
    block = item * tl.num_programs(0) + tl.program_id(0)
    result = weighted(
        source, vertex, weight, starts, after, mix, marginals, sums, place, item, row, block, valid,
        KIND, FULL, SCALED, REDUCE, CORNERS, GAIN, CHANNELS, WIDTH, ROWS, COLUMNS, CHUNK,
    )  # fmt: skip
    column = tl.arange(0, COLUMNS)
    inside = valid[:, None] & (column < WIDTH)[None, :]
    target = message + place[:, None] * WIDTH + column[None, :]
    if ADD:
        result += tl.load(target, mask=inside, other=0.0)
    tl.store(target, result, mask=inside)


@triton.jit(do_not_specialize=["points", "q_rows", "next_rows"])
def update_kernel(
    source,
    vertex,
    weight,
    starts,
    after,
    mix,
    message,
    logits,
    z,
    marginals,
    updated,
    running,
    change,
    rates,
    points,
    q_rows,
    next_rows,
    KIND: tl.constexpr,
    FULL: tl.constexpr,
    SCALED: tl.constexpr,
    MESSAGE: tl.constexpr,
    STOPS: tl.constexpr,
    WRITE: tl.constexpr,
    STORE: tl.constexpr,
    STEP: tl.constexpr,
    BLEND: tl.constexpr,
    MIX: tl.constexpr,
    TINY: tl.constexpr,
    CORNERS: tl.constexpr,
    GAIN: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Finish a step: z = u - A m, then q = softmax(z), or the STEP of Frank-Wolfe.

    KIND "none" has no source to weight. With WRITE, z is stored, or the result of Frank-Wolfe; with
    STORE, q. With STOPS, items that are not `running` keep what was written, and each block stores
    the summed change of its marginals.
    """
    # A row of channels is in registers from the slice to the softmax: the message of the fused
    # filter and the penalty never reach memory, and z only if it is asked for.
    item, point, valid, place = program_points(points, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = valid[:, None] & (column < WIDTH)[None, :]
    real = valid[:, None] & (column < CHANNELS)[None, :]
    total = tl.zeros([ROWS, COLUMNS], logits.dtype.element_ty)
    if KIND != "none":
        total = weighted(
            source, vertex, weight, starts, after, mix, message, message, place, item, place, item,
            valid, KIND, FULL, SCALED, False, CORNERS, GAIN, CHANNELS, WIDTH, ROWS, COLUMNS, CHUNK,
        )  # fmt: skip
    if MESSAGE:
        held = message + place[:, None] * WIDTH + column[None, :]
        total += tl.load(held, mask=inside, other=0.0)
    # FULL weights contain A already. For Potts, (1 1ᵀ - I) m is the sum of m minus m.
    penalty = total if FULL else tl.sum(total, axis=1)[:, None] - total
    here = (item * CHANNELS + column[None, :]) * points + point[:, None]
    unary = tl.load(logits + here, mask=real, other=0.0)
    score = unary - penalty
    before = tl.zeros([ROWS, COLUMNS], logits.dtype.element_ty)
    if STOPS or BLEND:
        before = tl.load(
            marginals + (item * q_rows + point)[:, None] * WIDTH + column[None, :],
            mask=inside,
            other=0.0,
        )
    result = score
    q = before
    if STEP == "mean_field":
        if STORE:  # nothing needs the softmax of the last step
            q, _, _ = target(score, real, valid, "entropy", CHANNELS, ROWS)
    else:
        strength, size = tl.load(rates), tl.load(rates + 1)
        s, log_s, _ = target(score / strength, real, valid, STEP, CHANNELS, ROWS)
        q = s
        if BLEND:
            q = (1 - size) * before + size * s
        if WRITE:
            result = finished(unary, q, log_s, size, real, valid, STEP, MIX, TINY, CHANNELS, ROWS)
    if STOPS:
        active = tl.load(running + item) != 0
        # A stopped item goes on updating its marginals, which nothing but that item reads. Its z is
        # the result, and stays.
        if WRITE:
            tl.store(z + here, result, mask=real & active)
    else:
        if WRITE:
            tl.store(z + here, result, mask=real)
    if STORE:
        if STOPS:
            moved = tl.sum(tl.sum(tl.where(inside, tl.abs(q - before), 0.0), axis=1), axis=0)
            tl.store(change + item * tl.num_programs(0) + tl.program_id(0), moved)
        spot = updated + (item * next_rows + point)[:, None] * WIDTH + column[None, :]
        tl.store(spot, q, mask=inside)


@triton.jit(do_not_specialize=["points", "q_rows"])
def adjoint_kernel(
    source,
    vertex,
    weight,
    starts,
    after,
    mix,
    sums,
    message,
    marginals,
    upstream,
    to_logits,
    earlier,
    carry,
    rates,
    rate_sums,
    points,
    q_rows,
    KIND: tl.constexpr,
    FULL: tl.constexpr,
    SCALED: tl.constexpr,
    MESSAGE: tl.constexpr,
    STEP: tl.constexpr,
    BLEND: tl.constexpr,
    LEARN: tl.constexpr,
    ROUNDING: tl.constexpr,
    CORNERS: tl.constexpr,
    GAIN: tl.constexpr,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Finish a step of the adjoint: g = q ⊙ (h - Σ q h) with h = -Σ_k M_kᵀ R_k.

    Adds g to `to_logits`, and writes the next input of the adjoint filters to `upstream`: g, or
    (1 1ᵀ - I) g for Potts. Derived in `reference.mean_field_backward`.

    STEP "mean_field" also stands for the start of Frank-Wolfe, which is a softmax. With BLEND,
    `carry` holds what the marginals after the step add to h. With LEARN, each block stores its part
    of the gradient to the rates. Derived in `ops.frank_wolfe`.
    """
    item, point, valid, place = program_points(points, ROWS)
    column = tl.arange(0, COLUMNS)
    row = (item * q_rows + point) * WIDTH
    block = item * tl.num_programs(0) + tl.program_id(0)
    inside = valid[:, None] & (column < WIDTH)[None, :]
    real = valid[:, None] & (column < CHANNELS)[None, :]
    total = tl.zeros([ROWS, COLUMNS], to_logits.dtype.element_ty)
    if KIND != "none":
        total = weighted(
            source, vertex, weight, starts, after, mix, marginals, sums, place, item, row, block,
            valid, KIND, FULL, SCALED, not FULL, CORNERS, GAIN, CHANNELS, WIDTH, ROWS, COLUMNS,
            CHUNK,
        )  # fmt: skip
    held = place[:, None] * WIDTH + column[None, :]
    if MESSAGE:
        total += tl.load(message + held, mask=inside, other=0.0)
    q = tl.load(marginals + row[:, None] + column[None, :], mask=inside, other=0.0)
    h = -total
    if BLEND:
        h += tl.load(carry + held, mask=inside, other=0.0)
    if STEP == "mean_field":
        g = tl.where(real, q * (h - tl.sum(q * h, axis=1)[:, None]), 0.0)
    else:
        strength, size = tl.load(rates), tl.load(rates + 1)
        s = q
        if BLEND:
            before = tl.load(earlier + row[:, None] + column[None, :], mask=inside, other=0.0)
            s = recovered(before, q, size, ROUNDING)
            tl.store(carry + held, (1 - size) * h, mask=inside)
        g = tl.where(real, size / strength * jacobian(s, h, STEP), 0.0)
        if LEARN:
            positive = s > 0
            scores = s
            if STEP == "entropy":
                scores = tl.log(tl.where(positive, s, 1.0))
            spot = rate_sums + 2 * block
            tl.store(spot, -tl.sum(tl.sum(g * scores, axis=1), axis=0))
            tl.store(
                spot + 1, tl.sum(tl.sum(tl.where(real, h * (s - before), 0.0), axis=1), axis=0)
            )
    here = to_logits + (item * CHANNELS + column[None, :]) * points + point[:, None]
    tl.store(here, tl.load(here, mask=real, other=0.0) + g, mask=real)
    # The filters of this step have read `upstream` in earlier launches, so it can be overwritten.
    if not FULL:
        g = tl.where(real, tl.sum(g, axis=1)[:, None] - g, 0.0)
    tl.store(upstream + held, g, mask=inside)
