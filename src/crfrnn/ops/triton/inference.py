"""The recurrence: kernel launches alone between the first step and the last."""

from __future__ import annotations

import torch
from torch import Tensor

from crfrnn.ops.model import Model, Options

from .launch import item_rows, launch, pad_channels, padded_width, pieces, whole_rows
from .terms import Filtering, Source
from .update import adjoint_kernel, mix_kernel, update_kernel

#: Most channels whose matrix of weights is multiplied inside a fused kernel.
_WIDEST = 256


def mean_field(logits: Tensor, model: Model, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Run the recurrence from `logits` (B C N); see `reference.mean_field`.

    With a tolerance, each step waits for the device to hear whether any item still runs; without
    one, nothing waits.
    """
    iterations, tolerance, save = options.iterations, options.tolerance, options.save
    storage = torch.float16 if options.half else None
    logits = logits.detach().contiguous()
    batch, classes, n = logits.shape
    width = padded_width(classes)
    saved = logits.new_empty((batch, iterations if save else 0, n, width))
    steps = torch.zeros(batch, dtype=torch.int64, device=logits.device)
    if iterations == 0:
        return logits.clone(), saved, steps
    q = saved[:, 0] if save else logits.new_empty((batch, n, width))
    made = _Steps(q, classes, model, False, storage)
    nothing = Source("none", q)
    made.update(nothing, logits, logits, q, q, write=False, last=False, message=False)
    z = torch.empty_like(logits)
    for step in range(iterations):
        last = step + 1 == iterations
        fused, message = made.messages(q)
        after = saved[:, step + 1] if save and not last else q
        stopping = tolerance > 0
        made.update(
            fused,
            logits,
            z,
            q,
            after,
            write=last or stopping,
            last=last,
            message=message,
            running=made.running if stopping else None,
        )
        if stopping:
            steps += made.running
            if not last:
                change = made.change.sum(1) / (n * classes)
                made.running.logical_and_(change >= tolerance)
                if not bool(made.running.any()):
                    break
        q = after
    return z, saved, steps if tolerance > 0 else steps.fill_(iterations)


def mean_field_backward(gradient: Tensor, saved: Tensor, model: Model) -> tuple[Tensor, Tensor]:
    """From dL/dz (B C N) to dL/dlogits and dL/dweights; see `reference.mean_field_backward`."""
    weights = model.weights
    classes = gradient.shape[1]
    to_logits = gradient.detach().clone(memory_format=torch.contiguous_format)
    upstream = gradient.detach().transpose(1, 2)
    if weights.dim() == 2:
        upstream = upstream.sum(2, keepdim=True) - upstream
    upstream = pad_channels(upstream, saved.shape[3])
    to_weights = torch.zeros_like(weights, dtype=torch.float64)
    made = _Steps(upstream, classes, model, True, None)
    for step in reversed(range(saved.shape[1])):
        q = saved[:, step]
        fused, message = made.adjoint_messages(upstream, q, to_weights)
        made.adjoint(fused, q, upstream, to_logits, message, to_weights)
    if made.full:
        to_weights -= made.products[:, :, :classes, :classes].sum(1)
    return to_logits, to_weights.to(weights.dtype)


class _Steps:
    """Buffers and launches of the steps for marginals laid out as `like` (B N width)."""

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
        # A matrix takes channels in to channels out: W for the adjoint, its transpose forward.
        weights = weights.detach()
        weights = weights.transpose(1, 2) if self.full and not adjoint else weights
        self.weights = weights.contiguous().unbind(0)
        self.filters = [Filtering(term, like, model.size, adjoint, storage) for term in terms]
        lattices = [k for k, term in enumerate(terms) if term.kind == "lattice"]
        # The adjoint of a matrix needs every result whole, for the gradient to the matrix.
        rows, columns, warps = whole_rows(self.width, 16 if self.full else 1)
        # Larger matrices than this overflow the shared memory of a fused product.
        self.wide = self.full and columns > _WIDEST
        apart = self.wide or (adjoint and self.full)
        self.fused = lattices[-1] if lattices and not apart else None
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
        self.sums = like.new_empty(self.batch * self.blocks, self.width) if adjoint else like
        self.classes = classes
        if adjoint and self.full:  # sums over points of the results times the marginals
            self.products = like.new_zeros(len(terms), self.batch, self.width, self.width)

    def messages(self, q: Tensor) -> tuple[Source, bool]:
        """Add up the messages of all filters but one lattice, which is left to fuse."""
        held = False
        for k, one in enumerate(self.filters):
            if k == self.fused:
                continue
            if one.kind == "grid" and not self.full:
                one.weigh(q, self.weights[k], self.message, held)
            elif self.wide:
                self._multiply(one.result(q), k, held)
            else:
                self._mix(one.source(q), k, q, held, reduce=False)
            held = True
        if self.fused is None:
            return Source("none", self.message), held
        return self.filters[self.fused].source(q), held

    def adjoint_messages(
        self, upstream: Tensor, q: Tensor, to_weights: Tensor
    ) -> tuple[Source, bool]:
        """The same for the adjoint filters, with the gradient to the weights of all but one."""
        held = False
        for k, one in enumerate(self.filters):
            if k == self.fused:
                continue
            if self.full:
                made = Source("dense", self.message)
                made.tensor = one.result(upstream)
                self.products[k].baddbmm_(made.tensor.transpose(1, 2), q)
            else:
                made = one.source(upstream)
            if self.wide:
                self._multiply(made.tensor, k, held)
            else:
                self._mix(made, k, q, held, reduce=not self.full)
            if not self.full:
                self._add_weights(to_weights, k)
            held = True
        if self.fused is None:
            return Source("none", self.message), held
        return self.filters[self.fused].source(upstream), held

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
    ) -> None:
        """Launch `update_kernel`."""
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
            self.n,
            item_rows(q),
            item_rows(after),
            MESSAGE=message,
            STOPS=running is not None,
            WRITE=write,
            LAST=last,
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
    ) -> None:
        """Launch `adjoint_kernel`, and keep the gradient to the fused weights."""
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
            self.n,
            item_rows(q),
            MESSAGE=message,
            **fused.options(),
            **self.options,
        )
        if self.fused is not None and not self.full:
            self._add_weights(to_weights, self.fused)

    def _mix(self, made: Source, k: int, q: Tensor, add: bool, reduce: bool) -> None:
        launch(
            mix_kernel,
            (self.blocks, self.batch),
            *made.arguments(),
            self.weights[k],
            q,
            self.sums,
            self.message,
            self.n,
            item_rows(q),
            REDUCE=reduce,
            ADD=add,
            **made.options(),
            **self.options,
        )

    def _multiply(self, result: Tensor, k: int, add: bool) -> None:
        product = result[..., : self.classes] @ self.weights[k]
        if not add:
            self.message.zero_()
        self.message[..., : self.classes] += product

    def _add_weights(self, to_weights: Tensor, k: int) -> None:
        to_weights[k] -= self.sums.sum(0, dtype=torch.float64)[: self.classes]

    def _fused_weights(self) -> Tensor:
        return self.message if self.fused is None else self.weights[self.fused]
