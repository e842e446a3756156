"""The arguments of an inference: the pairwise model and the options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from crfrnn.core.inference import Options

#: Number of arrays in a term of each kind; a grid has one band matrix per axis instead.
_ARRAYS = {"lattice": 6, "exact": 1}

#: Largest sum of marginals that lattices store as float16, which reaches 65504.
_HALF_RANGE = 32768


@dataclass(eq=False)
class Term:
    """One kernel's normalized filter F = D_after G D_before; None stands for ones.

    Attributes:
        kind: "lattice", "grid" or "exact".
        arrays: by kind, the `LatticeArrays`, one band matrix per axis, or the features (B N D).
        before: (B N) factors of the input.
        after: (B N) factors of the output.
        total: (B N) the response to ones, F 1. Only some engines need it (`needs_total`). The first
            call that needs it computes it, and all later calls share it.
    """

    kind: str
    arrays: tuple[Tensor, ...]
    before: Tensor | None = None
    after: Tensor | None = None
    total: Tensor | None = None


class Update(NamedTuple):
    """A step of regularized Frank-Wolfe in place of mean field's; see `crf.frank_wolfe.Step`.

    Attributes:
        regularizer: "entropy" or "l2".
        rates: (2,) λ and α, of the type of the logits.
        mix: the share of the starting marginals in the result.
        blends: whether α may differ from one.
        learns: whether the gradient to `rates` is wanted.
    """

    regularizer: str
    rates: Tensor
    mix: float = 0.0
    blends: bool = True
    learns: bool = True

    @property
    def needs_all(self) -> bool:
        """Whether the marginals of all classes must be kept, with none derived from the others."""
        return self.blends or self.mix > 0

    def flatten(self) -> str:
        """All but the rates as a string."""
        return f"{self.regularizer}:{self.mix!r}:{int(self.blends)}:{int(self.learns)}"

    @classmethod
    def unflatten(cls, rates: Tensor, text: str) -> Update:
        """The inverse of `flatten`."""
        regularizer, mix, blends, learns = text.split(":")
        return cls(regularizer, rates, float(mix), blends == "1", learns == "1")


class Model(NamedTuple):
    """The pairwise part of a CRF.

    Attributes:
        weights: (K C) kernel weights of a Potts model; or (K C C), compatibility times weights.
        size: S, the size of the grid; N is the product of its numbers.
        terms: one per kernel.
        engine: the name of the engine, which also built the arrays of the terms.
        kept: the classes that take part in `marginals`; empty for all. If given, the weights are
            (K len(kept) + 1), and the last column stands for all other classes.
        update: the step; None is mean field's.
    """

    weights: Tensor
    size: Sequence[int]
    terms: Sequence[Term]
    engine: str
    kept: tuple[int, ...] = ()
    update: Update | None = None

    def flatten(self) -> tuple[list[Tensor], list[int], str]:
        """The model in the types of a registered operator: tensors, the grid, and a string."""
        # An operator's schema has no type for a dataclass or an optional tensor in a list: empty
        # tensors stand for absent ones, and one string holds the engine and the kinds.
        absent = self.weights.new_empty(0)
        update = self.update
        arrays = [self.weights, absent if update is None else update.rates]
        for term in self.terms:
            scales = (term.before, term.after, term.total)
            arrays += [*term.arrays, *(absent if scale is None else scale for scale in scales)]
        step = "mean_field" if update is None else update.flatten()
        kinds = " ".join([self.engine, step, *(term.kind for term in self.terms)])
        return arrays, list(self.size), kinds

    @classmethod
    def unflatten(cls, arrays: Sequence[Tensor], size: Sequence[int], kinds: str) -> Model:
        """The inverse of `flatten`."""
        engine, step, *names = kinds.split()
        terms, begin = [], 2
        for kind in names:
            end = begin + _ARRAYS.get(kind, len(size))
            scales = [scale if scale.numel() else None for scale in arrays[end : end + 3]]
            terms.append(Term(kind, tuple(arrays[begin:end]), *scales))
            begin = end + 3
        update = None if step == "mean_field" else Update.unflatten(arrays[1], step)
        return cls(arrays[0], size, terms, engine, update=update)

    def saved_steps(self, options: Options) -> int:
        """Number of steps whose marginals are saved; Frank-Wolfe saves those after the last too."""
        if not options.save or options.iterations == 0:
            return 0
        return options.iterations + (self.update is not None)

    def in_half_range(self, shape: tuple[int, int]) -> Model:
        """The model for `shape` (B, N) points, scaled so that its lattices fit float16."""
        # A vertex sums up to N marginals of at most 1. Where many points meet, the response to ones
        # n is as large, and the factors n^-½ or n^-1 of a normalized input keep the sum small. Any
        # other input is divided by a power of two, and the output multiplied by it: only exponents
        # change, so no digit is lost.
        excess = math.ceil(math.log2(max(shape[1] / _HALF_RANGE, 1.0)))

        def bounded(term: Term) -> Term:
            if term.kind != "lattice" or term.before is not None or excess == 0:
                return term
            factor = 2.0**excess
            before = self.weights.new_full(shape, 1 / factor)
            after = before * factor**2 if term.after is None else term.after * factor
            return replace(term, before=before, after=after)

        return self._replace(terms=[bounded(term) for term in self.terms])
