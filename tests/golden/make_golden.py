"""Write the results of the original pydensecrf that tests compare with.

Not part of CI. In an environment with NumPy, scikit-image and `pydensecrf2==1.1`:

    python tests/golden/make_golden.py
"""

import sys
from pathlib import Path

import numpy as np
import pydensecrf.densecrf

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import pydensecrf_cases as cases  # noqa: E402
import pydensecrf_scenes as scenes  # noqa: E402
import pydensecrf_snippets as snippets  # noqa: E402

#: One pixel in so many keeps its marginals.
SCENE_STEP, PHOTOGRAPH_STEP = 11, 211


def stored(results, step):
    """Flatten name -> function into name/part -> array."""
    return {
        f"{name}/{part}": array
        for name, run in results.items()
        for part, array in cases.pack(run(), step).items()
    }


def main():
    """Run every case and write the files."""
    if "crfrnn" in pydensecrf.densecrf.DenseCRF.__module__:
        raise SystemExit("this must run on the original; pydensecrf is crfrnn's")
    cases.define(scenes)
    families = cases.scene_families(snippets, scenes)
    np.savez_compressed(
        HERE / "pydensecrf_scene.npz", **stored({**cases.CASES, **families}, SCENE_STEP)
    )
    for name in ("astronaut", "chelsea"):
        image, probs = scenes.photograph(name)
        results = cases.families(snippets, image, probs.argmax(axis=0), probs)
        results |= cases.on_photograph(image, probs)
        np.savez_compressed(HERE / f"pydensecrf_{name}.npz", **stored(results, PHOTOGRAPH_STEP))


if __name__ == "__main__":
    main()
