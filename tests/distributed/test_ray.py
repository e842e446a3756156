"""Jobs on a Ray cluster of this machine: killed and gone on with, hanging files, dying workers."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crfrnn.cli import main
from tests import stores

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs ray for a cluster"
)
SIZE = (60, 80)
COUNT, CORRUPT = 60, ("007", "042")
RANDOM = np.random.default_rng(5)
ROOT = Path(__file__).parents[2]


def encode(values: np.ndarray, *, image: bool = False) -> bytes:
    file = io.BytesIO()
    if image:
        Image.fromarray(values).save(file, "png")
    else:
        np.save(file, values)
    return file.getvalue()


def photograph() -> bytes:
    return encode(RANDOM.integers(0, 255, (*SIZE, 3), np.uint8), image=True)


def logits() -> bytes:
    return encode(RANDOM.normal(size=(3, *SIZE)).astype(np.float32))


@needs_ray
def test_a_killed_driver_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run does what is left, each output once, and names the files that fail."""
    with stores.store(monkeypatch) as bucket:
        photo, scores = photograph(), logits()
        for index in range(COUNT):
            bad = f"{index:03}" in CORRUPT
            bucket.system.pipe_file(f"bucket/p/{index:03}.png", photo)
            bucket.system.pipe_file(f"bucket/s/{index:03}.npy", scores[:900] if bad else scores)
        bucket.puts.clear()
        command = [sys.executable, "-m", "crfrnn", "refine", "s3://bucket/p", "s3://bucket/s"]
        command += ["-o", "s3://bucket/o", "--on", "ray", "--workers", "2", "--json"]
        command += ["--filter", "exact", "--kind", "logits"]  # slow enough to be killed half-way
        first = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
        )
        limit = time.monotonic() + 600
        while len(bucket.puts) < COUNT // 2 and first.poll() is None:
            assert time.monotonic() < limit, "the first run does not get half-way"
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL, "it ended before it was killed"
        seen = -1  # until Ray has ended the workers of the driver that is gone
        while len(bucket.puts) != seen:
            seen = len(bucket.puts)
            time.sleep(3)
        before = [path for path in bucket.puts if path.endswith(".png")]
        assert COUNT // 2 - 1 <= len(before) < COUNT - len(CORRUPT)
        second = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
        assert second.returncode == 1, second.stderr
        report = json.loads(second.stdout)
        failed = {file["stem"]: file["error"] for file in report["files"] if "error" in file}
        assert tuple(failed) == CORRUPT
        assert all(f"s3://bucket/s/{stem}.npy: not a readable" in failed[stem] for stem in failed)
        assert report["skipped"] == len(before)
        assert report["refined"] == COUNT - len(CORRUPT) - len(before)
        written = [path for path in bucket.puts if path.endswith(".png")]
        assert len(set(written)) == len(written) == COUNT - len(CORRUPT)
        for path in written:
            with Image.open(io.BytesIO(bucket.system.cat_file(path.lstrip("/")))) as image:
                assert np.asarray(image).shape == SIZE
        assert len(bucket.names("bucket/o")) == COUNT - len(CORRUPT) + 1  # and the record


SCRIPT = """
import json, os, signal, sys
from pathlib import Path

import ray

from crfrnn.distributed import Cluster, refine
from crfrnn.distributed.pool import refine_pairs

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
url, mode = sys.argv[1], sys.argv[2]

def rows(*named):
    plain = [{"id": f"{i:02}", "image": "p/a.png", "scores": "s/a.npy"} for i in range(20)]
    return plain + [{"id": name, "image": "p/a.png", "scores": scores} for name, scores in named]

result = {}
seen = []
cluster = Cluster(cpus=2, time_limit=20)
report = refine(
    rows(("x-hang", f"{url}/hang.npy"), ("x-kill", f"{url}/kill.npy"), ("x-bad", "s/none.npy")),
    "o", cluster=cluster, on_row=lambda row: seen.append(row.id),
)
result["rows"] = {row.id: [row.status, row.error] for row in report.rows}
result["shares"] = [row.relabeled for row in report.rows if row.status == "refined"]
result["seen"] = sorted(seen)
again = refine(ray.data.from_items(rows()), "o", cluster=cluster) if mode == "data" else (
    refine(rows(), "o", cluster=cluster)
)
result["again"] = [row.status for row in again.rows]

from crfrnn.distributed.worker import Worker
from crfrnn.jobs.pairs import Outputs, Pair
from crfrnn.jobs.resume import Origin
from crfrnn.jobs.settings import Settings
from crfrnn.io.options import ReadOptions
from crfrnn.offline.options import RefineOptions

here = Path.cwd()
origin = Origin("refine", here, here, Settings(ReadOptions(), RefineOptions()))
actor = ray.remote(Worker).options(num_cpus=2).remote(origin, here / "o/crfrnn-refine.json", 2)
pair = Pair("x", here / "p/a.png", here / "s/a.npy", Outputs(here / "o/x.png"))
answer = ray.get(actor.work.remote(pair, False))
result["threads"] = answer.threads
result["skips"] = ray.get(actor.work.remote(pair, True)).outcome.status
result["same"] = ray.get(actor.ready.remote()) == answer.process != os.getpid()
result["bytes"] = len(ray.cloudpickle.dumps(answer))
Path("result.json").write_text(json.dumps(result))
"""


@needs_ray
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux to find a process")
def test_files_that_hang_or_kill_their_worker_fail_alone(tmp_path: Path) -> None:
    for name, data in (("p/a.png", photograph()), ("s/a.npy", logits())):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(data)
    mode = "data" if importlib.util.find_spec("pandas") else "rows"
    with stores.web({}) as url:
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT), url, mode]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    rows = result["rows"]
    assert rows["x-hang"] == ["failed", "took longer than 20 s"]
    assert rows["x-kill"][0] == "failed"
    assert rows["x-kill"][1].startswith("2 workers died of it; out of memory?")
    assert rows["x-bad"][0] == "failed"
    assert "s/none.npy: expected a NumPy file, but it is missing" in rows["x-bad"][1]
    plain = [f"{index:02}" for index in range(20)]
    assert [rows[name] for name in plain] == [["refined", ""]] * 20
    assert all(0 <= share <= 1 for share in result["shares"])
    assert result["seen"] == sorted(rows)
    assert result["again"] == ["skipped"] * 20
    assert sorted(path.name for path in (tmp_path / "o").glob("*.png")) == [
        *(f"{name}.png" for name in plain),
        "x.png",
    ]
    assert result["threads"] == 2, "the engine uses the processors that Ray gave"
    assert result["skips"] == "skipped"
    assert result["same"]
    assert result["bytes"] < 4000, "no pixels travel"


GPU_SCRIPT = """
import json, os, sys, warnings
from dataclasses import replace
from pathlib import Path

import ray

from crfrnn.cli import main
from crfrnn.distributed import Cluster, pool, refine
from crfrnn.distributed.worker import Worker

class OnProcessors(Worker):
    # Notes down what Ray gave it, and refines tensors on processors in place of the GPU.
    def __init__(self, origin, record, cpus):
        settings = origin.settings
        given = {"device": settings.device, "gpus": ray.get_gpu_ids()}
        given["visible"] = os.environ.get("CUDA_VISIBLE_DEVICES")
        given["share"] = ray.get_runtime_context().get_assigned_resources().get("GPU", 0)
        Path(HERE, f"given-{os.getpid()}.json").write_text(json.dumps(given))
        super().__init__(replace(origin, settings=replace(settings, device="cpu:0")), record, cpus)

HERE = os.getcwd()
ray.init(
    num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False,
    object_store_memory=100 << 20,
)
code = main(["refine", "p", "s", "-o", "real", "--on", "ray", "--gpus", "1", "--kind", "logits"])
print("real", code)
pool.Worker = OnProcessors
options = ["--kind", "logits", "--probs", "probs"]
code = main(["refine", "p", "s", "-o", "fake", "--on", "ray", "--gpus", "0.5", *options])
print("fake", code)
rows = [{"id": "x", "image": "p/a.png", "scores": "s/a.npy"}]
print("rows", refine(rows, "rows", cluster=Cluster(gpus=1)).count("refined"))
"""


@needs_ray
@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs torch for a device")
def test_workers_on_gpus(tmp_path: Path) -> None:
    """On a cluster that only says that it has a GPU: workers get it from Ray, or say why not."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("for a machine without a GPU")
    for name, data in (("p", photograph()), ("s", logits())):
        (tmp_path / name).mkdir()
        for stem in "abcd":
            (tmp_path / name / f"{stem}.{'png' if name == 'p' else 'npy'}").write_bytes(data)
    command = [sys.executable, "-c", textwrap.dedent(GPU_SCRIPT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    codes = [
        line for line in done.stdout.splitlines() if line.split()[0] in ("real", "fake", "rows")
    ]
    assert codes == ["real 2", "fake 0", "rows 1"], done.stderr
    assert (
        "no worker can start on the cluster: ValueError: cuda is not available on this machine: "
        f"torch {torch.__version__}"
    ) in done.stderr
    assert not list((tmp_path / "real").glob("*.png"))
    given = [json.loads(path.read_text()) for path in tmp_path.glob("given-*.json")]
    assert sorted(worker["share"] for worker in given) == [0.5, 0.5, 1]  # of 4 that processors fit
    assert all(worker["device"] == "cuda" for worker in given)
    assert all([str(gpu) for gpu in worker["gpus"]] == ["0"] for worker in given)
    assert all(worker["visible"] == "0" for worker in given)
    here = ["refine", str(tmp_path / "p"), str(tmp_path / "s"), "-o", str(tmp_path / "here")]
    assert main([*here, "--kind", "logits", "--probs", str(tmp_path / "here-probs")]) == 0
    for stem in "abcd":
        for path, other in ((f"fake/{stem}.png", "here"), (f"probs/{stem}.npy", "here-probs")):
            theirs = tmp_path / other / Path(path).name
            if path.endswith(".npy"):
                np.testing.assert_array_equal(np.load(tmp_path / path), np.load(theirs))
                continue
            with Image.open(tmp_path / path) as image, Image.open(theirs) as expected:
                np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))


class Machines:
    """A cluster as Ray describes it."""

    def __init__(self, *resources: dict[str, float]) -> None:
        self.machines = [{"Alive": True, "Resources": given} for given in resources]
        self.machines.append({"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}})

    def nodes(self) -> list[dict[str, Any]]:
        return self.machines


@pytest.mark.parametrize(
    ("machines", "wanted", "count"),
    [
        ([{"CPU": 8.0}], {}, 8),
        ([{"CPU": 8.0}], {"workers": 3}, 3),
        ([{"CPU": 3.0}, {"CPU": 3.0}], {"cpus": 2}, 2),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], {"gpus": 1}, 2),
        ([{"CPU": 8.0, "GPU": 2.0}], {"gpus": 0.5}, 4),
        ([{"CPU": 8.0, "GPU": 2.0}], {"gpus": 0.4}, 4),
        ([{"CPU": 99.0, "GPU": 1.0}], {"gpus": 0.1}, 10),
        ([{"CPU": 1.0, "GPU": 4.0}, {"GPU": 1.0}], {"gpus": 0.5}, 1),
    ],
)
def test_the_workers_that_fit(
    machines: list[dict[str, float]], wanted: dict[str, Any], count: int
) -> None:
    from crfrnn.distributed import Cluster
    from crfrnn.distributed.pool import _workers

    assert _workers(Machines(*machines), Cluster(**wanted)) == count


@pytest.mark.parametrize(
    ("machines", "wanted", "message"),
    [
        ([{"CPU": 4.0}], {"gpus": 0.5}, "a worker with 0.5 GPUs does not fit .* finds none"),
        ([{"CPU": 2.0}, {"CPU": 2.0}], {"cpus": 4}, "with 4 processors does not .* 2 at most"),
        ([{"CPU": 2.0}, {"GPU": 1.0}], {"gpus": 1}, "with 1 processors beside 1 GPUs does not"),
    ],
)
def test_workers_that_no_machine_fits(
    machines: list[dict[str, float]], wanted: dict[str, Any], message: str
) -> None:
    from crfrnn.distributed import Cluster
    from crfrnn.distributed.pool import _workers

    with pytest.raises(ValueError, match=message):
        _workers(Machines(*machines), Cluster(**wanted))


def test_an_engine_that_gpus_do_not_suit() -> None:
    from crfrnn.distributed import Cluster, refine
    from crfrnn.offline.options import RefineOptions

    with pytest.raises(ValueError, match="the engine 'cpu' runs on processors"):
        refine([], "o", refining=RefineOptions(engine="cpu"), cluster=Cluster(gpus=1))


@needs_ray
def test_a_cluster_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, data in (("p/a.png", photograph()), ("s/a.npy", logits())):
        Path(name).parent.mkdir()
        Path(name).write_bytes(data)
    assert main(["refine", "p", "s", "-o", "o", "--on", "ray", "--address", "127.0.0.1:1"]) == 2
    assert "the Ray cluster at 127.0.0.1:1 cannot be reached" in capsys.readouterr().err


NAMESPACE = ["unshare", "--user", "--mount", "--map-root-user"]
FULL_DISK = """
mount -t tmpfs -o size=64k tmpfs o
"$@"; echo $? > codes
ls -a o > first
mount -o remount,size=8m o
"$@"; echo $? >> codes
ls -a o > second
"""


def can_mount() -> bool:
    """Whether this system lets a user mount a small disk in a namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    command = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True).returncode == 0


@needs_ray
@pytest.mark.skipif(not can_mount(), reason="needs Linux that lets users mount a small disk")
def test_a_full_disk_stops_the_workers_and_the_job_goes_on_with_more_room(tmp_path: Path) -> None:
    photo, scores = photograph(), logits()
    for name in "pso":
        (tmp_path / name).mkdir()
    for index in range(40):
        (tmp_path / "p" / f"{index:02}.png").write_bytes(photo)
        (tmp_path / "s" / f"{index:02}.npy").write_bytes(scores)
    command = [sys.executable, "-m", "crfrnn", "refine", "p", "s", "-o", "o", "--kind", "logits"]
    command += ["--on", "ray", "--workers", "2"]
    script = [*NAMESPACE, "sh", "-c", FULL_DISK, "sh", *command]
    done = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert (tmp_path / "codes").read_text().split() == ["2", "0"], done.stderr
    assert re.search(r"o/\S*\d\d\.png: No space left on device\. The job stops here", done.stderr)
    assert "Traceback" not in done.stderr
    first, second = ((tmp_path / name).read_text().split() for name in ("first", "second"))
    there = [name for name in first if name.endswith(".png") and not name.startswith(".")]
    assert 0 < len(there) < 40
    assert f"{40 - len(there)} refined, {len(there)} already there" in done.stdout
    assert [name for name in second if name.endswith(".png")] == [f"{n:02}.png" for n in range(40)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workers": 0}, "workers must be at least 1"),
        ({"cpus": 0}, "cpus must be at least 1"),
        ({"time_limit": 0.0}, "time_limit must be positive"),
        ({"gpus": 2}, "gpus must be 0, or from 0.01 to 1"),
        ({"gpus": -1}, "gpus must be 0, or from 0.01 to 1"),
        ({"gpus": float("nan")}, "gpus must be 0, or from 0.01 to 1"),
    ],
)
def test_clusters_that_cannot_work(values: dict[str, float], message: str) -> None:
    from crfrnn.distributed import Cluster

    with pytest.raises(ValueError, match=message):
        Cluster(**values)


def test_the_remedy_without_ray(tmp_path: Path) -> None:
    """Named before a file is touched."""
    script = """
    import sys
    sys.modules["ray"] = None
    from crfrnn.cli import main
    from PIL import Image
    import numpy as np, os
    os.mkdir("p"); os.mkdir("s")
    Image.new("RGB", (8, 6)).save("p/a.png"); np.save("s/a.npy", np.full((2, 6, 8), -1.0))
    assert main(["refine", "p", "s", "-o", "o", "--on", "ray"]) == 2
    assert not os.path.exists("o")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "--on ray needs ray" in done.stderr
