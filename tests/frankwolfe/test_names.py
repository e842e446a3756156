"""The names of `crfrnn.frankwolfe`, with and without torch."""

import pytest

from crfrnn import frankwolfe
from tests.cases import torch


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="has DenseGaussianCRF and FrankWolfeParams"):
        frankwolfe.ConvCRF  # noqa: B018 - the access is the test
    if torch is None:
        with pytest.raises(ImportError, match=r"the extra crfrnn\[torch\]"):
            frankwolfe.DenseGaussianCRF  # noqa: B018 - the access is the test
    else:
        assert frankwolfe.DenseGaussianCRF.__name__ == "DenseGaussianCRF"
