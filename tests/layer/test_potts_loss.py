"""PottsLoss: the papers' formulas pair by pair in NumPy, gradients, neighborhoods, self-labels."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crfrnn import (
    Bilateral,
    DenseCRFLoss,
    FeatureGaussian,
    Gaussian,
    Neighborhood,
    PottsLoss,
    soft_cross_entropy,
)

SIZE = (4, 5)
CLASSES = 3
RELAXATIONS = ["bilinear", "quadratic", "normalized"]
CROSS = ["shannon", "reverse", "collision", "divergence"]
KERNELS = [Bilateral(6, 90, weight=1.7), Gaussian(2, weight=0.4)]


def inputs(size: tuple[int, ...] = SIZE, dtype: torch.dtype = torch.float64) -> Any:
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(2, CLASSES, *size, generator=generator, dtype=torch.float64)
    image = torch.rand(2, 3, *size, generator=generator, dtype=torch.float64) * 255
    mask = torch.rand(2, *size, generator=generator) > 0.25
    return logits.to(dtype), image.to(dtype), mask


# --- By hand: no code is shared with the library. ---


def penalty(relaxation: str, log: bool, p: np.ndarray, q: np.ndarray) -> float:
    """Of one pair of distributions; the names of arXiv 2507.01721 are on the right."""
    pq = float(p @ q)
    norms = float(np.sqrt((p @ p) * (q @ q)))
    if not log:
        return {
            "bilinear": 1 - pq,  # P_BL
            "quadratic": float(((p - q) ** 2).sum()) / 2,  # P_Q
            "normalized": 1 - pq / norms,  # P_NQ
        }[relaxation]
    return {
        "bilinear": -math.log(pq),  # P_CCE
        "quadratic": -math.log(1 - float(((p - q) ** 2).sum()) / 2),  # P_LQ
        "normalized": -math.log(pq / norms),  # P_CD
    }[relaxation]


def affinity(image: np.ndarray) -> np.ndarray:
    """(N, N) Σ_k w_k exp(-½ |f_i - f_j|²) of `KERNELS`."""
    height, width = image.shape[1:]
    y, x = np.mgrid[:height, :width]
    place = np.stack([x, y]).reshape(2, -1).T
    color = image.reshape(3, -1).T
    apart = ((place[:, None] - place) ** 2).sum(-1)
    unlike = ((color[:, None] - color) ** 2).sum(-1)
    both = 1.7 * np.exp(-0.5 * apart / 6**2 - 0.5 * unlike / 90**2)
    return both + 0.4 * np.exp(-0.5 * apart / 2**2)


def neighbors_by_hand(radius: float, size: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    place = np.stack([x, y]).reshape(2, -1).T
    apart = np.sqrt(((place[:, None] - place) ** 2).sum(-1))
    return (apart > 0) & (apart <= radius + 1e-9)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def by_hand(
    relaxation: str, log: bool, z: Tensor, image: Tensor, mask: Tensor, pairs: np.ndarray | None
) -> float:
    """The mean over images of Σ_ij K_ij P(S_i, S_j) / N, for pairs of pixels, or all (None)."""
    total = []
    for logits, picture, inside in zip(z.numpy(), image.numpy(), mask.numpy(), strict=True):
        s, inside = softmax(logits.reshape(CLASSES, -1).T), inside.reshape(-1)
        kernel = affinity(picture) * (1 if pairs is None else pairs)
        kernel = kernel * inside[:, None] * inside
        value = sum(
            kernel[i, j] * penalty(relaxation, log, s[i], s[j]) for i, j in np.argwhere(kernel > 0)
        )
        total.append(value / inside.sum())
    return float(np.mean(total))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_all_pairs_have_the_formula_s_value(relaxation: str, masked: bool) -> None:
    z, image, mask = inputs()
    mask = mask if masked else torch.ones_like(mask)
    loss = PottsLoss(KERNELS, relaxation=relaxation, normalization="none", filter="exact")
    expected = by_hand(relaxation, False, z, image, mask, None)
    got = loss(z, image, mask=mask if masked else None)
    assert float(got) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("normalization", ["symmetric", "after", "before"])
@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_normalized_filters_need_not_be_symmetric(relaxation: str, normalization: str) -> None:
    """The matrix of each filter, column by column, and then pair by pair."""
    z, image, _ = inputs()
    loss = PottsLoss(KERNELS, relaxation=relaxation, normalization=normalization, filter="lattice")
    pixels = math.prod(SIZE)
    prepared = loss.prepare(image, dtype=torch.float64)
    units = torch.eye(pixels, dtype=torch.float64).view(1, pixels, *SIZE).expand(2, -1, -1, -1)
    expected = 0.0
    weights = (1.7, 0.4)
    for kernel_filter, weight in zip(prepared.filters, weights, strict=True):
        columns = kernel_filter(units).flatten(2)  # (2, N, N): row j is F's column j
        for item in range(2):
            s = softmax(z[item].reshape(CLASSES, -1).T.numpy())
            for i in range(pixels):
                for j in range(pixels):
                    entry = float(columns[item, j, i])
                    expected += weight * entry * penalty(relaxation, False, s[i], s[j])
    assert float(loss(z, image)) == pytest.approx(expected / pixels / 2, rel=1e-9)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("radius", [1, 1.5, 2.3])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_neighbors_have_the_formula_s_value(
    relaxation: str, log: bool, radius: float, masked: bool
) -> None:
    z, image, mask = inputs()
    mask = mask if masked else torch.ones_like(mask)
    neighbors = Neighborhood(radius)
    loss = PottsLoss(KERNELS, relaxation=relaxation, log=log, neighbors=neighbors)
    near = neighbors_by_hand(radius, SIZE)
    expected = by_hand(relaxation, log, z, image, mask, near / near.sum(1).max().clip(1))
    full = {1: 4, 1.5: 8, 2.3: 20}[radius]
    expected *= near.sum(1).max() / full  # a grid this small has no pixel with all neighbors
    assert neighbors.count(2) == full
    got = loss(z, image, mask=mask if masked else None)
    assert float(got) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("masked", [False, True])
def test_the_nearest_neighbors_are_those_most_alike(masked: bool) -> None:
    z, image, mask = inputs()
    mask = mask if masked else torch.ones_like(mask)
    loss = PottsLoss(KERNELS, log=True, neighbors=Neighborhood(2, nearest=3))
    total = 0.0
    for item in range(2):
        inside = mask[item].numpy().reshape(-1)
        s = softmax(z[item].numpy().reshape(CLASSES, -1).T)
        kernel = affinity(image[item].numpy())
        near = neighbors_by_hand(2, SIZE) & inside
        energy = 0.0
        for i in np.flatnonzero(inside):
            others = np.flatnonzero(near[i])
            for j in others[np.argsort(-kernel[i, others])][:3]:
                energy += kernel[i, j] * penalty("bilinear", True, s[i], s[j])
        total += energy / 3 / inside.sum()
    got = loss(z, image, mask=mask if masked else None)
    assert float(got) == pytest.approx(total / 2, rel=1e-9)


@pytest.mark.parametrize("size", [(7,), (2, 3, 4)])
def test_signals_and_volumes_have_neighbors_too(size: tuple[int, ...]) -> None:
    z = torch.randn(1, CLASSES, *size, dtype=torch.float64)
    image = torch.full((1, 1, *size), 90.0, dtype=torch.float64)
    far = [FeatureGaussian(bandwidth=1e3, weight=1)]  # every pair has the weight 1
    got = PottsLoss(far, relaxation="quadratic", neighbors=Neighborhood())(
        z, None, features=[image]
    )
    s, expected = z.softmax(1), 0.0
    for axis in range(2, 2 + len(size)):
        step = s.diff(dim=axis)
        expected += 2 * 0.5 * float((step**2).sum())
    expected /= 2 * len(size) * math.prod(size)
    assert float(got) == pytest.approx(expected, rel=1e-9)


OPTIONS = [
    *[{"relaxation": r, "filter": f} for r in RELAXATIONS for f in ("exact", "lattice")],
    *[
        {"relaxation": r, "log": log, "neighbors": n}
        for r in RELAXATIONS
        for log in (False, True)
        for n in (Neighborhood(1.5), Neighborhood(2, nearest=2))
    ],
    *[{"entropy": e, "entropy_weight": 0.7, "filter": "exact"} for e in ("shannon", "collision")],
    {"relaxation": "quadratic", "normalization": "after", "filter": "exact"},
    {"relaxation": "normalized", "normalization": "before", "filter": "exact"},
]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradcheck(options: dict[str, Any], masked: bool) -> None:
    z, image, mask = inputs((2, 3))
    loss = PottsLoss(KERNELS, **options)
    prepared = loss.prepare(image, mask=mask if masked else None, dtype=torch.float64)
    # The lattice's blurs commute only nearly, but its adjoint is exact.
    assert torch.autograd.gradcheck(lambda a: loss(a, prepared), z.requires_grad_())
    (slope,) = torch.autograd.grad(loss(z, prepared), z)
    assert slope.abs().max() > 1e-6
    if masked:
        assert not slope[~mask[:, None].expand_as(slope)].any()


@pytest.mark.parametrize("kind", CROSS)
def test_gradcheck_and_values_of_soft_cross_entropy(kind: str) -> None:
    z, _, mask = inputs()
    y = inputs()[0].roll(1, 2).softmax(1)

    def value(p: np.ndarray, y: np.ndarray) -> float:
        return {
            "shannon": -float((y * np.log(p)).sum()),
            "reverse": -float((p * np.log(y)).sum()),
            "collision": -math.log(float(p @ y)),
            "divergence": -math.log(float(p @ y) / math.sqrt(float(p @ p) * float(y @ y))),
        }[kind]

    p, t = (a.movedim(1, -1)[mask].numpy() for a in (z.softmax(1), y))
    expected = np.mean([value(a, b) for a, b in zip(p, t, strict=True)])
    got = soft_cross_entropy(z, y, kind=kind, mask=mask)
    # Labels are mixed with 1e-6 of the uniform distribution.
    assert float(got) == pytest.approx(expected, rel=1e-4)
    small = z[:1, :, :2, :3].clone().requires_grad_()
    target = small.detach().flip(3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: soft_cross_entropy(a, b.softmax(1), kind=kind, mask=mask[:1, :2, :3]),
        (small, target),
    )


def test_entropy_terms_have_their_formulas_and_their_weight() -> None:
    z, image, mask = inputs()
    s = z.softmax(1)
    shannon = -(s * s.log()).sum(1)
    collision = -(s**2).sum(1).log()
    plain = PottsLoss(KERNELS)(z, image, mask=mask)
    for kind, values in (("shannon", shannon), ("collision", collision)):
        got = PottsLoss(KERNELS, entropy=kind, entropy_weight=0.3)(z, image, mask=mask)
        means = [float(v[m].mean()) for v, m in zip(values, mask, strict=True)]
        assert float(got - plain) == pytest.approx(0.3 * np.mean(means), rel=1e-9)


def test_the_loss_of_2018_is_one_of_its_cases() -> None:
    z, image, mask = inputs()
    old = DenseCRFLoss(KERNELS, filter="exact")
    assert isinstance(old, PottsLoss)
    new = PottsLoss(KERNELS, filter="exact", relaxation="bilinear")
    assert torch.equal(old(z, image, mask=mask), new(z, image, mask=mask))
    per_class = [Gaussian(2, weight=(1.0, 0.5, 0.0))]
    assert torch.equal(DenseCRFLoss(per_class)(z, image), PottsLoss(per_class)(z, image))


def test_weights_per_class_scale_the_terms_of_each_class() -> None:
    z, image, _ = inputs()
    weights = (1.0, 0.5, 0.0)
    kernel = Gaussian(2, weight=weights)
    got = PottsLoss([kernel], relaxation="quadratic", filter="exact", normalization="none")
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    place = np.stack([x, y]).reshape(2, -1).T
    gauss = np.exp(-0.5 * ((place[:, None] - place) ** 2).sum(-1) / 4)
    expected = 0.0
    for logits in z.numpy():
        s = softmax(logits.reshape(CLASSES, -1).T)
        apart = 0.5 * (((s[:, None] - s) ** 2) * np.array(weights)).sum(-1)
        expected += (gauss * apart).sum() / math.prod(SIZE) / 2
    assert float(got(z, image)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("log", [False, True])
def test_what_each_relaxation_prefers(relaxation: str, log: bool) -> None:
    """Equal soft labels cost only the bilinear one; opposite certain ones cost most."""
    loss = PottsLoss([Gaussian(9, weight=1)], relaxation=relaxation, log=log,
                     neighbors=Neighborhood())  # fmt: skip
    undecided = torch.zeros(1, 2, 1, 2)
    sure = torch.tensor([[12.0, 12.0], [-12.0, -12.0]]).view(1, 2, 1, 2)
    opposite = torch.tensor([[12.0, -12.0], [-12.0, 12.0]]).view(1, 2, 1, 2)
    equal = float(loss(undecided, None))
    assert float(loss(sure, None)) == pytest.approx(0, abs=1e-5)
    assert (equal > 0.1) == (relaxation == "bilinear")
    assert float(loss(opposite, None)) > max(equal, 0.2)
    if not log:
        # "Half a label" between two certain ones: only the quadratic one rewards it.
        between = torch.tensor([[12.0, 0.0, -12.0], [-12.0, 0.0, 12.0]]).view(1, 2, 1, 3)
        sharp = torch.tensor([[12.0, 12.0, -12.0], [-12.0, -12.0, 12.0]]).view(1, 2, 1, 3)
        change = float(loss(between, None)) / float(loss(sharp, None))
        expected = {"bilinear": 1.0, "quadratic": 0.5, "normalized": 2 * (1 - 0.5**0.5)}
        assert change == pytest.approx(expected[relaxation], abs=1e-3)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("log", [False, True])
def test_extreme_logits_stay_finite(relaxation: str, log: bool) -> None:
    loss = PottsLoss([Gaussian(9)], relaxation=relaxation, log=log, neighbors=Neighborhood(),
                     entropy="collision")  # fmt: skip
    z = torch.tensor([[300.0, -300.0], [-300.0, 300.0]]).view(1, 2, 1, 2).requires_grad_()
    value = loss(z, None)
    (slope,) = torch.autograd.grad(value, z)
    assert value.isfinite()
    assert slope.isfinite().all()
    assert PottsLoss([Gaussian(9)], relaxation=relaxation)(z, None).isfinite()


def test_half_precision_and_batches() -> None:
    z, image, mask = inputs(dtype=torch.float32)
    loss = PottsLoss(KERNELS, relaxation="normalized", log=True, neighbors=Neighborhood(2))
    half = z.half().requires_grad_()
    value = loss(half, image)
    assert value.dtype == torch.float32
    assert torch.autograd.grad(value, half)[0].dtype == torch.float16
    parts = [float(loss(z[i : i + 1], image[i : i + 1])) for i in range(2)]
    assert float(loss(z, image)) == pytest.approx(np.mean(parts), rel=1e-5)
    nothing = torch.stack([mask[0], torch.zeros_like(mask[1])])
    assert float(loss(z, image, mask=nothing)) == pytest.approx(
        float(loss(z[:1], image[:1], mask=mask[:1])) / 2, rel=1e-5
    )


# --- Self-labels ---


def scene() -> tuple[Tensor, Tensor, Tensor]:
    image = torch.zeros(1, 3, 8, 9)
    image[..., 5:] = 200
    labels = torch.full((1, 8, 9), 255)
    labels[0, 3, 1], labels[0, 5, 7] = 0, 1
    return torch.zeros(1, 2, 8, 9), image, labels


def energy_of(
    loss: PottsLoss, z: Tensor, y: Tensor, image: Tensor, cross: str, attachment: float
) -> float:
    apart = soft_cross_entropy(z, y, kind=cross)
    return float(attachment * apart + loss(y.log(), image))


@pytest.mark.parametrize("neighbors", [None, Neighborhood(1.5)])
@pytest.mark.parametrize("cross", CROSS)
def test_self_labels_lower_their_energy_at_every_step(
    cross: str, neighbors: Neighborhood | None
) -> None:
    z, image, _ = inputs((6, 7))
    loss = PottsLoss(KERNELS, relaxation="quadratic", neighbors=neighbors)
    before = z.softmax(1)
    energies = [energy_of(loss, z[:1], before[:1], image[:1], cross, 0.5)]
    for steps in (1, 2, 5, 20):
        y = loss.self_labels(z, image, cross=cross, attachment=0.5, steps=steps)
        torch.testing.assert_close(y.sum(1), torch.ones_like(y[:, 0]))
        energies.append(energy_of(loss, z[:1], y[:1], image[:1], cross, 0.5))
        # An image does not depend on its batch.
        alone = loss.self_labels(z[:1], image[:1], cross=cross, attachment=0.5, steps=steps)
        torch.testing.assert_close(alone, y[:1])
    assert all(b <= a + 1e-6 for a, b in itertools.pairwise(energies))
    assert energies[-1] < energies[0] - 1e-3


def test_self_labels_reach_the_least_energy() -> None:
    """Against many random starts of another optimizer, which may not be any better."""
    z, image, _ = inputs((2, 3))
    loss = PottsLoss(KERNELS, relaxation="quadratic", neighbors=Neighborhood())
    y = loss.self_labels(z[:1], image[:1], cross="shannon", steps=200)
    best = energy_of(loss, z[:1], y, image[:1], "shannon", 1.0)
    for seed in range(2):
        torch.manual_seed(seed)
        free = torch.randn_like(z[:1], requires_grad=True)
        optimizer = torch.optim.Adam([free], lr=0.1)
        for _ in range(300):
            log_y = free.log_softmax(1)
            value = -(log_y.exp() * z[:1].log_softmax(1)).sum(1).mean() + loss(log_y, image[:1])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        assert best <= float(value.detach()) + 0.02


def test_labels_stay_and_spread() -> None:
    z, image, labels = scene()
    loss = PottsLoss(
        [Bilateral(100, 15, weight=40)], relaxation="normalized", neighbors=Neighborhood(1.5)
    )
    y = loss.self_labels(z, image, labels, steps=60)
    known = labels != 255
    assert (y.argmax(1)[known] == labels[known]).all()
    assert y.movedim(1, -1)[known].max(1).values.min() > 0.999
    torch.testing.assert_close(y.argmax(1), (image[:, 0] > 0).long())
    outside = torch.ones_like(known)
    outside[:, :2] = False
    masked = loss.self_labels(z + 1e-3 * torch.randn_like(z), image, labels, mask=outside)
    torch.testing.assert_close(masked[:, :, :2], torch.full_like(masked[:, :, :2], 0.5),
                               atol=1e-2, rtol=0)  # fmt: skip


def test_no_gradient_reaches_the_network_through_its_labels() -> None:
    z, image, labels = scene()
    z = z.requires_grad_()
    y = PottsLoss(neighbors=Neighborhood()).self_labels(z, image, labels, steps=3)
    assert not y.requires_grad
    (slope,) = torch.autograd.grad(soft_cross_entropy(z, y), z)
    assert slope.isfinite().all()


@pytest.mark.parametrize("way", ["potts", "self"])
def test_training_from_two_labeled_pixels(way: str) -> None:
    _, image, labels = scene()
    loss = PottsLoss(
        [Bilateral(100, 15, weight=4)], relaxation="normalized", log=True,
        neighbors=Neighborhood(1.5), entropy="collision", entropy_weight=0.05,
    )  # fmt: skip
    logits = (1e-2 * torch.randn(1, 2, 8, 9)).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.3)
    prepared = loss.prepare(image)
    for _ in range(60 if way == "potts" else 30):
        total = torch.nn.functional.cross_entropy(logits, labels, ignore_index=255)
        if way == "potts":
            total = total + loss(logits, prepared)
        else:
            y = loss.self_labels(logits, prepared, labels, attachment=0.2, steps=3)
            total = total + soft_cross_entropy(logits, y)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    torch.testing.assert_close(logits.argmax(1), (image[:, 0] > 0).long())


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"relaxation": "linear"}, ValueError, "unknown relaxation 'linear'; expected one of: bil"),
        ({"log": True}, ValueError, "log=True needs neighbors="),
        ({"entropy": "renyi"}, ValueError, "unknown entropy 'renyi'"),
        ({"neighbors": 4}, TypeError, r"neighbors must be a Neighborhood.*got 4"),
        ({"neighbors": Neighborhood(), "filter": "exact"}, ValueError, "is for filters over all"),
        ({"neighbors": Neighborhood(), "kernels": []}, ValueError, "at least one kernel"),
        ({"entropy_weight": math.inf}, ValueError, "entropy_weight must be finite"),
        (
            {"kernels": [Gaussian(weight=(1, 2, 3))], "relaxation": "normalized"},
            ValueError,
            "Gaussian weight has 3 numbers; a loss with neighbors=",
        ),
    ],
)
def test_options_that_cannot_work(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        PottsLoss(**options)


@pytest.mark.unchecked
def test_bad_input_is_named() -> None:
    z, image, _ = inputs()
    y = z.softmax(1)
    near = PottsLoss(neighbors=Neighborhood())
    with pytest.raises(ValueError, match="radius must be at least 1"):
        Neighborhood(0.5)
    with pytest.raises(ValueError, match="radius is at most 31"):
        Neighborhood(50)
    with pytest.raises(ValueError, match="nearest must be at least 1"):
        Neighborhood(2, nearest=0)
    with pytest.raises(ValueError, match=r"neighbors in 3 axes; at most 2000"):
        Neighborhood(20).offsets(3)
    with pytest.raises(ValueError, match="PottsLoss: logits and image must have the same"):
        near(z, image[..., :3])
    with pytest.raises(ValueError, match="prepared filters were built for"):
        near(z, PottsLoss().prepare(image, dtype=torch.float64))
    with pytest.raises(
        ValueError, match=r"labels must be 0..2, or 255 where a pixel has none; got"
    ):
        near.self_labels(z, image, torch.full((2, *SIZE), 3))
    with pytest.raises(TypeError, match=r"labels must be integer class ids; got torch.float32"):
        near.self_labels(z, image, torch.zeros(2, *SIZE))
    with pytest.raises(ValueError, match=r"labels must be \(B, \*S\)"):
        near.self_labels(z, image, torch.zeros(2, 1, *SIZE, dtype=torch.int64))
    with pytest.raises(ValueError, match="unknown cross 'kl'"):
        near.self_labels(z, image, cross="kl")
    with pytest.raises(ValueError, match="unknown kind 'kl'"):
        soft_cross_entropy(z, y, kind="kl")
    with pytest.raises(ValueError, match="must have the same shape"):
        soft_cross_entropy(z, y[..., :2])
    with pytest.raises(ValueError, match=r"soft_labels must be probabilities.*softmax\(1\)"):
        soft_cross_entropy(z, z)
