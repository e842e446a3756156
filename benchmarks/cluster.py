"""A job on Ray from a bucket: killed half-way and gone on with; rate, time and memory of a worker.

    python -m benchmarks cluster --images 10000 --kill
    python -m benchmarks cluster --images 400 --size 375 500 --classes 21

Serves the bucket on this machine with moto, so the server takes its share of the processors. Prints
one JSON object. Without `--kill`, it compares a worker on Ray with a single process of one thread:
the slope between a quarter of the images and all of them leaves out the start of either. Processor
time is that of the process, or of Ray's workers, from Linux's /proc. A hundredth of the scores is
cut short with `--kill`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
_TICKS = os.sysconf("SC_CLK_TCK")

_SERVER = """
import pickle, sys
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_):
        pass

files, puts = sys.argv[1:]
backend = s3_backends["123456789012"]["aws"]
backend.create_bucket("bucket", "us-east-1")
with open(files, "rb") as file:
    for key, data in pickle.load(file).items():
        backend.put_object("bucket", key, data)
inner = DomainDispatcherApplication(create_backend_app)
log = open(puts, "a", buffering=1)

def application(environ, start):
    if environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].endswith(".png"):
        log.write(environ["PATH_INFO"] + "\\n")
    return inner(environ, start)

server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
print(server.server_port, flush=True)
server.serve_forever()
"""


def make_files(count: int, size: tuple[int, int], classes: int, bad: set[int]) -> dict[str, bytes]:
    """Photographs and scores of a quarter of their resolution, of which 20 differ, by key."""
    rng = np.random.default_rng(0)
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    variants = []
    for _ in range(20):
        inside = (rows - rng.integers(height)) ** 2 + (columns - rng.integers(width)) ** 2
        inside = inside < (height / 3) ** 2
        picture = np.where(inside[..., None], [200, 60, 60], [60, 90, 140])
        picture = (picture + rng.normal(0, 15, (*size, 3))).clip(0, 255).astype(np.uint8)
        scores = np.full((classes, *size), -2.0, np.float32)
        scores[0], scores[1] = np.where(inside, -1, 1), np.where(inside, 1, -1)
        scores = scores[:, ::4, ::4]
        scores = scores + rng.normal(0, 0.8, scores.shape).astype(np.float32)
        photo, array = io.BytesIO(), io.BytesIO()
        Image.fromarray(picture).save(photo, "jpeg")
        np.save(array, scores)
        variants.append((photo.getvalue(), array.getvalue()))
    files = {}
    for index in range(count):
        photo_bytes, score_bytes = variants[index % len(variants)]
        files[f"p/{index:06}.jpg"] = photo_bytes
        cut = len(score_bytes) // 2 if index in bad else None
        files[f"s/{index:06}.npy"] = score_bytes[:cut]
    return files


class Watch:
    """Processor seconds and peak memory (MiB) of Ray's workers, while they live."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak: dict[str, float] = {}
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            for place in Path("/proc").glob("[0-9]*"):
                try:
                    if not (place / "cmdline").read_bytes().startswith(b"ray::Worker"):
                        continue
                    fields = (place / "stat").read_text().rpartition(")")[2].split()
                    status = (place / "status").read_text()
                except OSError:  # it has ended
                    continue
                self.seconds[place.name] = (int(fields[11]) + int(fields[12])) / _TICKS
                peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
                self.peak[place.name] = int(peak.split()[1]) / 1024
            time.sleep(0.2)


def _refine(*arguments: str, threads: str | None = None) -> dict[str, Any]:
    """Run `crfrnn refine`; return its report, with the time and memory that it took."""
    command = [sys.executable, "-m", "crfrnn", "refine", *arguments, "--kind", "logits", "--json"]
    environment = dict(os.environ) | ({"OMP_NUM_THREADS": threads} if threads else {})
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report: dict[str, Any] = json.loads(done.stdout)
    report["code"] = done.returncode
    report["processor"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    report["peak"] = after.ru_maxrss / 1024
    return report


def killed(count: int, bad: set[int], puts: Path, workers: str) -> dict[str, Any]:
    """Kill the driver half-way, run it again, and look at every output."""
    import fsspec

    ray = ("s3://bucket/p", "s3://bucket/s", "-o", "s3://bucket/o", "--on", "ray")
    ray = (*ray, "--workers", workers)
    command = [sys.executable, "-m", "crfrnn", "refine", *ray, "--kind", "logits", "--json"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(puts.read_text().splitlines()) < count // 2 and first.poll() is None:
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    code = first.wait()
    time.sleep(4)
    before = len(puts.read_text().splitlines())
    second = _refine(*ray)
    written = puts.read_text().splitlines()
    system = fsspec.filesystem("s3")
    names = [name for name in system.ls("bucket/o", detail=False) if name.endswith(".png")]
    whole = 0
    for start in range(0, len(names), 500):
        for data in system.cat(names[start : start + 500]).values():
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                whole += 1
    failed = [file["stem"] for file in second["files"] if "error" in file]
    return {
        "first code": code,
        "outputs when killed": before,
        "second code": second["code"],
        **{name: second[name] for name in ("refined", "skipped", "failed", "seconds")},
        "the failed are the corrupt": failed == [f"{index:06}" for index in sorted(bad)],
        "puts": len(written),
        "different puts": len(set(written)),
        "outputs": len(names),
        "whole outputs": whole,
    }


def compared(count: int, folder: Path, watch: Watch) -> dict[str, Any]:
    """Compare a worker on Ray with a single process of one thread."""
    found: dict[str, list[tuple[float, float]]] = {"single": [], "ray": []}
    peak = 0.0
    few = count // 4
    for number in (few, count):
        table = folder / f"{number}.csv"
        rows = (
            f"{i:06},s3://bucket/p/{i:06}.jpg,s3://bucket/s/{i:06}.npy\n" for i in range(number)
        )
        table.write_text(f"id,image,scores\n{''.join(rows)}")
        job = ("--manifest", str(table), "--workers", "1")
        single = _refine(*job, "-o", f"s3://bucket/single{number}", threads="1")
        peak = max(peak, single["peak"])
        found["single"].append((single["processor"], single["seconds"]))
        watch.seconds.clear()
        on_ray = _refine(*job, "-o", f"s3://bucket/ray{number}", "--on", "ray")
        found["ray"].append((sum(watch.seconds.values()), on_ray["seconds"]))
    result: dict[str, Any] = {}
    for name, ((processor, wall), (more, longer)) in found.items():
        result[f"{name}: processor ms per image"] = 1e3 * (more - processor) / (count - few)
        result[f"{name}: wall ms per image"] = 1e3 * (longer - wall) / (count - few)
    return {**result, "single: peak MiB": peak}


def main(options: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, nargs=2, default=(96, 128))
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--workers", default="2")
    parser.add_argument("--kill", action="store_true")
    args = parser.parse_args(options)
    bad = set(range(50, args.images, 100)) if args.kill else set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, puts = folder / "files", folder / "puts"
        made = make_files(args.images, tuple(args.size), args.classes, bad)
        files.write_bytes(pickle.dumps(made))
        puts.touch()
        command = [sys.executable, "-c", _SERVER, str(files), str(puts)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            address = f"http://127.0.0.1:{int(server.stdout.readline())}"
            os.environ.update(_KEYS, FSSPEC_S3_ENDPOINT_URL=address)
            watch = Watch()
            if args.kill:
                result = killed(args.images, bad, puts, args.workers)
            else:
                result = compared(args.images, folder, watch)
            peak = max(watch.peak.values())
            found = {**vars(args), **result, "worker: peak MiB": peak}
            sys.stdout.write(f"{json.dumps(found, default=str)}\n")
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
