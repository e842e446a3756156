"""What crashes the original, or spoils its result in silence, is an error that says why.

Each case runs in a process of its own, as a crash there must not end the tests. What the original
(pydensecrf2 1.1) does is noted beside each: "crash", "silent" (a wrong result or NaN), or "error"
where it refuses too and the case is here for the message; one case "works" there.
"""

import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import crfrnn.pydensecrf.densecrf as dcrf
from crfrnn.pydensecrf import eigen, utils
from tests.cases import torch

pytestmark = pytest.mark.unchecked

W, H, C = 4, 3, 2
N = W * H
IMAGE = np.arange(N * 3, dtype=np.uint8).reshape(H, W, 3)
UNARY = np.linspace(0.1, 2, C * N, dtype=np.float32).reshape(C, N)
POINTS = np.linspace(0, 3, 2 * N, dtype=np.float32).reshape(2, N)
NAN, INF = float("nan"), float("inf")
OTHER = eigen.matrixXf(np.ones((C, 5), np.float32))


def model() -> dcrf.DenseCRF2D:
    d = dcrf.DenseCRF2D(W, H, C)
    d.setUnaryEnergy(UNARY)
    return d


def with_pairwise() -> dcrf.DenseCRF2D:
    d = model()
    d.addPairwiseGaussian(sxy=3, compat=3)
    return d


def with_value(array: np.ndarray, value: float, place: Any) -> np.ndarray:
    array = array.copy()
    array[place] = value
    return array


def gaussian(sxy: Any = 3, compat: Any = 3, **options: Any) -> Callable[[], Any]:
    return lambda: model().addPairwiseGaussian(sxy, compat, **options)


def bilateral(sxy: Any = 80, srgb: Any = 13, rgbim: Any = IMAGE) -> Callable[[], Any]:
    return lambda: model().addPairwiseBilateral(sxy, srgb, rgbim, 10)


def free(features: Any, **options: Any) -> Callable[[], Any]:
    return lambda: model().addPairwiseEnergy(features, 3, **options)


def unary(u: Any, f: Any = None) -> Callable[[], Any]:
    return lambda: model().setUnaryEnergy(u, f)


def softmax(*args: Any, **options: Any) -> Callable[[], Any]:
    return lambda: utils.unary_from_softmax(*args, **options)


def labels(*args: Any, **options: Any) -> Callable[[], Any]:
    return lambda: utils.unary_from_labels(np.array(args[0]), *args[1:], **options)


def read_only() -> np.ndarray:
    q = model().inference(1)
    q.flags.writeable = False
    return q


class Bad(NamedTuple):
    original: str
    call: Callable[[], Any]
    error: str
    says: str


CASES = {
    # The model
    "labels -1": Bad("crash", lambda: dcrf.DenseCRF(4, -1).inference(1), "ValueError", "nlabels"),
    "labels 0": Bad("crash", lambda: dcrf.DenseCRF(4, 0).inference(1), "ValueError", "at least 1"),
    "pixels -4": Bad("crash", lambda: dcrf.DenseCRF(-4, 2).inference(1), "ValueError", "nvar"),
    "width 0": Bad(
        "silent",
        lambda: dcrf.DenseCRF2D(0, 3, 2).inference(1),
        "ValueError",
        "w must be at least 1",
    ),
    "labels NaN": Bad("error", lambda: dcrf.DenseCRF(4, NAN), "TypeError", "whole number"),
    "labels text": Bad("error", lambda: dcrf.DenseCRF(4, "2"), "TypeError", "whole number"),
    # Bandwidths
    "sxy 0": Bad("crash", gaussian(sxy=0), "ValueError", "sxy .* positive"),
    "sxy of zeros": Bad("crash", gaussian(sxy=(3, 0)), "ValueError", "positive"),
    "sxy NaN": Bad("crash", gaussian(sxy=NAN), "ValueError", "finite"),
    "sxy negative": Bad("silent", gaussian(sxy=-3), "ValueError", "positive"),
    "sxy 1e-7": Bad("silent", gaussian(sxy=1e-7), "ValueError", "bandwidth too small"),
    "sxy of one": Bad("error", gaussian(sxy=(3,)), "ValueError", "one number or 2"),
    "sxy text": Bad("error", gaussian(sxy="wide"), "TypeError", "sxy must be a number"),
    "bilateral sxy 0": Bad("crash", bilateral(sxy=0), "ValueError", "positive"),
    "srgb 0": Bad("crash", bilateral(srgb=0), "ValueError", "srgb .* positive"),
    "srgb NaN": Bad("crash", bilateral(srgb=(13, 13, NAN)), "ValueError", "finite"),
    "srgb of two": Bad("error", bilateral(srgb=(13, 13)), "ValueError", "one number or 3"),
    # Features and images
    "features NaN": Bad(
        "crash", free(with_value(POINTS, NAN, (1, 5))), "ValueError", r"features .* \(1, 5\)"
    ),
    "features infinite": Bad("crash", free(with_value(POINTS, INF, 0)), "ValueError", "infinity"),
    "features far": Bad("silent", free(POINTS * 1e7), "ValueError", "bandwidth too small"),
    "features empty": Bad("silent", free(POINTS[:0]), "ValueError", r"\(D, 12\); got \(0, 12\)"),
    "features transposed": Bad("error", free(POINTS.T), "ValueError", "Transpose"),
    "features 3-D": Bad("error", free(POINTS[None]), "ValueError", "2 axes"),
    "features None": Bad("error", free(None), "TypeError", "real numbers"),
    "features of 33": Bad("works", free(np.tile(POINTS[:1], (33, 1))), "ValueError", "1 to 32"),
    "image swapped": Bad(
        "error", bilateral(rgbim=IMAGE.transpose(1, 0, 2)), "ValueError", "look swapped"
    ),
    "image channels first": Bad(
        "error", bilateral(rgbim=IMAGE.transpose(2, 0, 1)), "ValueError", "channels last"
    ),
    "image other size": Bad("error", bilateral(rgbim=IMAGE[:2]), "ValueError", "h=3 and w=4"),
    "image NaN": Bad(
        "error", bilateral(rgbim=with_value(IMAGE * 1.0, NAN, 0)), "ValueError", "rgbim"
    ),
    "image without channels": Bad("error", bilateral(rgbim=IMAGE[..., :0]), "ValueError", "rgbim"),
    "image text": Bad("error", bilateral(rgbim="cat.png"), "TypeError", "real numbers"),
    # Compatibility and options
    "compat vector short": Bad(
        "silent", gaussian(compat=np.float32([1, 2, 3])), "ValueError", "for 2 labels"
    ),
    "compat matrix size": Bad(
        "silent", gaussian(compat=np.eye(3, dtype=np.float32)), "ValueError", "for 2 labels"
    ),
    "compat matrix oblong": Bad(
        "silent", gaussian(compat=np.ones((2, 3), np.float32)), "ValueError", r"\(2, 3\)"
    ),
    "compat 3-D": Bad(
        "error", gaussian(compat=np.ones((2, 2, 2))), "ValueError", "vector or a matrix"
    ),
    "compat NaN": Bad("silent", gaussian(compat=NAN), "ValueError", "compat"),
    "compat huge": Bad("silent", gaussian(compat=1e30), "ValueError", "overflow"),
    "compat complex": Bad("error", gaussian(compat=1j), "TypeError", "real numbers"),
    "compat None": Bad("error", gaussian(compat=None), "TypeError", "real numbers"),
    "normalization 7": Bad("silent", gaussian(normalization=7), "ValueError", "NORMALIZE_AFTER"),
    "kernel 9": Bad("silent", gaussian(kernel=9), "ValueError", "DIAG_KERNEL"),
    "kernel text": Bad("error", gaussian(kernel="diag"), "ValueError", "DIAG_KERNEL"),
    # Unary
    "unary NaN": Bad(
        "silent", unary(with_value(UNARY, NAN, (1, 7))), "ValueError", r"unary .* \(1, 7\)"
    ),
    "unary column infinite": Bad(
        "silent", unary(with_value(UNARY, INF, (slice(None), 3))), "ValueError", "the first at 3"
    ),
    "unary -infinite": Bad("silent", unary(with_value(UNARY, -INF, (0, 0))), "ValueError", "-inf"),
    "unary beyond float32": Bad("error", unary(np.full((C, N), 1e300)), "ValueError", "infinite"),
    "unary of an image": Bad("error", unary(UNARY.reshape(C, H, W)), "ValueError", "2 axes"),
    "unary transposed": Bad("error", unary(UNARY.T), "ValueError", "Transpose"),
    "unary complex": Bad("error", unary(UNARY * 1j), "TypeError", "real numbers"),
    "logistic mismatch": Bad("silent", unary(UNARY, POINTS), "ValueError", "f "),
    "setUnary None": Bad("crash", lambda: model().setUnary(None), "TypeError", "ConstUnary"),
    "setUnary array": Bad("error", lambda: model().setUnary(UNARY), "TypeError", "setUnaryEnergy"),
    "setUnary bare": Bad(
        "silent", lambda: model().setUnary(dcrf.Unary()), "TypeError", "ConstUnary"
    ),
    "setUnary labels": Bad(
        "silent", lambda: model().setUnary(dcrf.ConstUnary(UNARY[:1])), "ValueError", r"\(1, 12\)"
    ),
    "setUnary pixels": Bad(
        "silent",
        lambda: model().setUnary(dcrf.ConstUnary(UNARY[:, 1:].copy())),
        "ValueError",
        r"\(2, 11\)",
    ),
    # Inference
    "steps -1": Bad("silent", lambda: model().inference(-1), "ValueError", "niter"),
    "steps NaN": Bad("error", lambda: model().inference(NAN), "TypeError", "niter .* whole"),
    "step None": Bad("crash", lambda: model().stepInference(None, None, None), "TypeError", "Q"),
    "step read-only": Bad(
        "error", lambda: model().stepInference(read_only()), "TypeError", "writable"
    ),
    "step other size": Bad(
        "silent",
        lambda: model().stepInference(OTHER, eigen.MatrixXf(), eigen.MatrixXf()),
        "ValueError",
        r"\(2, 12\); got \(2, 5\)",
    ),
    "step list": Bad("error", lambda: model().stepInference([[0.5]]), "TypeError", "list"),
    "kl other size": Bad(
        "silent", lambda: with_pairwise().klDivergence(OTHER), "ValueError", r"\(2, 12\)"
    ),
    "kl empty": Bad(
        "silent", lambda: with_pairwise().klDivergence(eigen.MatrixXf()), "ValueError", "Q"
    ),
    "kl None": Bad("crash", lambda: model().klDivergence(None), "TypeError", "real numbers"),
    "kl NaN": Bad(
        "silent",
        lambda: model().klDivergence(eigen.matrixXf(UNARY * NAN)),
        "ValueError",
        "Q .* NaN",
    ),
    "matrix of a vector": Bad("error", lambda: eigen.matrixXf(UNARY[0]), "ValueError", "2 axes"),
    "vector of a matrix": Bad("error", lambda: eigen.vectorXf(UNARY), "ValueError", "1 axis"),
    # Utilities
    "softmax NaN": Bad("silent", softmax(with_value(UNARY, NAN, 0)), "ValueError", "sm"),
    "softmax empty": Bad("error", softmax(np.zeros((0, 4))), "ValueError", r"\(0, 4\)"),
    "softmax number": Bad("error", softmax(0.5), "ValueError", "first axis"),
    "softmax negative": Bad("silent", softmax(-UNARY, clip=None), "ValueError", "probabilities"),
    "softmax scale 0": Bad("error", softmax(UNARY / 2, scale=0), "ValueError", "scale"),
    "softmax scale 2": Bad("error", softmax(UNARY / 2, 2), "ValueError", "scale"),
    "labels one": Bad("error", labels([0, 0], 1, 0.7, False), "ValueError", "two labels"),
    "labels sure": Bad("error", labels([0, 1], 2, 1.0), "ValueError", "gt_prob"),
    "labels unsure": Bad("error", labels([0, 1], 2, 0), "ValueError", "gt_prob"),
    "labels high": Bad("error", labels([0, 3], 2, 0.7), "ValueError", "zero_unsure=False"),
    "labels high and sure": Bad("error", labels([0, 2], 2, 0.7, False), "ValueError", r"0\.\.1"),
    "labels negative": Bad("silent", labels([-1, 1], 2, 0.7, False), "ValueError", "-1 to 1"),
    "labels 255": Bad("error", labels(np.uint8([0, 255]), 2, 0.7), "ValueError", "0 to 255"),
    "labels fractional": Bad("error", labels([0.5, 1], 2, 0.7), "ValueError", "whole"),
    "labels empty": Bad("error", labels([], 2, 0.7), "ValueError", "empty"),
    "sdims 0": Bad(
        "silent", lambda: utils.create_pairwise_gaussian((0, 3), (H, W)), "ValueError", "sdims"
    ),
    "sdims of one": Bad(
        "silent",
        lambda: utils.create_pairwise_gaussian((3,), (H, W)),
        "ValueError",
        "each of 2 axes",
    ),
    "sdims text": Bad(
        "error", lambda: utils.create_pairwise_gaussian("ab", (H, W)), "TypeError", "sdims"
    ),
    "schan 0": Bad(
        "silent",
        lambda: utils.create_pairwise_bilateral((3, 3), 0, IMAGE, 2),
        "ValueError",
        "schan",
    ),
    "schan of four": Bad(
        "error",
        lambda: utils.create_pairwise_bilateral((3, 3), [9] * 4, IMAGE, 2),
        "ValueError",
        "one for each of 3 channels",
    ),
    "sdims of four": Bad(
        "error",
        lambda: utils.create_pairwise_bilateral([3] * 4, 9, IMAGE),
        "ValueError",
        "one for each of 3 axes",
    ),
    "chdim 5": Bad(
        "error", lambda: utils.create_pairwise_bilateral((3, 3), 9, IMAGE, 5), "ValueError", "chdim"
    ),
    "features image NaN": Bad(
        "silent",
        lambda: utils.create_pairwise_bilateral((3, 3), 9, with_value(IMAGE * 1.0, NAN, 0), 2),
        "ValueError",
        "img",
    ),
}
if torch is not None:
    CASES["unary with gradient"] = Bad(
        "error", unary(torch.tensor(UNARY, requires_grad=True)), "TypeError", r"detach\(\)"
    )


def in_own_process(call: Callable[[], Any]) -> tuple[str, str]:
    """The type and the text of the error that `call` raises, or the signal that ended it."""
    if not hasattr(os, "fork"):
        return _outcome(call)
    sys.stdout.flush()
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of fork beside threads
        child = os.fork()
    if child == 0:
        signal.alarm(30)
        os.write(writer, "\n".join(_outcome(call)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        kind, _, text = pipe.read().partition("\n")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return (kind, text) if status == 0 else ("crash", f"exit status {status}")


def _outcome(call: Callable[[], Any]) -> tuple[str, str]:
    try:
        call()
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", ""


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_an_error(name: str) -> None:
    bad = CASES[name]
    kind, text = in_own_process(bad.call)
    assert kind == bad.error, text
    with pytest.raises(ValueError, match=bad.says):
        raise ValueError(text)


def test_a_crash_is_seen() -> None:
    def crash() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if hasattr(os, "fork"):
        assert in_own_process(crash) == ("crash", f"exit status {-signal.SIGKILL}")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: utils.unary_from_softmax(np.array([[-3.0], [4.0]])), "softmax first"),
        (bilateral(rgbim=IMAGE / 255), "multiply an image on 0..1 by 255"),
        (lambda: dcrf.DenseCRF(4, 1), "one label"),
        (lambda: model().inference(2.5), "niter=2.5 .* 2 is used"),
        (lambda: utils.create_pairwise_bilateral((3, 3), (9,), IMAGE, 2), "1 of 3 channels"),
        (lambda: utils.create_pairwise_bilateral((3, 3), 9, IMAGE), "2 of 3 axes"),
    ],
    ids=[
        "logits as probabilities",
        "image in 0..1",
        "one label",
        "fraction",
        "short schan",
        "no chdim",
    ],
)
def test_likely_mistakes_warn(call: Callable[[], Any], says: str) -> None:
    with pytest.warns(UserWarning, match=says):
        call()


def test_a_unary_of_three_axes_is_answered_with_what_to_type() -> None:
    with pytest.raises(ValueError, match=r"u must have 2 axes.*u\.reshape\(3, -1\)"):
        dcrf.DenseCRF2D(6, 4, 3).setUnaryEnergy(np.zeros((3, 4, 6), np.float32))
