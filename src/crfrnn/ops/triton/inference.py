"""The recurrence as a sequence of launches; without a tolerance, the host never waits."""

from __future__ import annotations

import torch
from torch import Tensor

from crfrnn.core.inference import Options
from crfrnn.ops import frank_wolfe
from crfrnn.ops.model import Model

from .launch import item_rows, launch, pad_channels, padded_width, pieces, whole_rows
from .terms import Filtering, Source
from .update import adjoint_kernel, mix_kernel, update_kernel

#: Largest number of channels for which a fused Triton kernel multiplies by a matrix of weights.
_WIDEST = 256


def mean_field(logits: Tensor, model: Model, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Run the recurrence from `logits` (B C N); see `reference.mean_field`.

    With a tolerance, the host waits after each step to learn whether any item still runs. Without
    one, it never waits.
    """
    iterations, tolerance, save = options.iterations, options.tolerance, options.save
    storage = torch.float16 if options.half else None
    logits = logits.detach().contiguous()
    batch, classes, n = logits.shape
    width = padded_width(classes)
    saved = logits.new_empty((batch, model.saved_steps(options), n, width))
    steps = torch.zeros(batch, dtype=torch.int64, device=logits.device)
    if iterations == 0:
        return logits.clone(), saved, steps
    # Steps write their marginals straight to `saved`. Without it, one buffer is updated in place:
    # an update reads and writes its own pixels only, after the filters have read them all.
    q = saved[:, 0] if save else logits.new_empty((batch, n, width))
    recurrence = _Steps(q, classes, model, False, storage)
    # Without a source and a message, the update is Q_0 = softmax(u).
    no_source = Source("none", q)
    recurrence.update(
        no_source, logits, logits, q, q, write=False, last=False, message=False, start=True
    )
    z = torch.empty_like(logits)
    for step in range(iterations):
        last = step + 1 == iterations
        fused, message = recurrence.messages(q)
        # Frank-Wolfe saves the last marginals too.
        kept = save and (not last or model.update is not None)
        after = saved[:, step + 1] if kept else q
        stopping = tolerance > 0
        recurrence.update(
            fused,
            logits,
            z,
            q,
            after,
            write=last or stopping,  # any step may be the last one of an item
            last=last and not kept,
            message=message,
            running=recurrence.running if stopping else None,
        )
        if stopping:
            steps += recurrence.running
            if not last:
                change = recurrence.change.sum(1) / (n * classes)
                recurrence.running.logical_and_(change >= tolerance)
                if not bool(recurrence.running.any()):
                    break
        q = after
    return z, saved, steps if tolerance > 0 else steps.fill_(iterations)


def mean_field_backward(
    gradient: Tensor, saved: Tensor, model: Model
) -> tuple[Tensor, Tensor, Tensor]:
    """From dL/dz (B C N) to the gradients of the inputs; see `reference.mean_field_backward`."""
    weights, model_step = model.weights, model.update
    classes = gradient.shape[1]
    upstream = gradient.detach().transpose(1, 2)
    to_logits = upstream
    to_rates = weights.new_zeros(2 if model_step else 0, dtype=torch.float64)
    carry = saved  # not read without a blend
    count = saved.shape[1]
    if model_step is not None and count > 0:
        count -= 1
        first, before, after = (saved[:, t, :, :classes] for t in (0, count - 1, count))
        upstream, to_logits, held, rates = frank_wolfe.start_backward(
            upstream, first, before, after, model_step
        )
        to_logits = to_logits + upstream
        to_rates += rates
        if model_step.blends:
            carry = pad_channels(held, saved.shape[3])
    # Copied: the gradient is the caller's.
    to_logits = to_logits.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    # The adjoint filters of a Potts model take (1 1ᵀ - I) g; see `reference.mean_field_backward`.
    if weights.dim() == 2:
        upstream = upstream.sum(2, keepdim=True) - upstream
    upstream = pad_channels(upstream, saved.shape[3])
    to_weights = torch.zeros_like(weights, dtype=torch.float64)
    steps = _Steps(upstream, classes, model, True, None)
    # `upstream` is the input of the adjoint filters of a step; `to_logits` sums up all g so far.
    for step in reversed(range(count)):
        q = saved[:, step]
        earlier = saved[:, max(step - 1, 0)]
        fused, message = steps.adjoint_messages(upstream, q, to_weights)
        steps.adjoint(
            fused, q, upstream, to_logits, message, to_weights, earlier, carry, start=step == 0
        )
        if steps.learns and step > 0:
            to_rates += steps.rate_sums.sum(0, dtype=torch.float64)
    if steps.full:
        to_weights -= steps.products[:, :, :classes, :classes].sum(1)
    return to_logits, to_weights.to(weights.dtype), to_rates.to(weights.dtype)


class _Steps:
    """Buffers and launches of the steps for marginals laid out as `like` (B N width).

    A step filters with every kernel and adds up weighted messages. One lattice is not sliced to
    memory: `update_kernel` slices it while it weights, adds the unary and takes the softmax. That
    saves a write and a read of B·N·width values per step.
    """

    def __init__(
        self,
        like: Tensor,
        classes: int,
        model: Model,
        adjoint: bool,
        storage: torch.dtype | None,
    ) -> None:
        self.batch, self.n, self.width = like.shape
        weights, terms = model.weights, model.terms
        self.full = weights.dim() == 3
        # Pixels are rows, so a matrix multiplies from the right. Forward, M q of a pixel is its row
        # times Mᵀ; the adjoint, Mᵀ R, is its row times M.
        weights = weights.detach()
        weights = weights.transpose(1, 2) if self.full and not adjoint else weights
        self.weights = weights.contiguous().unbind(0)
        self.filters = [Filtering(term, like, model.size, adjoint, storage) for term in terms]
        lattices = [k for k, term in enumerate(terms) if term.kind == "lattice"]
        # A softmax needs all channels of a pixel at once, so a program owns whole rows.
        rows, columns, warps = whole_rows(self.width, 16 if self.full else 1)
        # Larger matrices overflow the shared memory of a fused product.
        self.wide = self.full and columns > _WIDEST
        # The gradient to a matrix is a product over all points, Σ_i R_i q_iᵀ. It needs the filtered
        # result in memory, so nothing is fused there.
        separate = self.wide or (adjoint and self.full)
        self.fused = lattices[-1] if lattices and not separate else None
        self.blocks = pieces(self.n, rows)
        self.options = {
            "FULL": self.full,
            "CHANNELS": classes,
            "WIDTH": self.width,
            "ROWS": rows,
            "COLUMNS": columns,
            "CHUNK": min(columns, 32),
            "num_warps": warps,
        }
        self.message = torch.empty_like(like, memory_format=torch.contiguous_format)
        self.running = torch.ones(self.batch, dtype=torch.bool, device=like.device)
        self.change = like.new_empty(self.batch, self.blocks)
        # Each block of points writes its sum to a row of its own, and torch adds the rows in one
        # order: no atomics, so gradients are the same in every call.
        self.sums = like.new_empty(self.batch * self.blocks, self.width) if adjoint else like
        update = model.update
        self.learns = adjoint and update is not None and update.learns
        self.rate_sums = like.new_empty(self.batch * self.blocks, 2) if self.learns else like
        self.rates = like if update is None else update.rates.detach().contiguous()
        self.step = "mean_field" if update is None else update.regularizer
        self.blends = update is not None and update.blends
        self.mix = 0.0 if update is None else update.mix
        self.numbers = torch.finfo(like.dtype)
        self.classes = classes
        if adjoint and self.full:  # sums over points of the results times the marginals
            self.products = like.new_zeros(len(terms), self.batch, self.width, self.width)

    def messages(self, q: Tensor) -> tuple[Source, bool]:
        """Add up the messages of all filters but one lattice, which `update` fuses.

        Returns:
            The source of the fused lattice, and whether the message holds anything.
        """
        has_message = False
        for k, filtering in enumerate(self.filters):
            if k == self.fused:
                continue
            if filtering.kind == "grid" and not self.full:
                filtering.weigh(q, self.weights[k], self.message, has_message)
            elif self.wide:
                self._multiply(filtering.result(q), k, has_message)
            else:
                self._mix(filtering.source(q), k, q, has_message, reduce=False)
            has_message = True
        if self.fused is None:
            return Source("none", self.message), has_message
        return self.filters[self.fused].source(q), has_message

    def adjoint_messages(
        self, upstream: Tensor, q: Tensor, to_weights: Tensor
    ) -> tuple[Source, bool]:
        """Like `messages` for the adjoint filters; also adds the gradients to their weights."""
        has_message = False
        for k, filtering in enumerate(self.filters):
            if k == self.fused:
                continue
            if self.full:
                source = Source("dense", self.message)
                source.tensor = filtering.result(upstream)
                self.products[k].baddbmm_(source.tensor.transpose(1, 2), q)
            else:
                source = filtering.source(upstream)
            if self.wide:
                self._multiply(source.tensor, k, has_message)
            else:
                self._mix(source, k, q, has_message, reduce=not self.full)
            if not self.full:
                self._add_weights(to_weights, k)
            has_message = True
        if self.fused is None:
            return Source("none", self.message), has_message
        return self.filters[self.fused].source(upstream), has_message

    def update(
        self,
        fused: Source,
        logits: Tensor,
        z: Tensor,
        q: Tensor,
        after: Tensor,
        *,
        write: bool,
        last: bool,
        message: bool,
        running: Tensor | None = None,
        start: bool = False,
    ) -> None:
        """Launch `update_kernel`; the `start` is a softmax, whatever the step."""
        launch(
            update_kernel,
            (self.blocks, self.batch),
            *fused.arguments(),
            self._fused_weights(),
            self.message,
            logits,
            z,
            q,
            after,
            self.running,
            self.change,
            self.rates,
            self.n,
            item_rows(q),
            item_rows(after),
            MESSAGE=message,
            STOPS=running is not None,
            WRITE=write,
            STORE=not last,
            STEP="mean_field" if start else self.step,
            BLEND=self.blends and not start,
            MIX=self.mix,
            TINY=self.numbers.tiny,
            **fused.options(),
            **self.options,
        )

    def adjoint(
        self,
        fused: Source,
        q: Tensor,
        upstream: Tensor,
        to_logits: Tensor,
        message: bool,
        to_weights: Tensor,
        earlier: Tensor,
        carry: Tensor,
        *,
        start: bool,
    ) -> None:
        """Launch `adjoint_kernel`, and add the gradient to the fused weights.

        `earlier` are the marginals one step before q, and at the `start` there are none.
        """
        launch(
            adjoint_kernel,
            (self.blocks, self.batch),
            *fused.arguments(),
            self._fused_weights(),
            self.sums,
            self.message,
            q,
            upstream,
            to_logits,
            earlier,
            carry,
            self.rates,
            self.rate_sums,
            self.n,
            item_rows(q),
            MESSAGE=message,
            STEP="mean_field" if start else self.step,
            BLEND=self.blends,
            LEARN=self.learns and not start,
            ROUNDING=8 * self.numbers.eps,
            **fused.options(),
            **self.options,
        )
        if self.fused is not None and not self.full:
            self._add_weights(to_weights, self.fused)

    def _mix(self, source: Source, k: int, q: Tensor, add: bool, reduce: bool) -> None:
        launch(
            mix_kernel,
            (self.blocks, self.batch),
            *source.arguments(),
            self.weights[k],
            q,
            self.sums,
            self.message,
            self.n,
            item_rows(q),
            REDUCE=reduce,
            ADD=add,
            **source.options(),
            **self.options,
        )

    def _multiply(self, result: Tensor, k: int, add: bool) -> None:
        """Write the result times the matrix of kernel `k` to the message, or `add` it."""
        product = result[..., : self.classes] @ self.weights[k]
        if not add:
            self.message.zero_()
        self.message[..., : self.classes] += product

    def _add_weights(self, to_weights: Tensor, k: int) -> None:
        to_weights[k] -= self.sums.sum(0, dtype=torch.float64)[: self.classes]

    def _fused_weights(self) -> Tensor:
        return self.message if self.fused is None else self.weights[self.fused]
