"""Names that options accept, on NumPy arrays and tensors alike."""

from typing import Literal, get_args

EngineName = Literal["reference", "cpu", "triton"]

#: Names that an `engine=` argument accepts.
ENGINES: tuple[EngineName, ...] = get_args(EngineName)

Filter = Literal["lattice", "exact"]

#: Ways to compute the sums of a Gaussian kernel.
FILTERS: tuple[Filter, ...] = get_args(Filter)

Normalization = Literal["symmetric", "before", "after", "none"]

#: Scalings of a filter G on its input and output by powers of n = G·1 (Krähenbühl & Koltun, 2013).
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)

Precision = Literal["full", "half"]

#: Ways to store the values of a lattice.
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Weights = Literal["scalar", "class", "matrix"]

#: How many kernel weights a layer learns: one per kernel, one per class, or a C x C matrix.
WEIGHTS: tuple[Weights, ...] = get_args(Weights)

Relaxation = Literal["bilinear", "quadratic", "normalized"]

#: Ways to extend the Potts penalty of two labels to two soft labels (Zhang & Boykov, 2025).
RELAXATIONS: tuple[Relaxation, ...] = get_args(Relaxation)

Entropy = Literal["shannon", "collision"]

#: Measures of how undecided a soft label is.
ENTROPIES: tuple[Entropy, ...] = get_args(Entropy)

CrossEntropy = Literal["shannon", "reverse", "collision", "divergence"]

#: Measures of how far predictions are from soft labels.
CROSS_ENTROPIES: tuple[CrossEntropy, ...] = get_args(CrossEntropy)
