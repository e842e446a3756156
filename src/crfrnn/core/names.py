"""Names that options accept, on NumPy arrays and tensors alike."""

#: Names that an `engine=` argument accepts.
ENGINES = ("reference", "cpu", "triton")

#: Ways to compute the sums of a Gaussian kernel.
FILTERS = ("lattice", "exact")

#: Scalings of a filter G on its input and output by powers of n = G·1 (Krähenbühl & Koltun, 2013).
NORMALIZATIONS = ("symmetric", "before", "after", "none")

#: Ways to store the values of a lattice.
PRECISIONS = ("full", "half")
