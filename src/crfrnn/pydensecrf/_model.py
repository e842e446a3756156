"""DenseCRF: the model over free points, with the calls of the original."""

from __future__ import annotations

from typing import Any

import numpy as np

from crfrnn._guards import warn, warn_of_scores
from crfrnn.core.threads import settle
from crfrnn.crf.points import PointFilter, point_marginals

from ._arguments import Floats, as_floats, member, refuse_nan, whole
from ._compat import as_weights, penalize, read_compatibility
from ._constants import DIAG_KERNEL, NORMALIZE_SYMMETRIC, SCHEMES, KernelType, NormalizationType
from ._unary import LogisticUnary, Unary, as_logits


class DenseCRF:
    """A fully connected CRF over free points.

    Args:
        nvar: number of pixels or points N.
        nlabels: number of labels C.

    Example:
        >>> import numpy as np
        >>> from crfrnn.pydensecrf.densecrf import DenseCRF
        >>> crf = DenseCRF(3, 2)
        >>> crf.setUnaryEnergy(np.array([[0.1, 0.8, 0.1], [2.0, 0.6, 2.0]]))
        >>> crf.addPairwiseEnergy(np.array([[0.0, 0.1, 0.2]]), compat=3)
        >>> np.argmax(crf.inference(5), axis=0)
        array([0, 0, 0])
    """

    def __init__(self, nvar: float, nlabels: float) -> None:
        """Make a model without unary and pairwise terms."""
        self._nvar = whole("nvar", nvar, least=1)
        self._nlabel = whole("nlabels", nlabels, least=1)
        self._size: tuple[int, ...] = (self._nvar,)
        self._logits: Floats | None = None
        self._terms: list[tuple[PointFilter, Floats]] = []
        if self._nlabel == 1:
            warn(
                "a CRF with one label gives every pixel that label; a binary mask needs two labels"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Copy the list of terms, so that a copy of the model can gain terms by itself."""
        return {**self.__dict__, "_terms": list(self._terms)}

    def setUnaryEnergy(self, u: Any, f: Any = None) -> None:
        """Set the unary energies -log P.

        Args:
            u: (C, N), labels by pixels. With `f`, the coefficients (C, D) of a logistic term.
            f: features (D, N) of a logistic term, whose energies are u @ f.

        Example:
            >>> import numpy as np
            >>> from crfrnn.pydensecrf.densecrf import DenseCRF
            >>> probs = np.array([[0.9, 0.4], [0.1, 0.6]], np.float32)  # labels by pixels
            >>> crf = DenseCRF(2, 2)
            >>> crf.setUnaryEnergy(-np.log(probs))
            >>> np.allclose(crf.inference(0), probs)  # no steps: the probabilities, unchanged
            True
        """
        if f is None:
            energies = as_floats("u", u, 2)
            self._set(energies)
            warn_of_scores("u", "energy", energies, axis=0)
        else:
            self.setUnary(LogisticUnary(u, f))

    def setUnary(self, u: Unary) -> None:
        """Set the unary term from a `ConstUnary` or `LogisticUnary`.

        Example:
            >>> from crfrnn.pydensecrf.densecrf import ConstUnary, DenseCRF
            >>> unary = ConstUnary([[0, 2, 0], [2, 0, 2]])
            >>> crf = DenseCRF(3, 2)
            >>> crf.setUnary(unary)
            >>> crf.inference(0).argmax(axis=0).tolist()
            [0, 1, 0]
        """
        if not isinstance(u, Unary):
            raise TypeError(
                f"setUnary takes a ConstUnary or LogisticUnary; got {type(u).__name__}. "
                f"Energies as an array go to setUnaryEnergy."
            )
        self._set(u.energies())

    def addPairwiseEnergy(
        self,
        features: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a Gaussian over free features.

        Args:
            features: (D, N), already divided by their bandwidths; see `utils.create_pairwise_*`.
            compat: a number c rewards equal labels (Potts with weight c). A vector (C,) is the
                diagonal of a compatibility and a matrix (C, C) all of it; these penalize where
                they are positive. A matrix is replaced by its symmetric part.
            kernel: accepted and without effect, as in the original.
            normalization: one of the four constants.

        Example:
            >>> import numpy as np
            >>> from crfrnn.pydensecrf.densecrf import DenseCRF
            >>> crf = DenseCRF(3, 2)
            >>> crf.setUnaryEnergy(np.array([[0.0, 1.0, 0.0], [2.0, 0.0, 2.0]]))
            >>> crf.addPairwiseEnergy(np.array([[0.0, 0.1, 0.2]]), compat=3)  # similar features
            >>> crf.inference(5).argmax(axis=0).tolist()  # the second point joins the others
            [0, 0, 0]
        """
        array = as_floats("features", features, 2)
        if array.shape[0] == 0 or array.shape[1] != self._nvar:
            hint = " Transpose it." if array.shape[0] == self._nvar else ""
            raise ValueError(f"features must be (D, {self._nvar}); got {array.shape}.{hint}")
        refuse_nan("features", array)
        self._add(np.ascontiguousarray(array.T), compat, kernel, normalization)

    def inference(self, niter: float) -> Floats:
        """Run mean-field inference.

        Args:
            niter: number of steps; 0 gives the softmax of the negative unary. Labels whose
                marginals provably stay negligible are left out.

        Returns:
            Marginals (C, N), a float32 NumPy array.

        Example:
            >>> from crfrnn.pydensecrf.densecrf import DenseCRF
            >>> q = DenseCRF(4, 2).inference(5)  # without unary energies: undecided
            >>> q.shape, float(q[0, 0])
            ((2, 4), 0.5)
        """
        steps = whole("niter", niter)
        settle()
        logits = self._start()
        if not self._terms or steps == 0:
            return _softmax(logits)
        filters, compatibilities = zip(*list(self._terms), strict=True)
        weights, compatibility = as_weights(compatibilities, self._nlabel)
        return point_marginals(logits, filters, weights, compatibility, steps)

    def startInference(self) -> tuple[Floats, Floats, Floats]:
        """Return the marginals before the first step, and two empty scratch matrices.

        Example:
            >>> import numpy as np
            >>> from crfrnn.pydensecrf.densecrf import DenseCRF
            >>> crf = DenseCRF(3, 2)
            >>> crf.setUnaryEnergy(np.array([[0.0, 1.0, 0.0], [2.0, 0.0, 2.0]]))
            >>> Q, tmp1, tmp2 = crf.startInference()
            >>> bool((Q == crf.inference(0)).all())
            True
        """
        empty = np.empty((0, 0), np.float32)
        return self.inference(0), empty, empty.copy()

    def stepInference(self, Q: Any, tmp1: Any = None, tmp2: Any = None) -> None:
        """Apply one mean-field step, in place.

        Args:
            Q: marginals (C, N) from `startInference`, replaced by those after the step.
            tmp1: accepted and without effect; the original uses it as scratch memory.
            tmp2: likewise.

        Example:
            >>> import numpy as np
            >>> from crfrnn.pydensecrf.densecrf import DenseCRF
            >>> crf = DenseCRF(3, 2)
            >>> crf.setUnaryEnergy(np.array([[0.0, 1.0, 0.0], [2.0, 0.0, 2.0]]))
            >>> crf.addPairwiseEnergy(np.array([[0.0, 0.1, 0.2]]), compat=3)
            >>> Q, tmp1, tmp2 = crf.startInference()
            >>> for _ in range(5):
            ...     crf.stepInference(Q, tmp1, tmp2)
            >>> bool(np.allclose(Q, crf.inference(5), atol=1e-5))
            True
        """
        if not isinstance(Q, np.ndarray) or Q.dtype.kind != "f" or not Q.flags.writeable:
            raise TypeError(
                f"stepInference writes into Q, which must be a writable float array, such as "
                f"startInference returns; got {type(Q).__name__}"
            )
        q = self._marginals(Q)
        logits = self._start().copy()
        for filter, compatibility in list(self._terms):
            logits -= penalize(compatibility, filter(q))
        Q[...] = _softmax(logits)

    def klDivergence(self, Q: Any) -> float:
        """Return the divergence of marginals from the model, as the original defines it.

        It is the negative entropy, plus the expected unary energy, plus the pairwise terms summed
        over ordered pairs, including each pixel with itself. The partition function is missing, so
        the value may be negative.

        Args:
            Q: marginals (C, N).

        Example:
            >>> import numpy as np
            >>> from crfrnn.pydensecrf.densecrf import DenseCRF
            >>> crf = DenseCRF(3, 2)
            >>> crf.setUnaryEnergy(np.array([[0.0, 1.0, 0.0], [2.0, 0.0, 2.0]]))
            >>> crf.addPairwiseEnergy(np.array([[0.0, 0.1, 0.2]]), compat=3)
            >>> crf.klDivergence(crf.inference(5)) < crf.klDivergence(crf.inference(0))
            True
        """
        q = self._marginals(Q)
        # In double: a float32 sum over all pixels would hide the small change of a late step.
        total = float((q * np.log(np.maximum(q, 1e-20))).sum(dtype=np.float64))
        total -= float((self._start() * q).sum(dtype=np.float64))
        for filter, compatibility in list(self._terms):
            total += float((penalize(compatibility, filter(q)) * q).sum(dtype=np.float64))
        return total

    def _set(self, energies: Floats) -> None:
        settle()
        self._logits = as_logits(energies, self._nlabel, self._nvar)

    def _start(self) -> Floats:
        """Negative unary energies (C, N); zero if none were set."""
        if self._logits is not None:
            return self._logits
        return np.zeros((self._nlabel, self._nvar), np.float32)

    def _marginals(self, Q: Any) -> Floats:
        settle()
        q = as_floats("Q", Q, 2)
        if q.shape != (self._nlabel, self._nvar):
            raise ValueError(f"Q must be ({self._nlabel}, {self._nvar}); got {q.shape}")
        refuse_nan("Q", q)
        return q

    def _add(self, points: Floats, compat: Any, kernel: int, normalization: int) -> None:
        """Add the pairwise term of features (N, D) or (h, w, D)."""
        member("kernel", kernel, KernelType)
        scheme = SCHEMES[member("normalization", normalization, NormalizationType)]
        compatibility = read_compatibility(compat, self._nlabel)
        settle()
        features = points.reshape(self._nvar, -1)
        self._terms.append((PointFilter(features, self._size, scheme), compatibility))


def _softmax(logits: Floats) -> Floats:
    """Probabilities of logits (C, N)."""
    q: Floats = np.exp(logits - logits.max(axis=0))
    q /= q.sum(axis=0)
    return q
