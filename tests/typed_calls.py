"""Calls as a type checker sees them; mypy reads this file, and nothing runs it.

An `ignore` that is not needed is an error too: each marks a call that must be refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import crfrnn
from crfrnn import (
    CRFRNN,
    DenseCRFLoss,
    Lattice,
    PottsLoss,
    Refined,
    gaussian_filter,
    refine,
    upsample,
)

if TYPE_CHECKING:
    from typing_extensions import assert_type

Array = np.ndarray


def what_goes_in_comes_out(array: Array, tensor: torch.Tensor, image: Array) -> None:
    of_arrays = refine(image, logits=array)
    assert_type(of_arrays, Refined[np.ndarray])
    assert_type(of_arrays.probs, np.ndarray)
    assert_type(of_arrays.labels, np.ndarray)
    of_tensors = refine(image, probs=tensor)
    assert_type(of_tensors.probs, torch.Tensor)
    assert_type(of_tensors.labels, torch.Tensor)
    assert_type(refine(None, labels=np.zeros((3, 4), np.uint8), kernels=[]).labels, np.ndarray)
    assert_type(refine(image, masks=np.zeros((2, 3, 4), np.bool_)).probs, np.ndarray)
    assert_type(upsample(array, image), np.ndarray)
    assert_type(upsample(tensor, tensor), torch.Tensor)
    assert_type(gaussian_filter(tensor, tensor), torch.Tensor)
    assert_type(Lattice(array).filter(array), np.ndarray)


def callers_that_do_not_say(anything: Any, image: Array) -> None:
    assert_type(refine(image, energy=anything).probs, Any)


def callers_that_take_both(either: Array | torch.Tensor, image: Array) -> Array | torch.Tensor:
    if isinstance(either, torch.Tensor):
        return refine(image, energy=either).probs
    return refine(image, energy=either).probs


def optional_scores(logits: Array | None, probs: Array | None, image: Array) -> Refined[Array]:
    return refine(image, logits=logits, probs=probs)


def options_are_names(array: Array, image: Array) -> None:
    refine(image, logits=array, filter="exact", normalization="after", precision="half")
    refine(image, logits=array, preset="a file.json", engine="cpu")
    refine(image, logits=array, filter="exat")  # type: ignore[arg-type]
    refine(image, logits=array, normalization="symetric")  # type: ignore[arg-type]
    refine(image, logits=array, precision="16")  # type: ignore[arg-type]
    refine(image, logits=array, engine="cuda")  # type: ignore[arg-type]
    refine(image, scores=array)  # type: ignore[call-arg]
    gaussian_filter(array, array, method="bilateral")  # type: ignore[arg-type]
    Lattice(array, engine="gpu")  # type: ignore[arg-type]


def options_of_the_layer(logits: torch.Tensor, image: torch.Tensor) -> None:
    CRFRNN(21, weights="matrix", filter="exact", normalization="none", engine="triton")
    CRFRNN(21, weights="full")  # type: ignore[arg-type]
    CRFRNN(21, filter="exat")  # type: ignore[arg-type]
    DenseCRFLoss(filter="exat")  # type: ignore[arg-type]
    PottsLoss(relaxation="normalized", entropy="collision", neighbors=crfrnn.Neighborhood())
    PottsLoss(relaxation="normalised")  # type: ignore[arg-type]
    DenseCRFLoss(normalization="mean")  # type: ignore[arg-type]


def modules_of_the_package() -> None:
    crfrnn.pydensecrf.install()
    assert_type(crfrnn.presets.PRESETS["psa"].iterations, int)
    crfrnn.postprocess  # type: ignore[attr-defined]  # noqa: B018
