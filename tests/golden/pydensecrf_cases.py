"""What is compared with the original: named calls, each giving arrays to store.

Runs on whatever `import pydensecrf` finds, as `pydensecrf_snippets.py` does.
"""

import numpy as np
import pydensecrf.densecrf as dcrf
import pydensecrf.utils as utils

#: name -> function without arguments that gives marginals (C, N) or any other array.
CASES = {}

NORMALIZATIONS = {
    "none": dcrf.NO_NORMALIZATION,
    "before": dcrf.NORMALIZE_BEFORE,
    "after": dcrf.NORMALIZE_AFTER,
    "symmetric": dcrf.NORMALIZE_SYMMETRIC,
}


def define(scenes):
    """Fill CASES; `scenes` is the module that makes the inputs."""
    image, labels, probs = scenes.drawn()
    h, w = labels.shape
    c = len(probs)
    unary = utils.unary_from_softmax(probs)
    random = np.random.RandomState(3)  # its stream never changes
    noise = random.randint(0, 256, (h, w, 3)).astype(np.uint8)
    bands = np.concatenate([image, noise[..., :2], image[..., :2] // 2], axis=2)
    skewed = random.uniform(-2, 8, (c, c)).astype(np.float32)
    vector = np.array([-6, -1, 2, -8, -4], np.float32)

    def model(compat=10, weight=3, guide=image, sxy=40, srgb=13, norm=3, kernel=1):
        d = dcrf.DenseCRF2D(w, h, c)
        d.setUnaryEnergy(unary)
        d.addPairwiseGaussian(sxy=3, compat=weight, kernel=kernel, normalization=norm)
        d.addPairwiseBilateral(sxy, srgb, guide, compat, kernel, norm)
        return d

    def marginals(*args, steps=5, **options):
        return lambda: np.array(model(*args, **options).inference(steps))

    for name, norm in NORMALIZATIONS.items():
        gain = 0.02 if name == "none" else 1  # raw sums are large
        CASES[f"normalization-{name}"] = marginals(10 * gain, 3 * gain, norm=norm)
        CASES[f"normalization-{name}-noise"] = marginals(10 * gain, 3 * gain, noise, norm=norm)
        CASES[f"compat-matrix-{name}"] = marginals(skewed * np.float32(gain), 3 * gain, norm=norm)
        CASES[f"kl-{name}"] = lambda gain=gain, norm=norm: divergences(
            model(skewed * np.float32(gain), 3 * gain, norm=norm)
        )
    CASES["raw-gain"] = marginals(10, 3, norm=NORMALIZATIONS["none"])
    for name, kernel in [("const", dcrf.CONST_KERNEL), ("full", dcrf.FULL_KERNEL)]:
        CASES[f"kernel-{name}"] = marginals(kernel=kernel)

    eye = np.eye(c, dtype=np.float32)
    compats = {
        "number-negative": -2,
        "number-float": np.float64(2.5),
        "vector": vector,
        "vector-repels": np.full(c, 3, np.float32),
        "vector-of-number": np.full(c, -3, np.float32),
        "matrix-potts": 4 * (1 - eye),
        "matrix-identity": 3 * eye,
        "matrix-diagonal": np.diag(vector),
    }
    for name, compat in compats.items():
        CASES[f"compat-{name}"] = marginals(compat)
        CASES[f"kl-{name}"] = lambda compat=compat: divergences(model(compat))
    CASES["compat-mixed"] = marginals(skewed, vector)
    CASES["kl-number"] = lambda: divergences(model())
    CASES["bandwidths-per-axis"] = marginals(sxy=(50, 12.5), srgb=(5, 13, 40))
    CASES["noise-number"] = marginals(guide=noise, sxy=80)
    for steps in (0, 1, 2, 20):
        CASES[f"steps-{steps}"] = marginals(steps=steps)

    def stepped():
        d = model(skewed, vector)
        q, tmp1, tmp2 = d.startInference()
        for _ in range(5):
            d.stepInference(q, tmp1, tmp2)
        return np.array(q)

    CASES["stepped"] = stepped
    CASES["started"] = lambda: np.array(model().startInference()[0])

    def bare(unary=True, pairwise=True, steps=3):
        d = dcrf.DenseCRF2D(w, h, c)
        if unary is not False:
            d.setUnary(unary)
        if pairwise:
            d.addPairwiseGaussian(3, vector)
        return np.array(d.inference(steps))

    CASES["no-unary"] = lambda: bare(unary=False)
    CASES["no-unary-no-steps"] = lambda: bare(unary=False, steps=0)
    CASES["no-pairwise"] = lambda: bare(dcrf.ConstUnary(unary), pairwise=False)
    CASES["const-unary"] = lambda: bare(dcrf.ConstUnary(unary))
    basis = random.randn(4, h * w).astype(np.float32)
    slopes = random.randn(c, 4).astype(np.float32)
    CASES["logistic-unary"] = lambda: bare(dcrf.LogisticUnary(slopes, basis))
    impossible = unary.copy()
    impossible[2, : h * w // 2] = np.inf
    CASES["impossible-labels"] = lambda: bare(dcrf.ConstUnary(impossible))

    def free(features, planar=False, energies=unary, compat=8, norm=3):
        points = features[0].shape[1]
        d = dcrf.DenseCRF2D(w, h, c) if planar else dcrf.DenseCRF(points, c)
        d.setUnaryEnergy(energies)
        for feature in features:
            d.addPairwiseEnergy(np.ascontiguousarray(feature), compat, normalization=norm)
        return np.array(d.inference(5))

    near = utils.create_pairwise_gaussian((3, 4), (h, w))
    volume = {
        "image": image[:48, :72, 0].reshape(12, 12, 24),
        "channels": image[:48, :72].reshape(12, 12, 24, 3),
        "unary": unary.reshape(c, h, w)[:, :48, :72].reshape(c, -1),
    }
    features = {
        "gaussian": utils.create_pairwise_gaussian((3, 4), (h, w)),
        "gaussian-negative": utils.create_pairwise_gaussian((-1, -1), (h, w)),
        "rgb": utils.create_pairwise_bilateral((40, 30), (13, 20, 9), image, chdim=2),
        "rgb-number": utils.create_pairwise_bilateral((40, 30), 13, image, chdim=2),
        "rgb-first": utils.create_pairwise_bilateral(
            (40, 30), (13, 20, 9), image.transpose(2, 0, 1).copy(), chdim=0
        ),
        "channels-in-the-middle": utils.create_pairwise_bilateral(
            (40, 30), 13, image.transpose(0, 2, 1).copy(), chdim=1
        ),
        "grey": utils.create_pairwise_bilateral((40, 30), (13,), image[..., 0].copy()),
        "grey-number": utils.create_pairwise_bilateral([40, 30], 13.5, image[..., 0].copy(), -1),
        "two-bands": utils.create_pairwise_bilateral((40, 30), (9, 9), bands[..., 2:4], chdim=2),
        "four-bands": utils.create_pairwise_bilateral((40, 30), 30, bands[..., :4], chdim=2),
        "seven-bands": utils.create_pairwise_bilateral((40, 30), [40] * 7, bands, chdim=2),
        # Values as of CT, and a bandwidth that was meant for 0..1: 300 000 bandwidths apart.
        "wide-range": utils.create_pairwise_bilateral(
            (40, 30), (0.01,), image[..., 0] * np.float32(16) - 1000
        ),
    }
    for name, feature in features.items():
        CASES[f"features-{name}"] = lambda feature=feature: feature[:, ::37]
        CASES[f"free-{name}"] = lambda feature=feature: free([near, feature])
        CASES[f"planar-{name}"] = lambda feature=feature: free([feature], planar=True)
    for name, norm in NORMALIZATIONS.items():
        scaled = 0.02 * skewed if name == "none" else skewed
        CASES[f"free-{name}"] = lambda scaled=scaled, norm=norm: free(
            [features["seven-bands"]], compat=np.float32(scaled), norm=norm
        )
    solid = {
        "volume-gaussian": utils.create_pairwise_gaussian((2, 3, 4), (12, 12, 24)),
        "volume-grey": utils.create_pairwise_bilateral((5, 9, 9), (20,), volume["image"]),
        "volume-channels": utils.create_pairwise_bilateral(
            (5, 9, 9), (20, 20, 20), volume["channels"], chdim=3
        ),
    }
    for name, feature in solid.items():
        CASES[f"features-{name}"] = lambda feature=feature: feature[:, ::37]
        CASES[f"free-{name}"] = lambda feature=feature: free([feature], energies=volume["unary"])
    define_utilities(labels, probs)


def divergences(d, steps=4):
    """The divergence before and after each step."""
    q, tmp1, tmp2 = d.startInference()
    values = [d.klDivergence(q)]
    for _ in range(steps):
        d.stepInference(q, tmp1, tmp2)
        values.append(d.klDivergence(q))
    return np.array(values, np.float64)


def define_utilities(labels, probs):
    """Cases of `utils`, on every 37th pixel."""
    few_labels = labels.ravel()[::37]
    few = np.ascontiguousarray(probs.reshape(len(probs), -1)[:, ::37])
    image_like = np.ascontiguousarray(few[:, :126].reshape(len(few), 9, 14))
    zeros = few.copy()
    zeros[1, ::3] = 0
    calls = {
        "softmax": lambda: utils.unary_from_softmax(few),
        "softmax-image": lambda: utils.unary_from_softmax(image_like),
        "softmax-double": lambda: utils.unary_from_softmax(few.astype(np.float64)),
        "softmax-zeros": lambda: utils.unary_from_softmax(zeros),
        "softmax-scale": lambda: utils.unary_from_softmax(zeros, scale=0.6),
        "softmax-scale-one": lambda: utils.unary_from_softmax(few, 1),
        "softmax-clip": lambda: utils.unary_from_softmax(zeros, None, 0.05),
        "softmax-no-clip": lambda: utils.unary_from_softmax(few, clip=None),
        "softmax-old": lambda: utils.softmax_to_unary(few),
        "softmax-old-scale": lambda: utils.softmax_to_unary(few, GT_PROB=0.8),
        "labels-unsure": lambda: utils.unary_from_labels(few_labels, 4, 0.7),
        "labels-unsure-image": lambda: utils.unary_from_labels(
            few_labels[:126].reshape(9, 14), 4, gt_prob=0.7, zero_unsure=True
        ),
        "labels": lambda: utils.unary_from_labels(few_labels, 5, 0.51, zero_unsure=False),
        "labels-positional": lambda: utils.unary_from_labels(few_labels, 7, 0.9, False),
        "labels-old": lambda: utils.compute_unary(few_labels, 4),
        "labels-old-sure": lambda: utils.compute_unary(few_labels, M=4, GT_PROB=0.8),
    }
    CASES.update({f"unary-{name}": call for name, call in calls.items()})


def families(snippets, image, labels, probs):
    """The helper families on one image: name -> what the family returns."""
    foreground = 1 - probs[0]
    count = len(probs)
    mask = (foreground > 0.5).astype(np.float64)
    deeplab = snippets.DeepLab(10, 3, 1, 4, 67, 3)
    return {
        "psa": lambda: snippets.psa(image, probs, labels=count),
        "deeplab": lambda: deeplab(image, probs),
        "irn": lambda: snippets.irn(image, labels, n_labels=count),
        "stego": lambda: snippets.stego(image, np.log(probs)),
        "maskcut": lambda: snippets.maskcut(image, mask),
        "saliency": lambda: two_rows(snippets.saliency(image, foreground)),
        "manga": lambda: snippets.manga(image, (255 * mask).astype(np.uint8)),
        "crfasrnn": lambda: snippets.crfasrnn(image, probs),
        "krahenbuhl": lambda: snippets.krahenbuhl(image, labels, count),
    }


def on_photograph(image, probs):
    """Normalisations and compatibilities on a photograph: name -> marginals."""
    c, h, w = probs.shape
    random = np.random.RandomState(5)  # its stream never changes
    compats = {
        "number": 10,
        "vector": random.uniform(-10, 1, c).astype(np.float32),
        "matrix": random.uniform(0, 10, (c, c)).astype(np.float32),
    }

    def marginals(norm, compat, gain):
        d = dcrf.DenseCRF2D(w, h, c)
        d.setUnaryEnergy(utils.unary_from_softmax(probs))
        d.addPairwiseGaussian(sxy=3, compat=3 * gain, normalization=norm)
        d.addPairwiseBilateral(80, 13, image, compat * gain, dcrf.DIAG_KERNEL, norm)
        return np.array(d.inference(5))

    pairs = [(norm, "number") for norm in NORMALIZATIONS]
    pairs += [("symmetric", "vector"), ("symmetric", "matrix")]
    return {
        f"{norm}-{compat}": lambda norm=norm, compat=compat: marginals(
            NORMALIZATIONS[norm], compats[compat], 0.02 if norm == "none" else 1
        )
        for norm, compat in pairs
    }


def scene_families(snippets, scenes):
    """Families that are compared on the drawn scene, some with other arguments."""
    image, labels, probs = scenes.drawn()
    more = {
        "psa-small": lambda: snippets.psa(image, probs, t=10, scale_factor=12, labels=len(probs)),
        "krahenbuhl-kl": lambda: snippets.convergence(image, labels, 4),
        "doodler": lambda: snippets.doodler(image, labels, len(probs)),
    }
    return {**families(snippets, image, labels, probs), **more}


def two_rows(foreground):
    """Marginals (2, ...) from those of the second label."""
    return np.stack([1 - foreground, foreground])


def pack(result, step):
    """What is stored: labels of all pixels and marginals of some, or the array itself."""
    result = np.asarray(result)
    if result.ndim < 2 or result.dtype.kind != "f" or not sums_to_one(result):
        return {"value": result.astype(np.uint8) if result.dtype.kind in "iu" else result}
    flat = result.reshape(len(result), -1)
    q = np.round(flat[:, ::step] * 65535).astype(np.uint16)
    return {"labels": flat.argmax(axis=0).astype(np.uint8), "q": q}


def sums_to_one(result):
    """Tell marginals from other arrays."""
    return bool(np.allclose(result.sum(axis=0), 1, atol=1e-3))
