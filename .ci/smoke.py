"""Prove that an installed wheel works: refine a photograph, train one step of the layer.

Run it with the Python that holds the wheel; it refuses the checkout beside it. Prints what it did,
and ends with an error at the first thing that is not as it should be. Where no torch can be had,
`--core` loads the wheel's compiled module alone.
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

CHECKOUT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", action="store_true", help="load the compiled module alone")
    if parser.parse_args().core:
        load_core()
    else:
        check_installation()
        refine_photograph()
        train_one_step()
    print("smoke: all well")


def require(condition: bool, problem: str) -> None:
    """Stop if `condition` does not hold; unlike assert, under `python -O` too."""
    if not condition:
        sys.exit(f"smoke: {problem}")


def load_core() -> None:
    """Load `_core` by its path: importing the package would ask for torch."""
    package = importlib.util.find_spec("crfrnn")
    require(package is not None and package.origin is not None, "crfrnn is not installed")
    folder = Path(package.origin).parent
    require(CHECKOUT / "src" not in folder.parents, f"{folder} is the checkout, not a wheel")
    sys.path.insert(0, str(folder))
    import _core

    print(f"{_core.__file__}: vector instructions {_core.instruction_set()}")


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


def command(*arguments: str) -> str:
    """What the installed command prints."""
    crfrnn = shutil.which("crfrnn", path=sysconfig.get_path("scripts"))
    require(crfrnn is not None, "the command crfrnn is not installed")
    run = subprocess.run([crfrnn, *arguments], stdout=subprocess.PIPE, encoding="utf-8")
    require(run.returncode == 0, f"crfrnn {' '.join(arguments)} ended with {run.returncode}")
    return run.stdout


if __name__ == "__main__":
    main()
