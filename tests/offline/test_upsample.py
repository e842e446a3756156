"""Joint bilateral upsampling: against the plain sum, its laws, pixel centers, gradients, errors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crfrnn import upsample
from tests.cases import TOLERANCE, needs_torch

try:
    import torch
except ModuleNotFoundError:  # `make test-offline`
    torch = None

GRIDS = [(5, 7, 31, 40), (1, 1, 3, 4), (4, 4, 4, 4), (3, 5, 17, 5), (2, 1, 9, 8), (7, 2, 11, 13)]
ON_GRIDS = pytest.mark.parametrize("grid", GRIDS, ids=str)
CORNERS = pytest.mark.parametrize("align_corners", [False, True])


def draw(h: int, w: int, height: int, width: int, channels: int = 3) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(h * 100 + height)
    return random.normal(size=(channels, h, w)), random.uniform(0, 255, (height, width, 3))


def centers(cells: int, pixels: int, align_corners: bool) -> tuple[np.ndarray, float]:
    """The centers of the cells in pixels from the image's edge, and the distance between them."""
    if align_corners and cells > 1:
        pitch = (pixels - 1) / (cells - 1)
        return 0.5 + pitch * np.arange(cells), pitch
    pitch = pixels / cells
    return (np.arange(cells) + 0.5) * pitch, pitch


def mean_color(image: np.ndarray, y: float, x: float, rows: float, columns: float) -> np.ndarray:
    """The mean of the image over a rectangle around (y, x), cut off at the edges."""
    total, weight = np.zeros(3), 0.0
    for i, j in itertools.product(range(image.shape[0]), range(image.shape[1])):
        tall = min(y + rows / 2, i + 1) - max(y - rows / 2, i)
        wide = min(x + columns / 2, j + 1) - max(x - columns / 2, j)
        share = max(tall, 0) * max(wide, 0)
        total, weight = total + share * image[i, j], weight + share
    return total / weight


def plain(
    values: np.ndarray, image: np.ndarray, position: float, color: float, align_corners: bool
) -> np.ndarray:
    """The sum as the docstring has it, one pixel and one cell at a time."""
    _, h, w = values.shape
    height, width, _ = image.shape
    (ys, rows), (xs, columns) = centers(h, height, align_corners), centers(w, width, align_corners)
    colors = [[mean_color(image, y, x, rows, columns) for x in xs] for y in ys]
    reach = math.ceil(2.5 * position)
    out = np.empty((len(values), height, width))
    for i, j in itertools.product(range(height), range(width)):
        own = [
            min(max(math.floor((at + 0.5 - first[0]) / pitch + 0.5), 0), len(first) - 1)
            for at, first, pitch in ((i, ys, rows), (j, xs, columns))
        ]
        total, weight = np.zeros(len(values)), 0.0
        for a, b in itertools.product(range(h), range(w)):
            if abs(a - own[0]) > reach or abs(b - own[1]) > reach:
                continue
            far = ((i + 0.5 - ys[a]) / rows) ** 2 + ((j + 0.5 - xs[b]) / columns) ** 2
            unlike = ((image[i, j] - colors[a][b]) ** 2).sum() / color**2
            one = math.exp(-far / 2 / position**2) * (math.exp(-unlike / 2) + 1e-2)
            total, weight = total + one * values[:, a, b], weight + one
        out[:, i, j] = total / weight
    return out


@ON_GRIDS
@CORNERS
@pytest.mark.parametrize("position", [0.4, 0.7, 1.3])
def test_equals_the_plain_sum(grid: Any, align_corners: bool, position: float) -> None:
    values, image = draw(*grid)
    out = upsample(values, image, position=position, color=60, align_corners=align_corners)
    expected = plain(values, image, position, 60, align_corners)
    np.testing.assert_allclose(out, expected, **TOLERANCE[np.float64])


@needs_torch
@ON_GRIDS
@CORNERS
def test_tensors_give_the_same_as_arrays(grid: Any, align_corners: bool) -> None:
    values, image = draw(*grid)
    expected = upsample(values, image, align_corners=align_corners)
    for grad in (False, True):
        tensor = torch.tensor(values, requires_grad=grad)
        out = upsample(tensor, torch.tensor(image), align_corners=align_corners)
        assert out.requires_grad == grad
        torch.testing.assert_close(out.detach(), torch.tensor(expected), **TOLERANCE[torch.float64])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values, image = draw(5, 7, 31, 40)
    whole = upsample(values, image)
    monkeypatch.setattr("crfrnn.crf.upsampling._BLOCK", 1)
    np.testing.assert_allclose(upsample(values, image), whole, **TOLERANCE[np.float64])


def test_linear_and_constants_are_kept() -> None:
    values, image = draw(5, 7, 31, 40)
    other = values[::-1].copy()
    np.testing.assert_allclose(
        upsample(values + 3 * other, image),
        upsample(values, image) + 3 * upsample(other, image),
        **TOLERANCE[np.float64],
    )
    np.testing.assert_allclose(upsample(np.full_like(values, 7), image), 7, rtol=1e-12)


def test_a_batch_is_its_images() -> None:
    values, image = draw(5, 7, 31, 40)
    both = upsample(np.stack([values, -values]), np.stack([image, 255 - image]))
    np.testing.assert_array_equal(both[0], upsample(values, image))
    np.testing.assert_array_equal(both[1], upsample(-values, 255 - image))


def test_layouts_of_the_image() -> None:
    values, image = draw(5, 7, 31, 40)
    expected = upsample(values, image)
    first = np.moveaxis(image, 2, 0)
    np.testing.assert_array_equal(upsample(values, first), expected)
    np.testing.assert_array_equal(upsample(values, first, channels_last=False), expected)
    gray = image[:, :, :1]
    np.testing.assert_array_equal(upsample(values, gray[:, :, 0]), upsample(values, gray))
    maps = np.random.default_rng(0).normal(size=(31, 40, 9))
    deep = upsample(values, maps, color=3, channels_last=True)
    np.testing.assert_array_equal(
        deep, upsample(values, np.moveaxis(maps, 2, 0), color=3, channels_last=False)
    )


# --- Pixel centers: no shift by half a pixel. ---


@pytest.mark.parametrize("factor", [2, 3, 8, 7.5])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("position", "error"), [(0.5, 0.023), (0.7, 0.004)])  # in cells
def test_a_ramp_stays_a_ramp(factor: float, axis: int, position: float, error: float) -> None:
    pixels = int(16 * factor)
    ramp = np.arange(16.0).reshape((1, -1, 1) if axis == 0 else (1, 1, -1))
    values = np.broadcast_to(ramp, (1, 16, 16))
    out = upsample(values, np.full((pixels, pixels), 90.0), position=position)[0]
    line = out[:, pixels // 2] if axis == 0 else out[pixels // 2]
    expected = (np.arange(pixels) + 0.5) / factor - 0.5
    inner = slice(int(3 * factor), pixels - int(3 * factor))
    np.testing.assert_allclose(line[inner], expected[inner], atol=error)
    shift = (line - expected)[inner].mean()  # errors around a cell's center cancel
    np.testing.assert_allclose(shift, 0, atol=1e-3)


def test_corners_that_are_aligned() -> None:
    ramp = np.broadcast_to(np.arange(17.0), (1, 17, 17))
    out = upsample(ramp, np.full((129, 129), 90.0), align_corners=True)[0, 64]
    np.testing.assert_allclose(out[24:-24], np.arange(24, 105) / 8, atol=0.023)


@CORNERS
@pytest.mark.parametrize("grid", [(5, 7, 31, 40), (4, 6, 16, 24), (3, 3, 10, 10)], ids=str)
def test_mirrored_inputs_give_mirrored_outputs(grid: Any, align_corners: bool) -> None:
    values, image = draw(*grid)
    out = upsample(values, image, align_corners=align_corners)
    turned = upsample(
        values[:, ::-1, ::-1].copy(), image[::-1, ::-1].copy(), align_corners=align_corners
    )
    # A pixel half-way between two cells belongs to the second: windows may differ by one cell.
    np.testing.assert_allclose(turned[:, ::-1, ::-1], out, atol=0.01)


def test_edges_of_the_image_are_followed() -> None:
    image = np.zeros((64, 64), np.uint8)
    image[:, 29:] = 255  # inside a cell
    values = np.zeros((1, 8, 8))
    values[:, :, 4:] = 1
    values[:, :, 3] = 0.4
    out = upsample(values, image)[0]
    assert out[:, :29].max() < 0.5 < out[:, 29:].min()


def test_a_pixel_like_no_cell_gets_the_mean_over_the_position() -> None:
    image = np.zeros((40, 40))
    image[20, 20] = 1e6
    values = np.random.default_rng(0).normal(size=(2, 5, 5))
    out = upsample(values, image)
    assert np.isfinite(out).all()
    flat = upsample(values, np.zeros((40, 40)))
    np.testing.assert_allclose(out[:, 20, 20], flat[:, 20, 20], atol=1e-6)


def test_bandwidths_that_are_tiny_give_the_nearest_cell() -> None:
    values, image = draw(5, 7, 30, 42)
    nearest = values.repeat(6, 1).repeat(6, 2)
    np.testing.assert_allclose(upsample(values, image, position=1e-6, color=1e-6), nearest)


def test_float_types_are_kept() -> None:
    values, image = draw(5, 7, 31, 40)
    exact = upsample(values, image)
    for dtype, tolerance in ((np.float16, 1e-2), (np.float32, 1e-4)):
        out = upsample(values.astype(dtype), image.astype(np.uint8).astype(dtype))
        assert out.dtype == dtype
        near = upsample(values, image.astype(np.uint8))
        np.testing.assert_allclose(out, near, atol=tolerance)
    assert exact.dtype == np.float64


@needs_torch
@CORNERS
def test_gradients(align_corners: bool) -> None:
    values, image = draw(2, 3, 5, 7, channels=2)
    inputs = [torch.tensor(array, requires_grad=True) for array in (values, image)]

    def run(values: Any, image: Any) -> Any:
        return upsample(values, image, color=100, align_corners=align_corners)

    assert torch.autograd.gradcheck(run, inputs)


@needs_torch
def test_the_module_is_the_function() -> None:
    from crfrnn import Upsample

    values, image = (torch.tensor(array) for array in draw(5, 7, 31, 40))
    batch = values[None].float(), image.permute(2, 0, 1)[None].float()
    module = Upsample(position=1, color=30, align_corners=True)
    expected = upsample(*batch, position=1, color=30, align_corners=True, channels_last=False)
    torch.testing.assert_close(module(*batch), expected)
    assert module(batch[0].bfloat16(), batch[1].byte()).dtype == torch.bfloat16
    assert repr(module) == "Upsample(position=1.0, color=30.0, align_corners=True)"
    with pytest.raises(ValueError, match="must not be smaller than the grid"):
        module(batch[0], batch[1][:, :, :4])
    with pytest.raises(ValueError, match="color is a standard deviation and must be positive"):
        Upsample(color=0)
    with pytest.raises(ValueError, match="Upsample: image must be finite; got 93 NaN"):
        module(batch[0], batch[1].index_fill(3, torch.tensor(0), math.nan))


@needs_torch
def test_autocast_does_not_reach_inside() -> None:
    from crfrnn import Upsample

    values, image = (torch.tensor(array).float() for array in draw(5, 7, 31, 40))
    batch = values[None].requires_grad_(), image.permute(2, 0, 1)[None]
    expected = Upsample()(*batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = Upsample()(*batch)
        function = upsample(*batch, channels_last=False)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    torch.testing.assert_close(function, expected, rtol=1e-5, atol=1e-5)


@needs_torch
@pytest.mark.unchecked
def test_the_module_maps_over_a_batch() -> None:
    from crfrnn import Upsample

    values, image = (torch.tensor(array).float() for array in draw(5, 7, 31, 40))
    values, image = torch.stack([values, -values]), image.permute(2, 0, 1).expand(2, -1, -1, -1)
    module = Upsample()
    mapped = torch.vmap(lambda v, i: module(v[None], i[None])[0])(values, image)
    torch.testing.assert_close(mapped, module(values, image), rtol=1e-5, atol=1e-5)


@needs_torch
@pytest.mark.traced
def test_the_module_can_be_exported() -> None:
    from crfrnn import Upsample

    values, image = (torch.tensor(array).float() for array in draw(5, 7, 31, 40))
    batch = values[None], image.permute(2, 0, 1)[None]
    exported = torch.export.export(Upsample(), batch, strict=False).module()
    torch.testing.assert_close(exported(*batch), Upsample()(*batch), rtol=1e-5, atol=1e-5)


V, IMAGE = np.zeros((2, 3, 4)), np.zeros((9, 12, 3))
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a name": (lambda: upsample("a.npy", IMAGE), TypeError, "values must be a NumPy array"),
    "no image": (lambda: upsample(V, None), TypeError, "image must be a NumPy array"),
    "no channels": (lambda: upsample(V[0], IMAGE), ValueError, r"values must be \(C, h, w\)"),
    "empty": (lambda: upsample(V[:0], IMAGE), ValueError, "not empty"),
    "integers": (lambda: upsample(V.astype(int), IMAGE), TypeError, "must be floating point"),
    "NaN": (lambda: upsample(V * math.nan, IMAGE), ValueError, "values must be finite"),
    "image NaN": (lambda: upsample(V, IMAGE * math.nan), ValueError, "image must be finite"),
    "image axes": (lambda: upsample(V, IMAGE[0, 0]), ValueError, r"image must be \(H, W, 3\)"),
    "image empty": (lambda: upsample(V, IMAGE[:0]), ValueError, "not empty"),
    "small": (lambda: upsample(V, IMAGE[:2]), ValueError, r"got \(2, 12\) for a grid of \(3, 4\)"),
    "batch": (lambda: upsample(V[None], IMAGE[None].repeat(2, 0)), ValueError, "the same batch"),
    "no batch": (lambda: upsample(V[None], IMAGE[None, None]), ValueError, "batch axis first"),
    "channels": (lambda: upsample(V, np.zeros((9, 12, 9))), ValueError, "give channels_last="),
    "channels last": (
        lambda: upsample(np.zeros((4, 6, 21)), np.zeros((32, 48, 3), np.uint8)),
        ValueError,
        r"Put the channels first: numpy.moveaxis\(values, -1, 0\)",
    ),
    "position": (lambda: upsample(V, IMAGE, position=0), ValueError, "position is a standard"),
    "color": (lambda: upsample(V, IMAGE, color=-1), ValueError, "color is a standard deviation"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input(case: str) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.unchecked
def test_a_bandwidth_that_is_no_number() -> None:
    with pytest.raises(TypeError, match="color must be a number"):
        upsample(V, IMAGE, color="x")  # type: ignore[arg-type]


def test_an_image_on_0_to_1_is_noticed() -> None:
    unit = np.linspace(0, 1, IMAGE.size, dtype=np.float32).reshape(IMAGE.shape)
    with pytest.warns(UserWarning, match=r"an image on 0\.\.1 by 255"):
        upsample(V, unit)
    upsample(V, unit, color=0.1)  # in its units


@needs_torch
def test_values_and_image_in_different_containers() -> None:
    with pytest.raises(TypeError, match="values are on NumPy but the image on cpu"):
        upsample(V, torch.tensor(IMAGE))
