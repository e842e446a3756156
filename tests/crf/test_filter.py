"""The Gaussian filters: exact against brute force, engine against engine, lattice against exact."""

import functools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from crfrnn import Lattice, gaussian_filter, ops
from crfrnn.core import inference as core
from crfrnn.crf.filters import ExactFilter
from crfrnn.ops import reference
from tests.cases import (
    ENGINES,
    NORMALIZATIONS,
    POINT_CASES,
    TOLERANCE,
    PointCase,
    available_engines,
    gaussian_matrix,
    gaussian_sum,
    needs_core,
    photograph,
    pixels,
)

DOUBLE = torch.float64


# Along random directions, which is as strict on average and does not grow with the inputs.
check = functools.partial(torch.autograd.gradcheck, fast_mode=True)
check_twice = functools.partial(torch.autograd.gradgradcheck, fast_mode=True)


def close(actual, expected, dtype):
    expected = torch.as_tensor(expected, dtype=dtype)
    torch.testing.assert_close(actual, expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", POINT_CASES, ids=str)
def test_exact_is_the_gaussian_sum(case: PointCase, engine: str, dtype: torch.dtype) -> None:
    features, values = case.make(dtype)
    out = gaussian_filter(values, features, method="exact", engine=engine)
    close(out, gaussian_sum(features, values), dtype)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("d", "c", "dtype"), [(2, 2, DOUBLE), (5, 21, torch.float32), (5, 33, DOUBLE), (17, 1, DOUBLE)]
)
def test_exact_is_the_gaussian_sum_over_many_points(
    d: int, c: int, engine: str, dtype: torch.dtype
) -> None:
    """More points than one slab or tile holds, spread so that most pairs count for nothing."""
    features, values = PointCase(1, 3001, d, c, 3).make(dtype)
    values = values.abs()  # sums that cancel would be held to less than their rounding
    out = gaussian_filter(values, features, method="exact", engine=engine)
    close(out, gaussian_sum(features, values), dtype)


@needs_core
def test_exact_leaves_out_no_pair_above_the_tolerance(dtype: torch.dtype) -> None:
    features, values = PointCase(1, 1501, 3, 5, 2).make(dtype)
    values = values.abs()
    kernel = gaussian_matrix(features[0].double().numpy())
    out = ops.exact(values, features, 1e-2, "cpu")[0].double().numpy()
    dense = values[0].double().numpy()
    rounding = 1 + 10 * TOLERANCE[dtype]["rtol"]
    assert (out * rounding >= np.where(kernel >= 1e-2 * rounding, kernel, 0) @ dense).all()
    assert (out <= kernel @ dense * rounding).all()
    assert (out < kernel @ dense * (1 - 1e-4)).any()  # something was left out


@pytest.mark.parametrize("engine", ENGINES)
def test_exact_includes_the_point_itself_and_underflows_to_zero(engine: str) -> None:
    points = torch.tensor([[0.0], [1.0], [1e4]], dtype=DOUBLE)
    out = gaussian_filter(torch.eye(3, dtype=DOUBLE), points, method="exact", engine=engine)
    near = math.exp(-0.5)
    close(out, [[1.0, near, 0.0], [near, 1.0, 0.0], [0.0, 0.0, 1.0]], DOUBLE)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("method", ["exact", "lattice"])
def test_normalizations(method: str, normalization: str, engine: str) -> None:
    features, values = PointCase(2, 43, 3, 5).make(DOUBLE)
    raw = gaussian_filter(
        torch.eye(43, dtype=DOUBLE).expand(2, 43, 43), features, method=method, engine=engine
    )
    n = raw.sum(2, keepdim=True)
    expected = {
        "symmetric": (raw @ (values / n.sqrt())) / n.sqrt(),
        "after": raw @ values / n,
        "before": raw @ (values / n),
        "none": raw @ values,
    }[normalization]
    out = gaussian_filter(
        values, features, method=method, normalization=normalization, engine=engine
    )
    close(out, expected, DOUBLE)


@needs_core
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("case", POINT_CASES, ids=str)
def test_lattice_engines_agree(case: PointCase, reverse: bool, dtype: torch.dtype) -> None:
    features, values = case.make(dtype)
    ours = Lattice(features, engine="cpu")
    reference = Lattice(features, engine="reference")
    assert ours.vertices == reference.vertices
    expected = reference.filter(values, reverse=reverse)
    close(ours.filter(values, reverse=reverse), expected, dtype)


@needs_core
@pytest.mark.parametrize("d", [3, 14])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_lattice_engines_build_the_same_from_chunks(
    threads: int, d: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enough points that the core splits them; keys in one word and in several."""
    n = 5 * 8192 + 11
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(n, d)) * 1.5).to(dtype)
    features[1::2] = features[:-1:2]  # vertices that several chunks share
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    ours = Lattice(features, engine="cpu").arrays
    if d == 3:
        expected = Lattice(features, engine="reference").arrays
        for mine, theirs in zip(ours, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for mine, alone in zip(ours, Lattice(features, engine="cpu").arrays, strict=True):
        torch.testing.assert_close(mine, alone, rtol=0, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", POINT_CASES, ids=str)
def test_lattice_arrays_are_consistent(case: PointCase, engine: str) -> None:
    features, _ = case.make(torch.float32)
    arrays = Lattice(features, engine=engine).arrays
    corners = case.d + 1
    close(arrays.weight.sum(2), torch.ones(case.batch, case.n), torch.float32)
    assert arrays.weight.min() > -1e-5
    assert arrays.starts[0] == 0
    assert arrays.starts[-1] == arrays.neighbor.shape[1]
    for b, (begin, end) in enumerate(zip(arrays.starts[:-1], arrays.starts[1:], strict=True)):
        m = int(end - begin)
        rows = arrays.vertex[b].flatten().long()
        assert rows.unique().tolist() == list(range(1, m + 1))
        # The entries sorted by vertex list each (point, corner) once, and the offsets bound them.
        entry = arrays.entry[b].long()
        offset = arrays.offset[begin + b : end + b + 1].long()
        assert entry.sort()[0].tolist() == list(range(case.n * corners))
        counts = offset.diff()
        assert rows[entry].tolist() == torch.arange(1, m + 1).repeat_interleave(counts).tolist()
        # If v has w in front of it, w has v behind it.
        back, forth = arrays.neighbor[:, begin:end].long().unbind(2)
        for axis in range(corners):
            (here,) = forth[axis].nonzero(as_tuple=True)
            assert torch.equal(back[axis][forth[axis][here] - 1], here + 1)
            assert (back[axis] > 0).sum() == len(here)


@needs_core
def test_first_wide_calls_of_one_filter_may_meet() -> None:
    # A filter sorts its entries when wide rows first need them, whichever of its callers that is.
    rng = np.random.default_rng(3)
    features = rng.normal(size=(30_000, 3)).astype(np.float32)
    q = rng.random((12, 30_000), dtype=np.float32)
    points = core.Points.of_array(features)
    expected = core.apply(core.lattice_filter(points, "symmetric"), q)
    for _ in range(3):
        filter = core.lattice_filter(points, "symmetric")
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(lambda _, filter=filter: core.apply(filter, q), range(4)):
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_lattice_of_one_place_has_one_simplex(engine: str) -> None:
    lattice = Lattice(torch.full((1, 19, 5), 0.3), engine=engine)
    assert lattice.vertices == 6
    out = lattice.filter(torch.ones(1, 19, 1))
    close(out, out[:, :1].expand(1, 19, 1), torch.float32)


# Messages of a real network's scores on chelsea, 48 x 64: relative L2 error of the lattice at most
# what pydensecrf showed on such an image. All lattices of this kind are the same
# algorithm: on this very input pydensecrf2's errors equal ours to the digits shown.
PHOTOGRAPH_ERRORS = [
    # position, color, bound with "symmetric" and "after", in per cent
    (3, None, 1.8, 1.7),
    (20, 13, 4.9, 3.9),
    (20, 3, 9.1, 8.5),
    (160, 3, 6.2, 5.5),
    (160, 13, 3.6, 3.1),
]


@pytest.mark.parametrize(("position", "color", "symmetric", "after"), PHOTOGRAPH_ERRORS)
def test_lattice_is_near_exact_on_a_photograph(
    position: float, color: float | None, symmetric: float, after: float
) -> None:
    image, logits = photograph("chelsea", (48, 64))
    scores = torch.from_numpy(logits)
    five = scores.softmax(0).mean((1, 2)).topk(5).indices
    q = scores[five].softmax(0).flatten(1).T
    points = pixels((48, 64)) / position
    if color is not None:
        points = np.concatenate([points, image.reshape(-1, 3) / color], axis=1)
    features = torch.from_numpy(points)
    matrix = gaussian_matrix(points)
    n = matrix.sum(1, keepdims=True)
    values = q.double().numpy()
    exact = {
        "symmetric": matrix @ (values / np.sqrt(n)) / np.sqrt(n),
        "after": matrix @ values / n,
    }
    for normalization, bound in [("symmetric", symmetric), ("after", after)]:
        for engine in available_engines():
            lattice = gaussian_filter(
                q, features.float(), normalization=normalization, engine=engine
            )
            expected = exact[normalization]
            error = np.linalg.norm(lattice.numpy() - expected) / np.linalg.norm(expected)
            assert bound / 10 < 100 * error <= bound  # far below: the table would be stale


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", POINT_CASES, ids=str)
def test_lattice_adjoint_is_the_reverse(case: PointCase, engine: str, dtype: torch.dtype) -> None:
    features, u = case.make(dtype)
    v = torch.randn(u.shape, dtype=dtype)
    lattice = Lattice(features, engine=engine)
    close((lattice.filter(u) * v).sum(), (u * lattice.filter(v, reverse=True)).sum(), dtype)


@pytest.mark.parametrize("engine", ENGINES)
def test_lattice_is_not_its_own_adjoint(engine: str) -> None:
    """Where neighbours are missing the blurs do not commute, so `reverse` is needed."""
    features, u = PointCase(1, 97, 5, 3, 1).make(DOUBLE)
    v = torch.randn(u.shape, dtype=DOUBLE)
    lattice = Lattice(features, engine=engine)
    forward, backward = (lattice.filter(u) * v).sum(), (u * lattice.filter(v)).sum()
    assert abs(forward - backward) > 1e-4 * abs(forward)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("is_alike", [False, True], ids=["rows differ", "rows alike"])
@pytest.mark.parametrize("size", [(1,), (17,), (5, 7), (1, 9), (3, 5, 2), (2, 43)], ids=str)
def test_separable_is_a_matrix_along_each_axis(
    size: tuple[int, ...], is_alike: bool, engine: str, dtype: torch.dtype
) -> None:
    """Bands need be neither symmetric nor alike from row to row: normalised ones are not."""
    values = torch.randn(2, *size, 3, dtype=dtype)
    expected = values.double()
    bands = []
    for axis, length in enumerate(size, start=1):
        radius = min(axis, length - 1)
        band = torch.randn(length, 2 * radius + 1, dtype=dtype)
        if is_alike:  # also at the ends, whose sources do not all exist
            band = band[:1].expand(length, -1).contiguous()
        dense = torch.zeros(length, length, dtype=DOUBLE)
        for i in range(length):
            for k in range(-radius, radius + 1):
                if 0 <= i + k < length:
                    dense[i, i + k] = band[i, radius + k]
        expected = torch.tensordot(dense, expected, dims=([1], [axis])).movedim(0, axis)
        bands.append(band)
    close(ops.separable(values, bands, engine), expected, dtype)


@needs_core
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 9, 33])
def test_rows_of_equal_weights_are_summed_in_the_usual_order(
    channels: int, dtype: torch.dtype
) -> None:
    """Sources that lie side by side take another loop inside of a grid; not a bit may differ."""
    length, radius = 64, 5
    offset = torch.arange(-radius, radius + 1)
    inside = (torch.arange(length)[:, None] + offset).clamp(0, length - 1)
    gauss = torch.exp(-(offset.double() ** 2) / 9) * (
        inside == torch.arange(length)[:, None] + offset
    )
    band = (gauss / gauss.sum(1, keepdim=True)).to(dtype)
    values = torch.randn(1, length, 300, dtype=dtype)  # too wide to be taken at once
    whole = ops.separable(values, [band], "cpu")
    part = ops.separable(values[..., :channels].contiguous(), [band], "cpu")
    torch.testing.assert_close(part, whole[..., :channels], rtol=0, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", ["exact", "lattice"])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_values_are_filtered_in_float32(
    half: torch.dtype, method: str, engine: str
) -> None:
    features, values = PointCase(1, 23, 3, 2).make(torch.float32)
    features, values = features.to(half), values.to(half)
    out = gaussian_filter(values, features, method=method, engine=engine)
    assert out.dtype == half
    expected = gaussian_filter(values.float(), features.float(), method=method, engine=engine)
    torch.testing.assert_close(out, expected.to(half), rtol=0, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", ["exact", "lattice"])
@pytest.mark.parametrize("leading", [(), (1,), (2, 3)], ids=str)
def test_leading_axes_are_kept(leading: tuple[int, ...], method: str, engine: str) -> None:
    features = torch.randn(*leading, 11, 2, dtype=DOUBLE)
    values = torch.randn(*leading, 11, 3, dtype=DOUBLE)
    out = gaussian_filter(values, features, method=method, engine=engine)
    assert out.shape == values.shape
    items = zip(values.reshape(-1, 11, 3), features.reshape(-1, 11, 2), strict=True)
    single = [gaussian_filter(v, f, method=method, engine=engine) for v, f in items]
    close(out.reshape(-1, 11, 3), torch.stack(single), DOUBLE)


@pytest.mark.parametrize("engine", ENGINES)
def test_inputs_are_left_alone(engine: str) -> None:
    features, values = PointCase(2, 37, 5, 19, 2, "strided").make(torch.float32)
    before = features.clone(), values.clone()
    Lattice(features, engine=engine).filter(values)
    ExactFilter(features, engine=engine).filter(values)
    torch.testing.assert_close((features, values), before, rtol=0, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_gradient_of_lattice_to_values(reverse: bool, engine: str) -> None:
    features, values = PointCase(2, 13, 3, 2, 0.7).make(DOUBLE)
    lattice = Lattice(features, engine=engine)
    values.requires_grad_()
    check(lambda v: lattice.filter(v, reverse=reverse), values)
    check_twice(lambda v: lattice.filter(v, reverse=reverse) ** 2, values)


@pytest.mark.parametrize("engine", ENGINES)
def test_gradient_of_separable_to_values(engine: str) -> None:
    values = torch.randn(2, 3, 5, 2, dtype=DOUBLE, requires_grad=True)
    bands = [torch.randn(3, 5, dtype=DOUBLE), torch.randn(5, 3, dtype=DOUBLE)]
    check(lambda v: ops.separable(v, bands, engine), values)
    check_twice(lambda v: ops.separable(v, bands, engine) ** 2, values)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("taps", [1, 7, 81])
@pytest.mark.parametrize(
    "size",
    [(1,), (5,), (150, 3), (3, 150), (70, 2, 65)],
    ids=lambda size: f"{len(size)}D-{size[0]}",
)
def test_gradient_of_separable_to_bands(size: tuple[int, ...], taps: int, engine: str) -> None:
    values = torch.randn(2, *size, 3, dtype=DOUBLE, requires_grad=True)
    bands = [torch.randn(n, taps, dtype=DOUBLE, requires_grad=True) for n in size]
    to_out = torch.randn(2, *size, 3, dtype=DOUBLE)
    expected = torch.autograd.grad(reference.separable(values, bands), [values, *bands], to_out)
    got = torch.autograd.grad(ops.separable(values, bands, engine), [values, *bands], to_out)
    for actual, wanted in zip(got, expected, strict=True):
        close(actual, wanted, DOUBLE)


@pytest.mark.parametrize("engine", ENGINES)
def test_second_derivatives_of_separable_with_bands(engine: str) -> None:
    values = torch.randn(2, 3, 5, 2, dtype=DOUBLE, requires_grad=True)
    bands = [torch.randn(n, 3, dtype=DOUBLE, requires_grad=True) for n in (3, 5)]
    check_twice(lambda v, *b: ops.separable(v, list(b), engine) ** 2, (values, *bands))


@needs_core
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("channels", [1, 2, 5, 32, 33, 71])
def test_the_core_gives_the_gradient_to_weights_of_the_reference(
    channels: int, reverse: bool, dtype: torch.dtype
) -> None:
    from crfrnn.ops import cpu

    n, spread = (5000, 9.0) if channels == 5 else (97, 0.7)
    features, values = PointCase(2, n, 3, channels, spread).make(dtype)
    gradient = torch.randn(2, channels, values.shape[1], dtype=dtype).transpose(1, 2)
    arrays = Lattice(features, engine="cpu").arrays
    expected = reference.filter_to_weight(values, gradient, arrays, reverse)
    close(cpu.filter_to_weight(values, gradient, arrays, reverse), expected, dtype)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_gradient_of_exact_to_values_and_features(normalization: str, engine: str) -> None:
    features, values = PointCase(2, 7, 3, 2).make(DOUBLE)

    def run(v, f):
        return gaussian_filter(v, f, method="exact", normalization=normalization, engine=engine)

    check(run, (values.requires_grad_(), features.requires_grad_()))


@pytest.mark.traced
@pytest.mark.parametrize("engine", ENGINES)
def test_operators_obey_torch(engine: str) -> None:
    features, values = PointCase(2, 11, 3, 2).make(torch.float32)
    arrays = Lattice(features, engine=engine).arrays
    values.requires_grad_()
    grid = torch.randn(2, 3, 5, 2, requires_grad=True)
    bands = [torch.randn(3, 3), torch.randn(5, 5)]
    for operator, args in [
        (torch.ops.crfrnn.filter, (values, *arrays, False, engine)),
        (torch.ops.crfrnn.separable, (grid, bands, engine)),
        (torch.ops.crfrnn.exact, (values, features, 0.0, engine)),
    ]:
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(operator.default, args, test_utils=checks)


@needs_core
@pytest.mark.parametrize("power", [1.0, -0.5, -1.0])
def test_response_of_the_core_is_the_filter_of_ones(power: float, dtype: torch.dtype) -> None:
    from crfrnn.ops import cpu

    features = PointCase(2, 35 * 37, 3, 2, 4).make(dtype)[0]
    lattice = Lattice(features, engine="cpu")
    before = torch.rand(features.shape[:2], dtype=dtype) + 0.5
    term = ops.Term("lattice", tuple(lattice.arrays), before)
    expected = lattice.filter(before[..., None])[..., 0] ** power
    close(cpu.response(term, tuple(before.shape), (35 * 37,), power), expected, dtype)
