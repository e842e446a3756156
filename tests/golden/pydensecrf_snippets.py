"""How people call pydensecrf, family by family, with the names and values they use.

The module imports pydensecrf as they do. It runs unchanged on the original (`make_golden.py`) and
on this library (after `crfrnn.pydensecrf.install()`).
"""

import multiprocessing

import numpy as np
import pydensecrf.densecrf as dcrf
import pydensecrf.utils as utils
from pydensecrf import densecrf
from pydensecrf.utils import (
    compute_unary,  # noqa: F401 - imported and unused, as some do
    create_pairwise_bilateral,
    create_pairwise_gaussian,
    unary_from_labels,
    unary_from_softmax,
)


def psa(image, probs, t=10, scale_factor=1, labels=21):
    """PSA, SEAM, AFA, ToCo: the probability helper."""
    h, w = image.shape[:2]
    d = dcrf.DenseCRF2D(w, h, labels)
    unary = np.ascontiguousarray(unary_from_softmax(probs))
    d.setUnaryEnergy(unary)
    d.addPairwiseGaussian(sxy=3 / scale_factor, compat=3)
    d.addPairwiseBilateral(sxy=80 / scale_factor, srgb=13, rgbim=np.copy(image), compat=10)
    return np.array(d.inference(t)).reshape((labels, h, w))


def irn(image, labels, t=10, n_labels=21, gt_prob=0.7):
    """IRNet, ReCAM, LPCAM: the label helper."""
    h, w = image.shape[:2]
    d = dcrf.DenseCRF2D(w, h, n_labels)
    d.setUnaryEnergy(unary_from_labels(labels, n_labels, gt_prob=gt_prob, zero_unsure=False))
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=50, srgb=5, rgbim=np.ascontiguousarray(np.copy(image)), compat=10)
    q = d.inference(t)
    return np.argmax(np.array(q).reshape((n_labels, h, w)), axis=0)


class DeepLab:
    """deeplab-pytorch, CLIP-ES and others: a class that holds the parameters."""

    def __init__(self, iter_max, pos_w, pos_xy_std, bi_w, bi_xy_std, bi_rgb_std):
        self.iter_max = iter_max
        self.position = {"sxy": pos_xy_std, "compat": pos_w}
        self.bilateral = {"sxy": bi_xy_std, "srgb": bi_rgb_std, "compat": bi_w}

    def __call__(self, image, probmap):
        classes, height, width = probmap.shape
        energy = np.ascontiguousarray(utils.unary_from_softmax(probmap))
        d = dcrf.DenseCRF2D(width, height, classes)
        d.setUnaryEnergy(energy)
        d.addPairwiseGaussian(**self.position)
        d.addPairwiseBilateral(rgbim=np.ascontiguousarray(image), **self.bilateral)
        return np.array(d.inference(self.iter_max)).reshape((classes, height, width))


MAX_ITER, POS_W, POS_XY_STD, BI_W, BI_XY_STD, BI_RGB_STD = 10, 3, 1, 4, 67, 3


def stego(image, logits):
    """STEGO, MaskDistill, SmooSeg, HP, reco: constants of the module, logits of a network."""
    c, h, w = logits.shape
    exp = np.exp(logits - logits.max(axis=0))
    d = dcrf.DenseCRF2D(w, h, c)
    d.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(exp / exp.sum(axis=0))))
    d.addPairwiseGaussian(sxy=POS_XY_STD, compat=POS_W)
    d.addPairwiseBilateral(sxy=BI_XY_STD, srgb=BI_RGB_STD, rgbim=image, compat=BI_W)
    return np.array(d.inference(MAX_ITER)).reshape((c, h, w))


def maskcut(image, mask):
    """CutLER's MaskCut: a mask of zeros and ones, through a softmax."""
    h, w = mask.shape
    scores = np.stack([1 - mask, mask]).astype(np.float32)
    exp = np.exp(scores)
    d = densecrf.DenseCRF2D(w, h, 2)
    d.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(exp / exp.sum(axis=0))))
    d.addPairwiseGaussian(sxy=3, compat=7)
    d.addPairwiseBilateral(sxy=50, srgb=5, rgbim=np.array(image[:, :, ::-1], order="C"), compat=10)
    return np.argmax(np.array(d.inference(10)).reshape((2, h, w)), axis=0).astype(np.float32)


def saliency(image, annotation):
    """R3Net, BDRAR, MirrorNet, DSS: a map of 0..1, a unary made by hand, one iteration."""
    labels, tau, tiny = 2, 1.05, 1e-8
    height, width = annotation.shape
    other = -np.log(1 - annotation + tiny) / (tau * _sigmoid(1 - annotation))
    own = -np.log(annotation + tiny) / (tau * _sigmoid(annotation))
    energy = np.zeros((labels, height * width), dtype="float32")
    energy[0, :] = other.flatten()
    energy[1, :] = own.flatten()
    d = dcrf.DenseCRF2D(width, height, labels)
    d.setUnaryEnergy(energy)
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=60, srgb=5, rgbim=image, compat=5)
    result = np.array(d.inference(1)).astype("float32")[1, :]
    return result.reshape(annotation.shape)


def manga(image, mask):
    """manga-image-translator: a mask of 0..255, kernels that are not normalised."""
    h, w = mask.shape
    scores = np.stack([255 - mask.astype(np.float32), mask.astype(np.float32)]) / 255
    d = dcrf.DenseCRF2D(w, h, 2)
    d.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(scores)))
    plain = {"kernel": dcrf.DIAG_KERNEL, "normalization": dcrf.NO_NORMALIZATION}
    d.addPairwiseGaussian(sxy=1, compat=3, **plain)
    d.addPairwiseBilateral(sxy=23, srgb=7, rgbim=image, compat=20, **plain)
    result = np.argmax(d.inference(5), axis=0).reshape((h, w))
    return np.array(result * 255, dtype=np.uint8)


def krahenbuhl(image, labels, count):
    """The example of the original: labels of which 0 is unsure, free pairwise features."""
    d = example(image, labels, count)
    return np.array(d.inference(5)).reshape((count, *image.shape[:2]))


def convergence(image, labels, count):
    """The same, step by step, with the divergences that people plot."""
    d = example(image, labels, count)
    q, tmp1, tmp2 = d.startInference()
    divergences = []
    for _ in range(5):
        divergences.append(d.klDivergence(q) / (image.shape[0] * image.shape[1]))
        d.stepInference(q, tmp1, tmp2)
    return np.array(divergences)


def example(image, labels, count):
    """The model of the two."""
    d = dcrf.DenseCRF2D(image.shape[1], image.shape[0], count)
    d.setUnaryEnergy(unary_from_labels(labels, count, gt_prob=0.7, zero_unsure=True))
    feats = create_pairwise_gaussian(sdims=(3, 3), shape=image.shape[:2])
    d.addPairwiseEnergy(
        feats, compat=3, kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC
    )
    feats = create_pairwise_bilateral(sdims=(80, 80), schan=(13, 13, 13), img=image, chdim=2)
    d.addPairwiseEnergy(
        feats, compat=10, kernel=dcrf.DIAG_KERNEL, normalization=dcrf.NORMALIZE_SYMMETRIC
    )
    return d


def crfasrnn(image, probs):
    """The parameters of Zheng et al. (2015)."""
    c, h, w = probs.shape
    d = dcrf.DenseCRF2D(w, h, c)
    d.setUnaryEnergy(unary_from_softmax(probs))
    d.addPairwiseGaussian(sxy=(3, 3), compat=3)
    d.addPairwiseBilateral(sxy=(160, 160), srgb=(3, 3, 3), rgbim=image, compat=5)
    return np.array(d.inference(10)).reshape((c, h, w))


def doodler(image, labels, count):
    """doodler_engine, DiffuMask: height and width the other way round, and it must stay so."""
    h, w = image.shape[:2]
    d = dcrf.DenseCRF2D(h, w, count)
    d.setUnaryEnergy(unary_from_labels(labels.flatten(), count, 0.51, zero_unsure=False))
    d.addPairwiseGaussian(sxy=(3, 3), compat=3)
    feats = create_pairwise_bilateral(sdims=(60, 60), schan=(10, 10, 10), img=image, chdim=2)
    d.addPairwiseEnergy(feats, compat=9)
    return np.array(d.inference(10)).reshape((count, h, w))


def in_a_pool(image, probs, processes=2):
    """STEGO's and others' pools of forked processes."""
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        return pool.starmap_async(stego, [(image, np.log(probs))] * processes).get(timeout=60)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))
