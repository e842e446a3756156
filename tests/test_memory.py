"""What a training step keeps: measured in a process of its own, at the size of the paper."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .cases import needs_core

ROOT = Path(__file__).parents[1]


def peak_megabytes(steps: int) -> float:
    """Peak of forward and backward above inputs and lattice, 500 x 500 pixels and 21 classes."""
    case = json.dumps([500, 21, steps, "fused"])
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.layer_forward_backward", case]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    return float(done.stdout)


@needs_core
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from the kernel")
def test_training_keeps_one_set_of_marginals_a_step() -> None:
    five, ten = peak_megabytes(5), peak_megabytes(10)
    assert five <= 350
    assert ten - five <= 5 * 21
