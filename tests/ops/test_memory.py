"""What a training step keeps: measured in a process of its own, at the size of the paper."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crfrnn import CRFRNN, Gaussian
from tests.cases import needs_core

ROOT = Path(__file__).parents[2]


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


@needs_core
def test_a_large_block_is_used_again_once_nothing_holds_it() -> None:
    from crfrnn import _core

    size = 37 << 20  # a size of its own, so that no other test's block fits better
    array, other = _core.memory(size), _core.memory(size)
    array[0], other[0] = 77, 78
    view = torch.from_numpy(array).view(torch.float32)
    del array
    third = _core.memory(size)
    assert third[0] not in (77, 78)
    del view
    assert _core.memory(size)[0] == 77  # memory from the system would be zero


@needs_core
@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot take it back when short")
def test_what_a_large_picture_takes_stays_at_hand() -> None:
    from crfrnn import _core

    size = 301 << 20  # two of them are more than is held whatever happens
    blocks = [_core.memory(size) for _ in range(3)]
    for i, block in enumerate(blocks):
        block[0] = 71 + i
    del block
    blocks.clear()
    again = [_core.memory(size) for _ in range(3)]
    assert {int(block[0]) for block in again} == {71, 72, 73}


@needs_core
def test_two_steps_at_once_do_not_share_large_blocks() -> None:
    layer = CRFRNN(2, [Gaussian(position=1)], iterations=2)
    image = torch.zeros(1, 1, 600, 900)
    scores = [torch.randn(1, 2, 600, 900).requires_grad_() for _ in range(2)]
    alone = [
        torch.autograd.grad(layer(one, image).square().sum(), one)[0].clone() for one in scores
    ]
    logits = [layer(one, image) for one in scores]
    together = torch.autograd.grad(sum(z.square().sum() for z in logits), scores)
    for ours, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)
