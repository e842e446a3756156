"""The benchmark of what the layer adds to a network."""

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import memory, network_cost

pytest.importorskip("skimage", reason="needs crfrnn[demo]")

SMALL = dataclasses.replace(network_cost.CASES["light"], size=(150, 200), crop=150)


def test_every_call_is_timed_and_weighed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setitem(network_cost.CASES, "light", SMALL)
    saved = tmp_path / "costs.json"
    network_cost.main(["--networks", "light", "--rounds", "2", "--json", str(saved)])
    (row,) = json.loads(saved.read_text()).values()
    assert {len(times) for times in row["seconds"].values()} == {2}
    assert set(row["seconds"]) == set(network_cost.Calls.NAMES)
    if memory.can_measure():
        assert row["megabytes"]["step, T = 5"] > row["megabytes"]["forward"] > 0


def test_what_the_layer_adds_is_a_difference_in_each_round() -> None:
    row = {"seconds": {"with": [3.0, 30.0, 5.0], "without": [1.0, 10.0, 2.0]}}
    assert network_cost.added(row, "with", "without") == (3.0, None)
    row["megabytes"] = {"with": 9.0, "without": 4.0}
    assert network_cost.added(row, "with", "without")[1] == 5.0


def test_a_call_makes_as_many_steps_as_its_name_says(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = network_cost.Calls(SMALL)
    made = []
    for steps, model in calls.models.items():
        model.crf.register_forward_hook(lambda *_, steps=steps: made.append(steps))
    for name in network_cost.Calls.NAMES:
        calls[name]()
    assert made == [5, 10, 5]
    for steps, model in calls.models.items():
        assert (model.crf.iterations, model.crf.eval_iterations) == (steps, steps)
