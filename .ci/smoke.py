"""Prove that an installed wheel works: refine arrays and files, and where torch is, train a step.

Run it with the Python that holds the wheel; it refuses the checkout beside it. Prints what it did,
and ends with an error at the first thing that is not as it should be. `--torch without` or `--torch
with` refuses an environment that is not so.
"""

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

CHECKOUT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", choices=("with", "without"), help="what must be the case here")
    expected = parser.parse_args().torch
    torch = "without" if importlib.util.find_spec("torch") is None else "with"
    require(expected in (None, torch), f"this environment is {torch} torch")
    check_installation()
    refine_arrays()
    refine_files()
    if importlib.util.find_spec("skimage") is not None:
        refine_photograph()
    if torch == "with":
        train_one_step()
    else:
        refuse_to_train()
    print(f"smoke: all well, {torch} torch")


def require(condition: bool, problem: str) -> None:
    """Stop if `condition` does not hold; unlike assert, under `python -O` too."""
    if not condition:
        sys.exit(f"smoke: {problem}")


def check_installation() -> None:
    """The package comes from a wheel, has its version, and would run on the compiled core."""
    import crfrnn

    where = Path(crfrnn.__file__).resolve()
    require(CHECKOUT / "src" not in where.parents, f"{where} is the checkout, not a wheel")
    info = crfrnn.info()
    print(f"{where.parent} on {sysconfig.get_platform()}\n{info}")
    require(info.engines["cpu"] == "ready", f"the compiled core: {info.engines['cpu']}")
    said = command("--version").strip()
    require(said == f"crfrnn {version('crfrnn')}", f"crfrnn --version says {said!r}")
    require(crfrnn.__version__ == version("crfrnn"), f"__version__ is {crfrnn.__version__!r}")


def square() -> tuple[np.ndarray, np.ndarray]:
    """A photograph of a bright square, and scores (2, H, W) that know it coarsely."""
    random = np.random.default_rng(0)
    truth = np.zeros((48, 64), np.int64)
    truth[8:40, 16:48] = 1
    image = np.where(truth[..., None] == 1, 180, 60) + random.normal(0, 4, (48, 64, 3))
    coarse = np.roll(truth, 3, axis=1) + random.normal(0, 0.2, truth.shape)
    logits = np.stack([1 - coarse, coarse]).astype(np.float32)
    return image.clip(0, 255).astype(np.uint8), 2 * logits


def refine_arrays() -> None:
    """`refine` sharpens scores on NumPy arrays, and the drop-in gives the same labels."""
    from crfrnn import Bilateral, Gaussian, pydensecrf, refine

    image, logits = square()
    kernels = [Bilateral(position=30, color=13, weight=10), Gaussian(position=3, weight=3)]
    refined = refine(image, logits=logits, kernels=kernels, iterations=5)
    require(refined.engine == "cpu", f"{refined.engine} ran instead of the core")
    require(isinstance(refined.labels, np.ndarray), "labels of NumPy arrays are none")
    wrong = [
        int((labels != (image[..., 0] > 120)).sum())
        for labels in (logits.argmax(0), refined.labels)
    ]
    print(f"refine: {wrong[0]} pixels of {image[..., 0].size} wrong before, {wrong[1]} after")
    require(wrong[1] < wrong[0] // 4, "the labels did not become sharp")

    crf = pydensecrf.densecrf.DenseCRF2D(64, 48, 2)
    crf.setUnaryEnergy(np.ascontiguousarray(-logits.reshape(2, -1)))
    crf.addPairwiseGaussian(sxy=3, compat=3)
    crf.addPairwiseBilateral(sxy=30, srgb=13, rgbim=image, compat=10)
    labels = np.array(crf.inference(5)).argmax(0).reshape(48, 64)
    require(bool((labels == refined.labels).all()), "the drop-in and refine differ")
    print("pydensecrf: the same labels")


def refine_files() -> None:
    """`crfrnn refine`: a photograph and scores, from files to a label map."""
    from PIL import Image

    from crfrnn import refine

    image, logits = square()
    with tempfile.TemporaryDirectory() as folder:
        photograph, scores, out = (Path(folder) / name for name in ("a.png", "a.npy", "out.png"))
        Image.fromarray(image).save(photograph)
        np.save(scores, logits)
        command("refine", str(photograph), str(scores), "-o", str(out), "--kind", "logits")
        with Image.open(out) as written:
            labels = np.asarray(written)
    same = bool((labels == refine(image, logits=logits).labels).all())
    require(same, "the command and refine differ")
    print("crfrnn refine: the same labels as in Python")


def refine_photograph() -> None:
    """`crfrnn demo`: a photograph and a network's scores, from files to label maps."""
    with tempfile.TemporaryDirectory() as folder:
        records = json.loads(command("demo", "--json", "--output", folder))["photographs"]
        for record in records:
            share = record["relabeled"] / record["pixels"]
            print(
                f"{record['photograph']}: {share:.2%} of the pixels relabeled by the "
                f"{record['engine']} engine in {record['seconds']:.2f} s"
            )
            require(record["engine"] == "cpu", f"{record['engine']} ran instead of the core")
            # The scores are blobs of 33 x 33 cells: the outline moves, the picture stays.
            require(0.001 < share < 0.1, "far too little or too much has changed")
            for file in record["outputs"].values():
                require(Path(file).stat().st_size > 0, f"{file} is empty")
    require(len(records) > 0, "no photograph")


def train_one_step() -> None:
    """The layer's values and gradients on the core equal those of the reference engine."""
    import torch

    from crfrnn import CRFRNN

    torch.manual_seed(0)
    image, logits = torch.rand(1, 3, 17, 23) * 255, torch.randn(1, 4, 17, 23)
    labels = torch.randint(4, (1, 17, 23))
    results: dict[str | None, list[Any]] = {}
    for engine in (None, "cpu", "reference"):
        layer = CRFRNN(4, engine=engine)
        layer.train()
        scores = logits.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(layer(scores, image), labels)
        loss.backward()
        results[engine] = [loss.detach(), scores.grad, *(p.grad for p in layer.parameters())]
        torch.optim.SGD(layer.parameters(), lr=0.1).step()
        with torch.no_grad():
            after = torch.nn.functional.cross_entropy(layer(logits, image), labels)
        print(f"{engine or 'default'} engine: loss {loss:.6f} before one step, {after:.6f} after")
        require(bool(after < loss), "the step did not lower the loss")
    for chosen, core, reference in zip(*results.values(), strict=True):
        require(core is not None and bool(core.abs().max() > 0), "a gradient is zero")
        require(torch.equal(chosen, core), "the engine chosen by default is not the core")
        torch.testing.assert_close(core, reference, rtol=1e-3, atol=1e-5)


def refuse_to_train() -> None:
    """What needs torch says so in one line."""
    run = subprocess.run([script(), "train", "x.yaml"], stderr=subprocess.PIPE, encoding="utf-8")
    require(run.returncode == 2, f"crfrnn train ended with {run.returncode}")
    require("the extra crfrnn[torch]" in run.stderr, f"crfrnn train says {run.stderr!r}")
    print(run.stderr.strip())


def command(*arguments: str) -> str:
    """What the installed command prints."""
    run = subprocess.run([script(), *arguments], stdout=subprocess.PIPE, encoding="utf-8")
    require(run.returncode == 0, f"crfrnn {' '.join(arguments)} ended with {run.returncode}")
    return run.stdout


def script() -> str:
    """The installed command."""
    crfrnn = shutil.which("crfrnn", path=sysconfig.get_path("scripts"))
    if crfrnn is None:
        sys.exit("smoke: the command crfrnn is not installed")
    return crfrnn


if __name__ == "__main__":
    main()
