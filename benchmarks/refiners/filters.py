"""Refiners that smooth one probability map after the other along the edges of the photograph."""

from __future__ import annotations

import numpy as np

from .method import Method, Numbers, Scene, Span, map_by_map, over_classes, softmax

_CV = {"needs": ("cv2",), "install": "opencv-contrib-python-headless"}


def _guided(scene: Scene, numbers: Numbers) -> np.ndarray:
    import cv2

    guide = cv2.ximgproc.createGuidedFilter(scene.image, numbers["radius"], numbers["epsilon"])
    return map_by_map(scene.probs(), guide.filter)


def _joint_bilateral(scene: Scene, numbers: Numbers) -> np.ndarray:
    import cv2

    joint = scene.image.astype(np.float32)

    def threes(maps: np.ndarray) -> np.ndarray:
        # It takes one map or three, and three cost little more than one.
        out = np.empty_like(maps)
        for first in range(0, len(maps), 3):
            part = np.resize(maps[first : first + 3], (3, *maps.shape[1:]))
            smooth = cv2.ximgproc.jointBilateralFilter(
                joint, np.ascontiguousarray(part.transpose(1, 2, 0)), -1,
                numbers["color"], numbers["position"],
            )  # fmt: skip
            out[first : first + 3] = smooth.transpose(2, 0, 1)[: len(maps) - first]
        return out

    return over_classes(scene.probs(), threes)


def _global_smoother(scene: Scene, numbers: Numbers) -> np.ndarray:
    import cv2

    smoother = cv2.ximgproc.createFastGlobalSmootherFilter(
        scene.image, numbers["smoothness"], numbers["color"]
    )
    return map_by_map(scene.probs(), smoother.filter)


def _domain_transform(scene: Scene, numbers: Numbers) -> np.ndarray:
    import cv2

    transform = cv2.ximgproc.createDTFilter(scene.image, numbers["position"], numbers["color"])
    return map_by_map(scene.probs(), transform.filter)


def _upsample(scene: Scene, numbers: Numbers) -> np.ndarray:
    from crfrnn import upsample

    height, width = scene.image.shape[:2]
    image = scene.image
    if scene.covered != (height, width):  # the gray canvas, as the network saw it
        image = np.full((*scene.covered, 3), 128, np.uint8)
        image[:height, :width] = scene.image
    fine = upsample(
        scene.coarse, image, position=numbers["position"], color=numbers["color"],
        align_corners=scene.align_corners, channels_last=True,
    )  # fmt: skip
    return softmax(fine[:, :height, :width])


METHODS = (
    Method(
        "guided-filter",
        "guided filter",
        _guided,
        ({"radius": 8, "epsilon": 100.0},),
        {"radius": Span(2, 60, whole=True), "epsilon": Span(1, 3000)},
        source="He, Sun & Tang, ECCV 2010",
        **_CV,
    ),
    Method(
        "joint-bilateral",
        "joint bilateral filter",
        _joint_bilateral,
        ({"position": 5.0, "color": 20.0},),
        {"position": Span(1, 9), "color": Span(4, 80)},
        source="Petschnigg et al., SIGGRAPH 2004",
        **_CV,
    ),
    Method(
        "global-smoother",
        "fast global smoother",
        _global_smoother,
        ({"smoothness": 100.0, "color": 5.0},),
        {"smoothness": Span(3, 3000), "color": Span(1, 40)},
        source="Min et al., TIP 2014",
        **_CV,
    ),
    Method(
        "domain-transform",
        "domain transform",
        _domain_transform,
        ({"position": 30.0, "color": 30.0},),
        {"position": Span(3, 150), "color": Span(5, 300)},
        source="Gastal & Oliveira, SIGGRAPH 2011",
        **_CV,
    ),
    Method(
        "joint-upsampling",
        "joint bilateral upsampling (crfrnn.upsample)",
        _upsample,
        ({"position": 0.5, "color": 45.0},),
        {"position": Span(0.3, 1.2), "color": Span(8, 120)},
        source="Kopf et al., SIGGRAPH 2007",
    ),
)
