"""The recurrence: against arithmetic written out by hand, and the fused operator against it."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from crfrnn import Bilateral, Gaussian, mean_field, ops, refine
from tests.cases import (
    ENGINES,
    GRID_CASES,
    NORMALIZATIONS,
    TOLERANCE,
    GridCase,
    build_filters,
    infer,
    needs_core,
)

DOUBLE = torch.float64
POTTS = [[0.0, 1.0], [1.0, 0.0]]


# --- The paper's equations in loops over single numbers: no code is shared with the library. ---


def kernel_by_hand(points, normalization):
    """F[i][j] = D_post[i] G[i][j] D_pre[j] between the points, lists of numbers."""
    n = len(points)
    g = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(n):
            squared = sum((a - b) ** 2 for a, b in zip(points[i], points[j], strict=True))
            g[i][j] = math.exp(-squared / 2)
    total = [sum(row) for row in g]
    f = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(n):
            scale = {
                "symmetric": 1 / math.sqrt(total[i] * total[j]),
                "after": 1 / total[i],
                "before": 1 / total[j],
                "none": 1.0,
            }[normalization]
            f[i][j] = scale * g[i][j]
    return f


def softmax_by_hand(z):
    top = max(z)
    e = [math.exp(value - top) for value in z]
    return [value / sum(e) for value in e]


def recurrence_by_hand(u, kernels, weights, compatibility, iterations):
    """Logits z[c][i] from u[c][i], F_k[i][j], W_k[c][d] and A[c][d]."""
    classes, n = len(u), len(u[0])
    z = [[u[c][i] for i in range(n)] for c in range(classes)]
    for _ in range(iterations):
        q = [softmax_by_hand([z[c][i] for c in range(classes)]) for i in range(n)]
        for i in range(n):
            message = [0.0] * classes
            for f, w in zip(kernels, weights, strict=True):
                for c, d in itertools.product(range(classes), repeat=2):
                    for j in range(n):
                        message[c] += w[c][d] * f[i][j] * q[j][d]
            for c in range(classes):
                penalty = sum(compatibility[c][d] * message[d] for d in range(classes))
                z[c][i] = u[c][i] - penalty
    return z


IMAGE = [
    [[0, 0, 0], [10, 0, 5], [200, 10, 0]],
    [[5, 5, 5], [100, 90, 0], [210, 0, 0]],
    [[0, 0, 9], [190, 20, 0], [255, 0, 3]],
]
LOGITS = [
    [[1.0, 0.2, -0.7], [0.4, -0.1, -1.2], [0.3, 2.0, 0.1]],
    [[-0.5, 0.6, 0.9], [0.0, 0.2, -0.3], [0.7, -1.0, 0.5]],
]


def points_by_hand(position_x, position_y, color):
    """(x, y, r, g, b) of the 3 x 3 image, divided by bandwidths; no colour if `color` is None."""
    points = []
    for y in range(3):
        for x in range(3):
            tail = [] if color is None else [channel / color for channel in IMAGE[y][x]]
            points.append([x / position_x, y / position_y, *tail])
    return points


def diagonal(*numbers):
    return [[w if c == d else 0.0 for d in range(len(numbers))] for c, w in enumerate(numbers)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("iterations", [0, 1, 2, 5])
@pytest.mark.parametrize("compatibility", [None, [[0.1, 0.9], [1.7, -0.3]]], ids=["potts", "any"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_three_by_three_by_hand(normalization, compatibility, iterations, engine) -> None:
    flat = [[value for row in plane for value in row] for plane in LOGITS]
    kernels = [
        kernel_by_hand(points_by_hand(2.0, 5.0, 60.0), normalization),
        kernel_by_hand(points_by_hand(0.8, 0.8, None), normalization),
    ]
    weights = [diagonal(1.5, 0.7), diagonal(0.9, 0.9)]
    penalty = POTTS if compatibility is None else compatibility
    z = np.array(recurrence_by_hand(flat, kernels, weights, penalty, iterations))
    q = np.array([softmax_by_hand(column) for column in z.T]).T.reshape(2, 3, 3)
    refined = refine(
        np.array(IMAGE, np.uint8),
        logits=np.array(LOGITS),
        kernels=[
            Bilateral(position=(2, 5), color=60, weight=(1.5, 0.7)),
            Gaussian(position=0.8, weight=0.9),
        ],
        compatibility=None if compatibility is None else np.array(compatibility),
        iterations=iterations,
        normalization=normalization,
        filter="exact",
        engine=engine,
    )
    np.testing.assert_allclose(refined.probs, q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["scalar", "class", "matrix"])
def test_three_by_three_by_hand_with_weights_of_any_kind(kind: str) -> None:
    flat = [[value for row in plane for value in row] for plane in LOGITS]
    kernels = [
        kernel_by_hand(points_by_hand(2.0, 5.0, 60.0), "after"),
        kernel_by_hand(points_by_hand(0.8, 0.8, None), "symmetric"),
    ]
    weights, full = {
        "scalar": ([1.5, 0.9], [diagonal(1.5, 1.5), diagonal(0.9, 0.9)]),
        "class": ([[1.5, 0.7], [0.9, 0.2]], [diagonal(1.5, 0.7), diagonal(0.9, 0.2)]),
        "matrix": ([[[1.5, 0.3], [-0.2, 0.7]], [[0.9, 0.0], [1.1, 0.2]]],) * 2,
    }[kind]
    penalty = [[0.1, 0.9], [1.7, -0.3]]
    expected = recurrence_by_hand(flat, kernels, full, penalty, 3)
    z = mean_field(
        -torch.tensor(LOGITS, dtype=DOUBLE)[None],
        [dense(torch.tensor(kernel, dtype=DOUBLE)) for kernel in kernels],
        torch.tensor(weights, dtype=DOUBLE),
        torch.tensor(penalty, dtype=DOUBLE),
        3,
    )
    expected = torch.tensor(expected, dtype=DOUBLE).view(1, 2, 3, 3)
    torch.testing.assert_close(z, expected, **TOLERANCE[DOUBLE])


def dense(matrix: Tensor):
    """The filter that multiplies by a matrix (N N)."""
    return lambda q: (q.flatten(2) @ matrix.T).view(q.shape)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_pixels_in_closed_form(engine: str) -> None:
    """Two pixels, two classes, Potts: the difference of logits obeys d_i ← a_i + w Σ_j k_ij t_j.

    Here t_j = 2 q_j - 1 = tanh(d_j / 2), and k is 1 at the pixel itself and exp(-½ / θ²) beyond.
    """
    a, b, w, theta = 1.3, -0.4, 0.8, 0.7
    k = math.exp(-0.5 / theta**2)
    first, second = a, b
    for _ in range(4):
        left, right = math.tanh(first / 2), math.tanh(second / 2)
        first, second = a + w * (left + k * right), b + w * (k * left + right)
    refined = refine(
        None,
        logits=torch.tensor([[[0.0, 0.0]], [[a, b]]], dtype=DOUBLE),
        kernels=[Gaussian(position=theta, weight=w)],
        iterations=4,
        normalization="none",
        filter="exact",
        engine=engine,
    )
    d = refined.probs[1].logit()
    expected = torch.tensor([[first, second]], dtype=DOUBLE)
    torch.testing.assert_close(d, expected, **TOLERANCE[DOUBLE])


def test_weak_coupling_approaches_the_true_marginals() -> None:
    """Mean field is exact to first order in the weight: halving it must quarter the error.

    The filters here leave out the pixel itself, as the energy of Krähenbühl & Koltun does; the 512
    labellings of the 3 x 3 image are summed one by one.
    """
    flat = np.array(LOGITS).reshape(2, 9)
    g = np.array(kernel_by_hand(points_by_hand(2.0, 5.0, 60.0), "none"))
    np.fill_diagonal(g, 0)

    def error(weight):
        marginals = np.zeros((2, 9))
        for labels in itertools.product((0, 1), repeat=9):
            x = np.array(labels)
            energy = -flat[x, range(9)].sum() + weight * (g * (x[:, None] != x)).sum() / 2
            marginals[x, range(9)] += math.exp(-energy)
        marginals /= marginals.sum(0)
        z = mean_field(
            -torch.from_numpy(flat)[None],
            [dense(torch.from_numpy(g))],
            torch.tensor([weight], dtype=DOUBLE),
            torch.tensor(POTTS, dtype=DOUBLE),
            iterations=50,
        )
        return np.abs(z.softmax(1)[0].numpy() - marginals).max()

    assert error(0.02) < 1e-4
    assert 3 < error(0.04) / error(0.02) < 5


# --- Laws. ---


def prepare(case: GridCase, dtype: torch.dtype, filter="lattice", engine=None, **options):
    """Logits and the normalised filters of two kernels."""
    logits, image = case.make(dtype)
    kernels = [Bilateral(position=9, color=40), Gaussian(position=1.5)]
    options = {"normalization": "symmetric", **options}
    filters = build_filters(kernels, logits, image, (), filter=filter, engine=engine, **options)
    return logits, filters


def parameters(case: GridCase, dtype: torch.dtype, kind: str) -> tuple[Tensor, Tensor | None]:
    """Weights of two kernels and a compatibility, far from any symmetry."""
    c = case.classes
    generator = torch.Generator().manual_seed(c)

    def random(*shape):
        return torch.rand(*shape, generator=generator, dtype=DOUBLE).to(dtype) * 2

    return {
        "potts": (random(2), None),
        "potts-class": (random(2, c), None),
        "class": (random(2, c), random(c, c)),
        "matrix": (random(2, c, c) - 0.5, random(c, c) - 0.5),
        "matrix-potts": (random(2, c, c) - 0.5, None),
    }[kind]


def potts(classes: int, dtype: torch.dtype) -> Tensor:
    return 1 - torch.eye(classes, dtype=dtype)


@pytest.mark.parametrize("case", GRID_CASES, ids=str)
def test_no_iterations_no_weights_or_no_kernels_return_the_logits(case: GridCase, dtype) -> None:
    logits, filters = prepare(case, dtype)
    penalty = potts(case.classes, dtype)
    ones, zeros = logits.new_ones(2), logits.new_zeros(2)
    for z in [
        mean_field(-logits, filters, ones, penalty, 0),
        mean_field(-logits, filters, zeros, penalty, 3),
        mean_field(-logits, [], logits.new_zeros(0), penalty, 3),
        infer(logits, filters, ones, None, 0)[0],
        infer(logits, filters, zeros, None, 3)[0],
        infer(logits, [], logits.new_zeros(0), None, 3)[0],
        infer(logits, filters, zeros, penalty, 3)[0],
    ]:
        torch.testing.assert_close(z, logits, rtol=0, atol=0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["potts", "class", "matrix"])
@pytest.mark.parametrize("case", [GridCase(2, 5, (7, 11)), GridCase(1, 4, (3, 5, 7), 2)], ids=str)
def test_permuting_the_classes_permutes_the_result(case: GridCase, kind: str, engine) -> None:
    logits, filters = prepare(case, DOUBLE, engine=engine)
    weights, penalty = parameters(case, DOUBLE, kind)
    order = torch.randperm(case.classes)
    z, _ = infer(logits, filters, weights, penalty, 3, engine=engine)
    permuted = weights
    if weights.dim() > 1:
        permuted = weights[:, order] if weights.dim() == 2 else weights[:, order][:, :, order]
    permuted_penalty = None if penalty is None else penalty[order][:, order]
    other, _ = infer(logits[:, order], filters, permuted, permuted_penalty, 3, engine=engine)
    torch.testing.assert_close(other, z[:, order], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("filter", ["lattice", "exact"])
@pytest.mark.parametrize("case", [c for c in GRID_CASES if c.batch > 1], ids=str)
def test_a_batch_equals_its_items(case: GridCase, filter: str, engine: str, dtype) -> None:
    logits, image = case.make(dtype)
    kernels = [Bilateral(9, 40, 2), Gaussian(1.5, 1)]
    together = refine(image, logits=logits, kernels=kernels, filter=filter, engine=engine)
    for b in range(case.batch):
        alone = refine(image[b], logits=logits[b], kernels=kernels, filter=filter, engine=engine)
        torch.testing.assert_close(together.probs[b], alone.probs, **TOLERANCE[dtype])
        assert torch.equal(together.labels[b], alone.labels)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_strong_potts_model_on_a_flat_image_gives_one_label(engine: str) -> None:
    logits = 0.3 * torch.randn(1, 3, 9, 11)
    logits[:, 1] += 0.1
    image = torch.full((1, 3, 9, 11), 128.0)
    refined = refine(
        image, logits=logits, kernels=[Bilateral(100, 10, 50)], iterations=5, engine=engine
    )
    assert refined.labels.unique().tolist() == [1]


@pytest.mark.parametrize("engine", ENGINES)
def test_potts_and_minus_the_identity_differ_by_a_constant(engine: str) -> None:
    """Σ_c q_c = 1, so with one weight a kernel both penalties give the same marginals."""
    case = GridCase(2, 5, (7, 11))
    logits, filters = prepare(case, DOUBLE, normalization="after", engine=engine)
    weights = torch.tensor([2.0, 1.0], dtype=DOUBLE)
    z, _ = infer(logits, filters, weights, None, 4, engine=engine)
    other, _ = infer(logits, filters, weights, -torch.eye(5, dtype=DOUBLE), 4, engine=engine)
    torch.testing.assert_close(z.softmax(1), other.softmax(1), rtol=1e-10, atol=1e-10)
    shift = z - other
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
def test_adding_to_all_logits_of_a_pixel_changes_nothing(engine: str) -> None:
    case = GridCase(2, 5, (7, 11))
    logits, filters = prepare(case, DOUBLE, engine=engine)
    shift = 100 * torch.randn(2, 1, 7, 11, dtype=DOUBLE)
    weights = torch.tensor([2.0, 1.0], dtype=DOUBLE)
    z, _ = infer(logits, filters, weights, None, 3, engine=engine)
    other, _ = infer(logits + shift, filters, weights, None, 3, engine=engine)
    torch.testing.assert_close(other - shift, z, rtol=1e-10, atol=1e-10)


# --- The fused operator against the five readable lines, values and every gradient. ---


@pytest.mark.parametrize(
    ("engine", "dtype"),
    [
        ("reference", DOUBLE),
        pytest.param("cpu", DOUBLE, marks=needs_core),
        pytest.param("cpu", torch.float32, marks=needs_core),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["potts", "potts-class", "class", "matrix", "matrix-potts"])
@pytest.mark.parametrize("case", GRID_CASES, ids=str)
def test_fused_recurrence_is_mean_field(case: GridCase, kind: str, engine: str, dtype) -> None:
    logits, filters = prepare(case, dtype, engine=engine)
    _, oracle_filters = prepare(case, dtype, engine="reference")
    results = []
    for run in ("fused", "oracle"):
        weights, penalty = parameters(case, dtype, kind)
        inputs = [logits.clone(), weights, *([] if penalty is None else [penalty])]
        for tensor in inputs:
            tensor.requires_grad_()
        if run == "fused":
            z, steps = infer(*inputs[:1], filters, weights, penalty, 3, engine=engine)
            assert steps.tolist() == [3] * case.batch
        else:
            dense_penalty = potts(case.classes, dtype) if penalty is None else penalty
            z = mean_field(-inputs[0], oracle_filters, weights, dense_penalty, 3)
        generator = torch.Generator().manual_seed(1)
        target = torch.randn(z.shape, generator=generator, dtype=DOUBLE).to(dtype)
        results.append([z, *torch.autograd.grad((z * target).sum(), inputs)])
    # Three steps, each a sum over the image: roundings of float32 add up to a few 1e-5.
    bound = {torch.float32: 1e-4, DOUBLE: 1e-10}[dtype]
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=bound, atol=bound)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("filter", ["lattice", "exact"])
def test_fused_recurrence_under_every_normalization(filter, masked, normalization, engine) -> None:
    case = GridCase(2, 3, (3, 5))
    mask = torch.rand(2, 3, 5) > 0.3 if masked else None
    options = {"normalization": normalization, "filter": filter, "mask": mask}
    logits, filters = prepare(case, DOUBLE, engine=engine, **options)
    _, oracle_filters = prepare(case, DOUBLE, engine="reference", **options)
    weights = torch.tensor([0.2, 0.1], dtype=DOUBLE)  # small: "none" has large sums
    logits.requires_grad_()
    z, _ = infer(logits, filters, weights, None, 3, engine=engine)
    expected = mean_field(-logits, oracle_filters, weights, potts(3, DOUBLE), 3)
    torch.testing.assert_close(z, expected, rtol=1e-10, atol=1e-10)
    target = torch.randn_like(z)
    (ours,) = torch.autograd.grad((z * target).sum(), logits)
    (theirs,) = torch.autograd.grad((expected * target).sum(), logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["potts", "class", "matrix"])
def test_gradients_of_the_recurrence(kind: str, engine: str) -> None:
    case = GridCase(1, 2, (2, 3))
    logits, filters = prepare(case, DOUBLE, engine=engine)
    weights, penalty = parameters(case, DOUBLE, kind)
    inputs = [logits.requires_grad_(), weights.requires_grad_()]
    if penalty is not None:
        inputs.append(penalty.requires_grad_())

    def fused(logits, weights, penalty=None):
        return infer(logits, filters, weights, penalty, 2, engine=engine)[0]

    def plain(logits, weights, penalty=None):
        penalty = potts(2, DOUBLE) if penalty is None else penalty
        return mean_field(-logits, filters, weights, penalty, 2)

    assert torch.autograd.gradcheck(fused, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(plain, inputs, fast_mode=True)


def test_terms_come_with_totals_where_the_core_needs_them() -> None:
    core = pytest.importorskip("crfrnn._core")
    for classes in range(1, 80):
        assert ops.needs_total(classes, "cpu") == core.needs_total(classes), classes
        assert not ops.needs_total(classes, "reference")


@needs_core
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
@pytest.mark.parametrize("classes", [21, 24, 26, 53])
def test_matrices_of_many_classes_on_rows_of_many_pixels(classes: int, dtype) -> None:
    """Products of matrices go by blocks of rows, columns and pixels; here all have a rest."""
    case = GridCase(1, classes, (2, 67))
    results = []
    for engine in ("cpu", "reference"):
        logits, filters = prepare(case, dtype, engine=engine)
        weights, penalty = parameters(case, dtype, "matrix")
        inputs = [logits.clone(), weights / classes, penalty / classes]
        for tensor in inputs:
            tensor.requires_grad_()
        z, _ = infer(inputs[0], filters, *inputs[1:], 2, engine=engine)
        target = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
        results.append([z, *torch.autograd.grad((z * target.to(dtype)).sum(), inputs)])
    bound = {torch.float32: 1e-4, DOUBLE: 1e-10}[dtype]
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=bound, atol=bound)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unary": (2, 5)}, r"unary must be \(B, C, \*S\) and not empty; got \(2, 5\)"),
        ({"weights": ()}, r"weights must be \(2,\), \(2, 3\) or \(2, 3, 3\) .* got \(\)"),
        ({"weights": (1,)}, r"2 filters and 3 classes; got \(1,\)"),
        ({"weights": (2, 4)}, r"got \(2, 4\)"),
        ({"weights": (2, 3, 3, 1)}, r"got \(2, 3, 3, 1\)"),
        ({"compatibility": (3,)}, r"compatibility must be \(3, 3\), .* got \(3,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    shapes = {"unary": (1, 3, 5), "weights": (2,), "compatibility": (3, 3)} | change
    unary, weights, compatibility = (torch.ones(shape) for shape in shapes.values())
    with pytest.raises(ValueError, match=message):
        mean_field(unary, [lambda q: q, lambda q: q], weights, compatibility, 1)


@pytest.mark.unchecked
def test_a_negative_number_of_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="iterations must not be negative; got -1"):
        mean_field(torch.ones(1, 2, 5), [], torch.ones(0), torch.ones(2, 2), -1)
