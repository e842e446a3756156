"""A kernel defined outside the library works everywhere, and nothing but itself describes it."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from crfrnn import CRFRNN, Bilateral, FeatureGaussian, Gaussian, refine
from crfrnn.crf.filters import GridFilter
from crfrnn.crf.kernel import Kernel, Number, Scene
from crfrnn.io.storage import CONFIG
from crfrnn.presets import PRESETS, Preset, find_preset, write_preset
from crfrnn.training import CrfConfig, read_config
from crfrnn.training.settings import same, to_tree, to_yaml
from tests.cases import ENGINES, NORMALIZATIONS, TOLERANCE, build_filters

DOUBLE = torch.float64
SIZE = (5, 7)
CENTER = (0.25, 0.6)


@dataclass(frozen=True)
class Distance(Kernel):
    """Compares pixels by their distance to a centre, and by the channels of the image."""

    distance: Number = 2.0
    color: Number = 60.0
    weight: Number = 1.0
    center: tuple[float, float] = (0.5, 0.5)
    norm: str = "euclidean"

    def bandwidths(self) -> dict[str, Number]:
        return {"distance": self.distance, "color": self.color}

    def maps(self, scene: Scene) -> Mapping[str, Sequence[Tensor]]:
        x, y = scene.positions()
        height, width = scene.like.shape[2:]
        dx, dy = x - self.center[0] * (width - 1), y - self.center[1] * (height - 1)
        far = torch.hypot(dx, dy) if self.norm == "euclidean" else dx.abs() + dy.abs()
        return {"distance": [far], "color": scene.image_channels(self)}


@dataclass(frozen=True)
class Hue(Kernel):
    """Compares pixels by the angle of their hue, on the unit circle."""

    angle: Number = 0.5
    weight: Number = 1.0
    turn: float = 0.0

    def bandwidths(self) -> dict[str, Number]:
        return {"angle": self.angle}

    def maps(self, scene: Scene) -> Mapping[str, Sequence[Tensor]]:
        red, green, blue = scene.image_channels(self)
        angle = torch.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue) + self.turn
        return {"angle": [angle.cos(), angle.sin()]}


@dataclass(frozen=True)
class Smooth(Kernel):
    """A `Gaussian` by another name."""

    position: Number = 2.0
    weight: Number = 1.0

    def bandwidths(self) -> dict[str, Number]:
        return {"position": self.position}

    def maps(self, scene: Scene) -> Mapping[str, Sequence[Tensor]]:
        return {"position": scene.positions()}

    def is_separable(self) -> bool:
        return True


KERNEL = Distance(distance=1.5, color=(50, 70, 90), weight=2, center=CENTER)
HUE = Hue(angle=0.4, weight=1.5, turn=0.3)
KERNELS = [KERNEL, HUE]


def scene(batch: int = 2, dtype: torch.dtype = DOUBLE) -> tuple[Tensor, Tensor]:
    logits = torch.randn(batch, 3, *SIZE, dtype=dtype)
    return logits, torch.rand(batch, 3, *SIZE, dtype=dtype) * 255


def distances(batch: int, dtype: torch.dtype) -> Tensor:
    """(B, 1, H, W), spelled out."""
    height, width = SIZE
    rows = [
        [
            math.hypot(x - CENTER[0] * (width - 1), y - CENTER[1] * (height - 1))
            for x in range(width)
        ]
        for y in range(height)
    ]
    return torch.tensor(rows, dtype=dtype).expand(batch, 1, *SIZE)


def hues(image: Tensor) -> Tensor:
    """(B, 2, H, W)."""
    red, green, blue = image.unbind(1)
    angle = torch.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue) + HUE.turn
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def twins(image: Tensor) -> tuple[list[FeatureGaussian], list[Tensor]]:
    """The same two kernels as Gaussians over precomputed maps."""
    joined = torch.cat([distances(len(image), image.dtype), image], dim=1)
    kernels = [
        FeatureGaussian(0, (1.5, 50, 70, 90), weight=2),
        FeatureGaussian(1, 0.4, weight=1.5),
    ]
    return kernels, [joined, hues(image)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_refine_equals_feature_kernels(filter, normalization, masked, engine) -> None:
    logits, image = scene()
    kernels, maps = twins(image)
    options = {
        "logits": logits,
        "filter": filter,
        "normalization": normalization,
        "mask": torch.rand(2, *SIZE) > 0.3 if masked else None,
        "iterations": 3,
        "engine": engine,
        "channels_last": False,
    }
    ours = refine(image, kernels=KERNELS, **options)
    expected = refine(None, kernels=kernels, features=maps, **options)
    torch.testing.assert_close(ours.probs, expected.probs, **TOLERANCE[DOUBLE])
    none = refine(image, kernels=[Gaussian()], **options)
    assert (none.probs - ours.probs).abs().max() > 1e-2


@pytest.mark.parametrize("filter", ["lattice", "exact"])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_the_layer_learns_its_bandwidths(dtype: torch.dtype, filter: str) -> None:
    """Forward and every gradient are those of feature kernels, whose maps hold the colours too."""
    logits, image = scene(dtype=dtype)
    kernels, maps = twins(image)
    options = {"iterations": 2, "filter": filter, "learn_bandwidths": True}
    ours = CRFRNN(3, KERNELS, **options).to(dtype)
    other = CRFRNN(3, kernels, **options).to(dtype)
    assert ours.current_kernels()[0].norm == "euclidean"
    own, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = torch.randn_like(logits)
    out, expected = ours(own, image), other(theirs, None, features=maps)
    torch.testing.assert_close(out, expected, **TOLERANCE[dtype])
    (out * loss).sum().backward()
    (expected * loss).sum().backward()
    torch.testing.assert_close(own.grad, theirs.grad, **TOLERANCE[dtype])
    for name in ("kernel_weights", "compatibility"):
        one, two = getattr(ours, name).grad, getattr(other, name).grad
        torch.testing.assert_close(one, two, **TOLERANCE[dtype])
    first, second = ours.log_bandwidths
    assert {name: tuple(log.shape) for name, log in first.items()} == {
        "distance": (),
        "color": (3,),
    }
    joined = torch.cat([first["distance"].grad[None], first["color"].grad])
    torch.testing.assert_close(
        joined, other.log_bandwidths[0]["bandwidth"].grad, **TOLERANCE[dtype]
    )
    torch.testing.assert_close(
        second["angle"].grad, other.log_bandwidths[1]["bandwidth"].grad, **TOLERANCE[dtype]
    )
    assert all(float(log.grad.abs().max()) > 0 for log in (first["distance"], second["angle"]))


@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_gradcheck_of_the_bandwidths(filter: str) -> None:
    logits, image = scene(batch=1)
    layer = CRFRNN(3, KERNELS, iterations=2, filter=filter, learn_bandwidths=True).double()
    names = [f"log_bandwidths.{name}" for name in ("0.distance", "0.color", "1.angle")]
    logs = [dict(layer.named_parameters())[name].detach().requires_grad_() for name in names]

    def run(*values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(layer, given, (logits, image))

    assert torch.autograd.gradcheck(run, logs, fast_mode=False)


def test_it_saves_and_loads(tmp_path: Path) -> None:
    logits, image = scene(dtype=torch.float32)
    layer = CRFRNN(3, [*KERNELS, Gaussian(2)], learn_bandwidths=True).eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    layer.save_pretrained(tmp_path)
    entry = json.loads((tmp_path / CONFIG).read_text())["crf"]["kernels"][0]
    assert entry == {
        "kind": "Distance",
        "distance": 1.5,
        "color": [50, 70, 90],
        "weight": 2,
        "center": [0.25, 0.6],
        "norm": "euclidean",
    }
    again = CRFRNN.from_pretrained(tmp_path)
    assert again.recipe.kernels == layer.recipe.kernels
    torch.testing.assert_close(again(logits, image), layer(logits, image), rtol=0, atol=0)
    # Prepared filters pass between the two.
    with torch.no_grad():
        prepared = layer.prepare(image)
        torch.testing.assert_close(again(logits, prepared), layer(logits, image), rtol=0, atol=0)


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_preset_files_hold_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    kernels = (*KERNELS, FeatureGaussian(0, (1, 2), 3.0), Bilateral(9, (4, 5, 6)))
    preset = Preset("mine", kernels, 3, "after", "tests", "me")
    write_preset(path, preset)
    assert find_preset(str(path)) == preset

    logits, image = scene()
    write_preset(path, dataclasses.replace(preset, kernels=tuple(KERNELS)))
    options = {"logits": logits, "channels_last": False}
    named = refine(image, preset=str(path), **options)
    listed = refine(image, kernels=KERNELS, iterations=3, normalization="after", **options)
    torch.testing.assert_close(named.probs, listed.probs, rtol=0, atol=0)
    assert CRFRNN.from_preset(str(path), 3).recipe.kernels == tuple(KERNELS)


def test_a_preset_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = Preset("distance", (KERNEL,), 2, "symmetric", "", "")
    monkeypatch.setitem(PRESETS, "distance", preset)
    logits, image = scene()
    named = refine(image, logits=logits, preset="distance", channels_last=False)
    listed = refine(image, logits=logits, kernels=[KERNEL], iterations=2, channels_last=False)
    torch.testing.assert_close(named.probs, listed.probs, rtol=0, atol=0)


def test_training_configurations_hold_it(tmp_path: Path) -> None:
    config = CrfConfig(kernels=(KERNEL, HUE, Gaussian(1.5, 1)), learn_bandwidths=True)
    path = tmp_path / "crf.yaml"
    path.write_text(to_yaml(config))
    assert read_config(CrfConfig, path) == config
    assert same(json.loads(json.dumps(to_tree(config))), config)
    assert config.make(3).recipe.kernels == config.kernels
    changed = read_config(CrfConfig, path, ["kernels.0.distance=1e-1", "kernels.0.norm=city"])
    assert changed.kernels[0] == dataclasses.replace(KERNEL, distance=0.1, norm="city")


def test_old_files_of_training_are_read(tmp_path: Path) -> None:
    """Which had `color: null` for a Gaussian, and no `lattice`."""
    path = tmp_path / "crf.yaml"
    gaussian = {"kind": "Gaussian", "position": 1.5, "weight": 1.0, "color": None}
    path.write_text(f"kernels: {json.dumps([gaussian])}")
    config = read_config(CrfConfig, path)
    assert config.kernels == (Gaussian(1.5, 1.0),)
    assert same({**to_tree(config), "kernels": [gaussian]}, config)
    assert not same({**to_tree(config), "kernels": [{**gaussian, "weight": 2.0}]}, config)


def test_a_separable_kernel_says_so() -> None:
    """And so runs as a convolution, as a `Gaussian` does."""
    logits, _ = scene()
    for kernel in (Smooth((2, 3)), Gaussian((2, 3))):
        (filter,) = build_filters(
            [kernel], logits, None, (), normalization="after", filter="lattice"
        )
        assert isinstance(filter.gaussian, GridFilter)
    options = {"logits": logits, "channels_last": False}
    one = refine(None, kernels=[Smooth((2, 3))], **options)
    other = refine(None, kernels=[Gaussian((2, 3), 1)], **options)
    torch.testing.assert_close(one.probs, other.probs, rtol=0, atol=0)


@pytest.mark.unchecked
def test_what_it_cannot_do_is_refused() -> None:
    logits, image = scene()
    for call, match in {
        lambda: Distance(distance=-1): r"Distance distance is a standard deviation and must be pos",
        lambda: Distance(weight=math.inf): r"Distance weight must be finite",
        lambda: refine(None, logits=logits, kernels=[HUE]): r"a Hue kernel needs an image",
        lambda: refine(image, logits=logits, kernels=[Hue((1, 2, 3))]): (
            r"Hue angle has 3 numbers for 2 channels; give one, or 2"
        ),
        lambda: refine(image, logits=logits, kernels=[Distance(color=(1, 2))]): (
            r"Distance color has 2 numbers for 3 image channels; give one, or 3"
        ),
        lambda: Kernel.from_dict({"kind": "Box"}): (
            r"unknown kind 'Box'; expected one of: Gaussian, Bilateral, FeatureGaussian.* Import"
        ),
        lambda: Kernel.from_dict({"position": 3}): r"a kernel needs its kind, one of: Gaussian",
        lambda: Kernel.from_dict({"kind": "Hue", "radius": 1}): (
            r"unknown field of Hue 'radius'; expected one of: angle, weight, turn"
        ),
    }.items():
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(TypeError, match=r"abstract"):
        type("Unsaid", (Kernel,), {})()
    with pytest.raises(ValueError, match=r"Gaussian is already a kernel of this library"):
        type("Gaussian", (Kernel,), {})


@pytest.mark.unchecked
def test_maps_that_do_not_fit_the_bandwidths_are_refused() -> None:
    logits, image = scene()

    @dataclass(frozen=True)
    class Bare(Hue):
        def maps(self, scene: Scene) -> Mapping[str, Sequence[Tensor]]:
            return {"angle": scene.image[:, 0]}

    @dataclass(frozen=True)
    class Misnamed(Hue):
        def maps(self, scene: Scene) -> Mapping[str, Sequence[Tensor]]:
            return {"hue": [scene.image[:, 0]]}

    for kernel in (Bare(), Misnamed()):
        with pytest.raises(ValueError, match=r"maps must give a list of maps for each of angle"):
            refine(image, logits=logits, kernels=[kernel])
