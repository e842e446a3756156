"""What the operators of an inference take: the pairwise model, and how it is run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

#: Arrays of a term of each kind; a grid has one band matrix for each axis.
_ARRAYS = {"lattice": 6, "exact": 1}

#: A sum that float16 holds, with room to spare.
_HALF_RANGE = 32768


@dataclass(eq=False)
class Term:
    """One kernel's normalized filter F = D_after G D_before; None stands for ones.

    Attributes:
        kind: "lattice", "grid" or "exact".
        arrays: `LatticeArrays`; one band matrix for each axis; features (B N D).
        before: (B N) factors of the input.
        after: (B N) factors of the output.
        total: (B N) the response to ones, F 1. Only some engines need it (`needs_total`). It is
            computed when it is first needed and then stays, so that all calls share it.
    """

    kind: str
    arrays: tuple[Tensor, ...]
    before: Tensor | None = None
    after: Tensor | None = None
    total: Tensor | None = None


class Model(NamedTuple):
    """The pairwise part of a CRF.

    Attributes:
        weights: (K C) kernel weights of a Potts model; or (K C C), compatibility times weights.
        size: S of the grid; N is its product.
        terms: one for each kernel.
        engine: the engine that runs it. The arrays of the terms are that engine's.
        kept: the classes that take part, for `marginals`; empty for all. The weights are then
            (K len(kept) + 1): the last column stands for all other classes.
    """

    weights: Tensor
    size: Sequence[int]
    terms: Sequence[Term]
    engine: str
    kept: tuple[int, ...] = ()

    def flatten(self) -> tuple[list[Tensor], list[int], str]:
        """The model as a registered operator takes it: tensors, the grid, and a string."""
        absent = self.weights.new_empty(0)
        arrays = [self.weights]
        for term in self.terms:
            scales = (term.before, term.after, term.total)
            arrays += [*term.arrays, *(absent if scale is None else scale for scale in scales)]
        kinds = " ".join([self.engine, *(term.kind for term in self.terms)])
        return arrays, list(self.size), kinds

    @classmethod
    def unflatten(cls, arrays: Sequence[Tensor], size: Sequence[int], kinds: str) -> Model:
        """The model that `flatten` took apart."""
        engine, *names = kinds.split()
        terms, at = [], 1
        for kind in names:
            end = at + _ARRAYS.get(kind, len(size))
            scales = [scale if scale.numel() else None for scale in arrays[end : end + 3]]
            terms.append(Term(kind, tuple(arrays[at:end]), *scales))
            at = end + 3
        return cls(arrays[0], size, terms, engine)

    def in_half_range(self, shape: tuple[int, int]) -> Model:
        """The model for `shape` (B, N) points, with its lattices' values in float16's range.

        A vertex adds up to N marginals. The factors of a normalized filter's input outweigh that. A
        filter whose input has no factors gets a power of two, which costs no digit.
        """
        excess = math.ceil(math.log2(max(shape[1] / _HALF_RANGE, 1.0)))

        def bounded(term: Term) -> Term:
            if term.kind != "lattice" or term.before is not None or excess == 0:
                return term
            factor = 2.0**excess
            before = self.weights.new_full(shape, 1 / factor)
            after = before * factor**2 if term.after is None else term.after * factor
            return replace(term, before=before, after=after)

        return self._replace(terms=[bounded(term) for term in self.terms])


class Options(NamedTuple):
    """How an inference is run. All are numbers, so that a registered operator takes them as a list.

    Attributes:
        iterations: mean-field steps; 0 returns the logits.
        tolerance: an image stops when the mean change of its marginals falls below this; 0 never.
        half: whether lattices store their values as float16, where the engine can.
        save: whether the marginals before each step are kept for the backward.
    """

    iterations: int
    tolerance: float = 0.0
    half: bool = False
    save: bool = False

    def flatten(self) -> list[float]:
        """The options as a registered operator takes them."""
        return [float(number) for number in self]

    @classmethod
    def unflatten(cls, numbers: Sequence[float]) -> Options:
        """The options that `flatten` took apart."""
        iterations, tolerance, half, save = numbers
        return cls(int(iterations), tolerance, bool(half), bool(save))
