"""Every public function that takes arrays, with every kind of array that it does not take.

Each call ends in a result that is finite, or in one TypeError or ValueError of the library that
names the argument: never in an error from torch, NumPy or the core.
"""

from __future__ import annotations

import re
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import crfrnn
from crfrnn import (
    CRFRNN,
    DenseCRFLoss,
    FeatureGaussian,
    Gaussian,
    InputWarning,
    Lattice,
    Neighborhood,
    PottsLoss,
    Segmenter,
    Upsample,
    free_energy,
    gaussian_filter,
    mean_field,
    refine,
    soft_cross_entropy,
    upsample,
)

pytestmark = [
    pytest.mark.unchecked,
    pytest.mark.filterwarnings("ignore:.*nested tensors"),
    pytest.mark.filterwarnings("ignore:.*MaskedTensors"),
    pytest.mark.filterwarnings("ignore:.*CSR"),
    pytest.mark.filterwarnings("ignore:.*quantize"),
    pytest.mark.filterwarnings("ignore:.*matrix subclass:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:the image has values in 0..1"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script"),
]

PACKAGE = str(Path(crfrnn.__file__).parent)

Z, IMAGE = torch.randn(2, 3, 5, 7), torch.rand(2, 3, 5, 7) * 255
MASK = torch.rand(2, 5, 7) > 0.2
POTTS = 1 - torch.eye(3)
POINTS, VALUES = torch.randn(20, 3), torch.rand(20, 2)
SAME = [lambda q: q]
NEAR = PottsLoss(log=True, neighbors=Neighborhood())


def layer(**options: Any) -> CRFRNN:
    return CRFRNN(3, iterations=2, **options)


#: A call with one argument replaced by what the test gives, and what it is by default.
DOORS: dict[str, tuple[Callable[[Any], Any], Tensor]] = {
    "refine: image": (lambda a: refine(a, logits=Z).probs, IMAGE),
    "refine: logits": (lambda a: refine(IMAGE, logits=a).probs, Z),
    "refine: probs": (lambda a: refine(IMAGE, probs=a).probs, Z.softmax(1)),
    "refine: energy": (lambda a: refine(IMAGE, energy=a).probs, -Z),
    "refine: labels": (lambda a: refine(IMAGE, labels=a).probs, MASK.long()),
    "refine: masks": (lambda a: refine(IMAGE, masks=a).probs, torch.rand(2, 4, 5, 7)),
    "refine: mask": (lambda a: refine(IMAGE, logits=Z, mask=a).probs, MASK),
    "refine: compatibility": (lambda a: refine(IMAGE, logits=Z, compatibility=a).probs, POTTS),
    "refine: features": (
        lambda a: refine(None, logits=Z, kernels=[FeatureGaussian()], features=[a]).probs,
        IMAGE,
    ),
    "gaussian_filter: values": (lambda a: gaussian_filter(a, POINTS), VALUES),
    "gaussian_filter: features": (lambda a: gaussian_filter(VALUES, a), POINTS),
    "gaussian_filter: targets": (lambda a: gaussian_filter(VALUES, POINTS, targets=a), POINTS),
    "gaussian_filter: exact": (lambda a: gaussian_filter(a, POINTS, method="exact"), VALUES),
    "Lattice: features": (lambda a: Lattice(a).filter(VALUES), POINTS),
    "Lattice: targets": (lambda a: Lattice(POINTS, targets=a).filter(VALUES), POINTS),
    "Lattice.filter: values": (lambda a: Lattice(POINTS).filter(a), VALUES),
    "upsample: values": (lambda a: upsample(a, IMAGE), Z[:, :, :2, :3]),
    "upsample: image": (lambda a: upsample(Z[:, :, :2, :3], a), IMAGE),
    "Upsample: values": (lambda a: Upsample()(a, IMAGE), Z[:, :, :2, :3]),
    "Upsample: image": (lambda a: Upsample()(Z[:, :, :2, :3], a), IMAGE),
    "CRFRNN: logits": (lambda a: layer()(a, IMAGE), Z),
    "CRFRNN: image": (lambda a: layer()(Z, a), IMAGE),
    "CRFRNN: mask": (lambda a: layer()(Z, IMAGE, mask=a), MASK),
    "CRFRNN: features": (lambda a: layer(kernels=[FeatureGaussian()])(Z, features=[a]), IMAGE),
    "CRFRNN: compatibility": (lambda a: layer(compatibility=a)(Z, IMAGE), POTTS),
    "CRFRNN: independent": (lambda a: layer(independent=True)(a, IMAGE), Z),
    "CRFRNN: prepare": (lambda a: layer()(Z, layer().prepare(a)), IMAGE),
    "CRFRNN: infer": (lambda a: layer().infer(a, IMAGE, trace=True).logits, Z),
    "DenseCRFLoss: logits": (lambda a: DenseCRFLoss()(a, IMAGE), Z),
    "DenseCRFLoss: image": (lambda a: DenseCRFLoss()(Z, a), IMAGE),
    "DenseCRFLoss: mask": (lambda a: DenseCRFLoss()(Z, IMAGE, mask=a), MASK),
    "PottsLoss: logits": (lambda a: NEAR(a, IMAGE), Z),
    "PottsLoss: image": (lambda a: NEAR(Z, a), IMAGE),
    "PottsLoss: mask": (lambda a: NEAR(Z, IMAGE, mask=a), MASK),
    "PottsLoss: self_labels": (lambda a: NEAR.self_labels(Z, IMAGE, a, steps=1), MASK.long()),
    "soft_cross_entropy: logits": (lambda a: soft_cross_entropy(a, Z.softmax(1)), Z),
    "soft_cross_entropy: soft_labels": (lambda a: soft_cross_entropy(Z, a), Z.softmax(1)),
    "Segmenter: image": (lambda a: Segmenter(nn.Conv2d(3, 3, 1), layer())(a), IMAGE / 255),
    "Segmenter: guide": (lambda a: Segmenter(nn.Conv2d(3, 3, 1), layer())(IMAGE / 255, a), IMAGE),
    "mean_field: unary": (lambda a: mean_field(a, SAME, torch.ones(1), POTTS, 2), Z),
    "mean_field: weights": (lambda a: mean_field(Z, SAME, a, POTTS, 2), torch.ones(1)),
    "mean_field: compatibility": (lambda a: mean_field(Z, SAME, torch.ones(1), a, 2), POTTS),
    "free_energy: unary": (lambda a: free_energy(a, Z.softmax(1), SAME, torch.ones(1), POTTS), Z),
    "free_energy: q": (lambda a: free_energy(Z, a, SAME, torch.ones(1), POTTS), Z.softmax(1)),
}


def _numbers(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.numpy())


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "complex": lambda a: a.to(torch.complex64),
    "complex array": lambda a: _numbers(a).astype(complex),
    "a conjugate's imaginary part": lambda a: (a.to(torch.complex64) * 1j).conj().imag * -1,
    "a negative view": lambda a: torch.complex(a.float() * 0, -a.float()).conj().imag,
    "quantized": lambda a: torch.quantize_per_tensor(a.float(), 0.1, 0, torch.quint8),
    "sparse": lambda a: a.to_sparse(),
    "sparse rows": lambda a: a.reshape(a.shape[0], -1).to_sparse_csr(),
    "meta": lambda a: a.to("meta"),
    "nested": lambda a: torch.nested.nested_tensor(list(a)),
    "jagged": lambda a: torch.nested.nested_tensor(
        list(a[:, None] if a.dim() == 1 else a), layout=torch.jagged
    ),
    "float8": lambda a: a.to(torch.float8_e4m3fn),
    "float8 scale": lambda a: a.float().abs().to(torch.float8_e8m0fnu),
    "masked tensor": lambda a: torch.masked.masked_tensor(a, torch.ones_like(a, dtype=torch.bool)),
    "masked array": lambda a: np.ma.masked_less(_numbers(a), 0),
    "matrix": lambda a: np.matrix(_numbers(a).reshape(a.shape[0], -1)),
    "memoryview": lambda a: memoryview(_numbers(a)),
    "list": lambda a: a.tolist(),
    "ragged list": lambda a: [[1.0, 2.0], [3.0]],
    "objects": lambda a: _numbers(a).astype(object),
    "huge integer": lambda a: [[10**400]],
    "dates": lambda a: _numbers(a).astype("M8[s]"),
    "records": lambda a: np.zeros(a.shape, [("x", "f4")]),
    "text": lambda a: "scores.npy",
    "bytes": lambda a: b"1",
    "None": lambda a: None,
    "a set": lambda a: {1, 2},
    "a generator": lambda a: (i for i in a),
    "a dictionary": lambda a: {"out": a},
    "a module": lambda a: nn.Identity(),
    "a number": lambda a: 3.0,
    "no items": lambda a: a[:0],
    "an empty axis": lambda a: a[..., :0],
    "half": lambda a: a.half(),
    "bfloat16": lambda a: a.bfloat16(),
    "wide": lambda a: _numbers(a).astype(np.longdouble),
    "beyond floats": lambda a: _numbers(a).astype(np.longdouble) * np.longdouble("1e4000"),
    "big-endian": lambda a: _numbers(a).astype(_numbers(a).dtype.newbyteorder(">")),
    "unsigned": lambda a: a.float().abs().numpy().astype(np.uint16),
    "integers": lambda a: a.int(),
    "bool": lambda a: a > 0,
    "one beyond": lambda a: torch.cat([a, a[:1]]),
}


def check(call: Callable[[], Any]) -> None:
    """Expect a finite result, or an error that the library raised itself, on one clear line."""
    result, error = outcome(call)
    if error is None:
        assert torch.as_tensor(result).detach().double().isfinite().all()
        return
    last = traceback.extract_tb(error.__traceback__)[-1]
    assert last.filename.startswith(PACKAGE), f"from {last.filename}: {error}"
    assert re.search(r"must|got|are on|not finite|both|axis|empty|expected", str(error)), error
    assert len(str(error)) < 500, error


def outcome(call: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """The result of a call, or its error."""
    try:
        return call(), None
    except (TypeError, ValueError) as error:
        return None, error


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("door", DOORS)
def test_what_comes_in(door: str, form: str) -> None:
    call, default = DOORS[door]
    given = FORMS[form](default)
    if given is None and door in ("refine: mask", "refine: compatibility", "CRFRNN: mask"):
        return  # the default
    if door == "Segmenter: image" and form in ("half", "bfloat16"):
        return  # torch says that the network is of another type
    check(lambda: call(given))


NUMBERS: dict[str, tuple[Callable[[], Any], str]] = {
    "weight": (lambda: Gaussian(weight=10**400), "weight must be finite; got an integer of 1329"),
    "position": (lambda: Gaussian(position=10**400), "position is a standard deviation and must"),
    "iterations": (
        lambda: refine(IMAGE, logits=Z, iterations=10**30),
        "iterations must be below 2147483648; got an integer of 100 bits",
    ),
    "classes": (lambda: CRFRNN(10**9), r"num_classes = 1000000000 asks for .* GiB of memory"),
    "labels": (
        lambda: refine(IMAGE, labels=MASK.long() * 10**12),
        r"labels go up to 1000000000000, .*np.unique",
    ),
    "many classes": (
        lambda: refine(IMAGE, labels=MASK.long(), num_classes=10**10),
        "num_classes must be below 2147483648",
    ),
    "tables": (
        lambda: refine(IMAGE, labels=MASK.long(), num_classes=2 * 10**9),
        r"num_classes = 2000000000 asks for .* GiB of memory. Is num_classes right",
    ),
    "mixed types": (
        lambda: mean_field(Z.double(), SAME, torch.ones(1), POTTS, 2),
        r"weights must be torch.float64 on cpu as unary is; got torch.float32.*weights.to\(unary\)",
    ),
    "mixed devices": (
        lambda: free_energy(Z, Z.softmax(1), SAME, torch.ones(1, device="meta"), POTTS),
        "weights must have values; got a tensor on the device meta",
    ),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_without_measure(case: str) -> None:
    call, message = NUMBERS[case]
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_label_maps_of_many_classes_are_taken_if_that_is_meant() -> None:
    labels = np.zeros((5, 7), np.int64)
    labels[2, 3] = 1100
    image = np.zeros((5, 7, 3), np.uint8)
    assert refine(image, labels=labels, num_classes=1101).probs.shape == (1101, 5, 7)
    labels[2, 3] = 1023
    assert refine(image, labels=labels).probs.shape == (1024, 5, 7)


# --- Results that overflow. ---


@pytest.mark.parametrize("container", [np.asarray, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
@pytest.mark.parametrize("share", [1e-3, 0.9, 1.0])
def test_values_near_the_end_of_their_type(share: float, name: str, container: Any) -> None:
    most = float(np.finfo(name).max) * share
    values = container(np.full((20, 2), most).astype(name))
    for points in (container(_numbers(POINTS)), container(_numbers(POINTS) * 0)):
        for call in (
            lambda points=points: gaussian_filter(values, points),
            lambda points=points: gaussian_filter(values, points, method="exact"),
            lambda points=points: gaussian_filter(values, points, targets=points[:5]),
            lambda points=points: gaussian_filter(values, points, normalization="after"),
            lambda points=points: Lattice(points).filter(values),
            lambda points=points: Lattice(points).filter(values, reverse=True),
        ):
            result, error = outcome(call)
            if error is None:
                assert np.isfinite(np.asarray(result)).all()
            else:
                assert f"not finite in {name}, from values up to" in str(error)


def test_what_is_nan_in_the_values_is_nan_in_the_result() -> None:
    values = VALUES.clone()
    values[3] = float("nan")
    assert gaussian_filter(values, POINTS * 0).isnan().all()


@pytest.mark.parametrize("size", [1e20, 1e30, 1e37, 3e38])
@pytest.mark.parametrize("options", [{}, {"filter": "exact"}, {"weights": "matrix"}, {"tol": 0.1}])
def test_parameters_of_a_layer_without_measure(size: float, options: dict[str, Any]) -> None:
    for name in ("kernel_weights", "compatibility", "logits"):
        crf = layer(**options).eval()
        z = Z * size if name == "logits" else Z
        if name != "logits":
            getattr(crf, name).data.mul_(size)
        result, error = outcome(lambda crf=crf, z=z: crf(z, IMAGE))
        if error is None:
            assert result.isfinite().all()
        else:
            assert re.search(rf"{name} (up to|is not finite)|{name} must be finite", str(error))


def test_kernel_weights_beyond_the_layers_type() -> None:
    with pytest.raises(ValueError, match="kernel weights in float32 must be finite"):
        CRFRNN(3, [Gaussian(weight=1e39)])
    with pytest.raises(ValueError, match=r"DenseCRFLoss: kernel weights in torch.float32 must"):
        DenseCRFLoss([Gaussian(weight=1e39)])(Z, IMAGE)
    with pytest.raises(ValueError, match=r"DenseCRFLoss: the result is not finite.*weights up to"):
        DenseCRFLoss([Gaussian(weight=3e38)], normalization="none")(Z, IMAGE)


# --- Scores of another kind than their argument says. ---


def scores(classes: int = 5, size: tuple[int, ...] = (12, 14)) -> Tensor:
    return 3 * torch.randn(1, classes, *size)


WRONG: dict[str, tuple[str, Callable[[], Tensor], str]] = {
    "softmax": ("logits", lambda: scores().softmax(1), "sum to 1 over the classes.*probabilities"),
    "softmax of 21 in 8 bits": (
        "logits",
        lambda: (scores(21).softmax(1) * 255).round() / 255,
        "sum to 1 over the classes",
    ),
    "softmax of 150 in half": ("logits", lambda: scores(150).softmax(1).half().float(), "sum to 1"),
    "sigmoid": ("logits", lambda: (4 * scores(1)).sigmoid(), "most of them near 0 or 1"),
    "energies": ("logits", lambda: -scores().log_softmax(1), "look like energies -log P"),
    "energies of two": ("logits", lambda: -scores(2).log_softmax(1), "look like energies -log P"),
    "log P": ("energy", lambda: scores().log_softmax(1), "looks like log P. .*Change the sign"),
    "softmax as energies": ("energy", lambda: scores().softmax(1), "least likely class win"),
}


@pytest.mark.parametrize("case", WRONG)
def test_scores_of_another_kind(case: str) -> None:
    name, make, message = WRONG[case]
    wrong = make()
    image = torch.rand(1, 3, 12, 14) * 255
    with pytest.warns(InputWarning, match=message):
        refine(image, **{name: wrong})
    with pytest.warns(InputWarning, match=message):
        refine(image[0].numpy(), **{name: wrong[0].double().numpy()})
    if name == "logits":
        crf = CRFRNN(wrong.shape[1], independent=wrong.shape[1] == 1)
        fixed = type("Network", (nn.Module,), {"forward": lambda self, image: wrong})()
        for call in (
            lambda: crf(wrong, image),
            lambda: DenseCRFLoss()(wrong, image),
            lambda: Segmenter(fixed, crf)(image / 255),
        ):
            with pytest.warns(InputWarning, match=message):
                call()
    else:
        from crfrnn.pydensecrf.densecrf import DenseCRF2D

        with pytest.warns(InputWarning, match=message):
            DenseCRF2D(14, 12, wrong.shape[1]).setUnaryEnergy(wrong[0].flatten(1).numpy())


AT_LINES = """\
import torch, crfrnn
p, image = torch.rand(1, 3, 8, 9).softmax(1) ** 9, torch.rand(1, 3, 8, 9) * 255
p = p / p.sum(1, keepdim=True)
crf = crfrnn.CRFRNN(3)
crfrnn.refine(image, logits=p)
crf(p, image)
torch.nn.Sequential(crfrnn.Segmenter(torch.nn.Identity(), crf, image_range=1 / 255))(p)
"""


def test_a_warning_is_shown_at_the_line_of_the_user(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(AT_LINES, encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert re.findall(r"script.py:(\d+): InputWarning", done.stderr) == ["5", "6", "7"]


@pytest.mark.parametrize("seed", range(10))
def test_scores_of_their_own_kind_pass(seed: int) -> None:
    torch.manual_seed(seed)
    image = torch.rand(1, 3, 6, 7) * 255
    for classes in (1, 2, 3, 21):
        z = scores(classes, (6, 7))
        hot = nn.functional.one_hot(z.argmax(1), classes).movedim(-1, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for logits in (z, 8.0 * hot, z.relu(), torch.rand_like(z), torch.zeros_like(z)):
                refine(image, logits=logits)
            refine(image, logits=torch.full_like(z, 1 / classes))
            if classes > 1:
                refine(image, logits=z.log_softmax(1))
                refine(image, energy=-z.log_softmax(1))
                refine(image, energy=-z)
