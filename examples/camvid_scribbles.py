"""Training from scribbles on 3 % of the pixels: which loss is worth adding to the cross-entropy?

CamVid at 240 x 180 pixels, the light network from random weights, one row a way to train:

  full       cross-entropy on every labeled pixel: what full masks would give
  scribbles  cross-entropy on the scribbles alone
  2018       and DenseCRFLoss on all pixels (Tang et al., arXiv 1803.09569)
  potts      and PottsLoss on neighbors (Zhang & Boykov, arXiv 2507.01721)

The last two start from a network trained on the scribbles alone for `--warmup` epochs; every row
has the same number of epochs. Scribbles come from `crfrnn.data.scribble`. They differ from one
photograph to the next and are the same in every seed. Both commands resume, and write a report:

    python examples/camvid_scribbles.py CamVid -o runs/scribbles
    python examples/camvid_scribbles.py CamVid -o runs/choose --choose --seeds 9 --epochs 3

The second one is how the numbers in `ROWS` were chosen: it compares the candidates with one seed
that the report does not use, on the full masks of training photographs. The test photographs stay
closed.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from crfrnn import Bilateral, DenseCRFLoss, Neighborhood, PottsLoss, soft_cross_entropy
from crfrnn.data import IGNORE, Sample, open_camvid, scribble
from crfrnn.data.transforms import Augment, resize
from crfrnn.evaluation import metrics
from crfrnn.io.files import replacing, write_text
from crfrnn.models import LightFCN

SIZE = (180, 240)
PER_STEP = 8
SHARE = 0.03

#: Unlabeled pixels of a photograph while it is augmented: unlike padding, they count in a loss.
OPEN = 254

#: Logits, photographs on 0..255, labels, and where there is a photograph.
Batch = tuple[Tensor, Tensor, Tensor, Tensor]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def coarse(scale: float, z: Tensor, image: Tensor, label: Tensor, inside: Tensor) -> Batch:
    """Logits, photograph, labels and mask on a coarser grid, as Tang et al. compute their loss."""
    if scale == 1:
        return z, image, label, inside
    step = round(1 / scale)
    z, image = (
        nn.functional.interpolate(part, scale_factor=scale, mode="bilinear", antialias=True)
        for part in (z, image)
    )
    return z, image, label[:, ::step, ::step], inside[:, ::step, ::step]


def dense(weight: float, position: float = 25.0, color: float = 15.0, scale: float = 0.5) -> Loss:
    """The loss of 2018; `position` is in pixels of the coarser grid."""
    loss = DenseCRFLoss([Bilateral(position, color, weight=weight)])

    def term(*batch: Tensor) -> Tensor:
        z, image, _, inside = coarse(scale, *batch)
        return loss(z, image, mask=inside)

    return term


def potts(
    weight: float, entropy: float = 0.0, radius: float = 1.5, color: float = 15.0,
    scale: float = 1.0,
) -> Loss:  # fmt: skip
    """The collision divergence of neighbors, and the collision entropy of each pixel."""
    loss = PottsLoss(
        [Bilateral(100.0, color, weight=weight)],
        relaxation="normalized", log=True, neighbors=Neighborhood(radius),
        entropy="collision" if entropy else None, entropy_weight=entropy,
    )  # fmt: skip

    def term(*batch: Tensor) -> Tensor:
        z, image, _, inside = coarse(scale, *batch)
        return loss(z, image, mask=inside)

    return term


def self_labels(
    weight: float, share: float, radius: float = 1.5, color: float = 15.0, scale: float = 0.5,
    steps: int = 5,
) -> Loss:  # fmt: skip
    """Self-labels that minimize the collision divergence of neighbors, on a coarser grid."""
    loss = PottsLoss(
        [Bilateral(100.0, color, weight=weight)],
        relaxation="normalized", log=True, neighbors=Neighborhood(radius),
    )  # fmt: skip

    def term(z: Tensor, image: Tensor, label: Tensor, inside: Tensor) -> Tensor:
        small, photo, known, within = coarse(scale, z.detach(), image, label, inside)
        y = loss.self_labels(small, photo, known, mask=within, steps=steps)
        y = nn.functional.interpolate(y, size=z.shape[2:], mode="bilinear")
        return share * soft_cross_entropy(z, y, kind="collision", mask=inside & (label == IGNORE))

    return term


#: The row's loss beside the cross-entropy. The numbers were chosen with `--choose`.
ROWS: dict[str, Loss | None] = {
    "full": None,
    "scribbles": None,
    "2018": dense(0.03),
    "potts": potts(1.0),
}

CANDIDATES: dict[str, Loss | None] = {
    "scribbles": None,
    "2018, weight 0.1": dense(0.1),
    "2018, weight 0.03": dense(0.03),
    "2018, weight 0.1, color 5": dense(0.1, color=5.0),
    "potts, weight 1": potts(1.0),
    "potts, weight 3": potts(3.0),
    "potts, weight 3, color 5": potts(3.0, color=5.0),
    "potts, weight 3, color 5, entropy 0.02": potts(3.0, 0.02, color=5.0),
    "potts, weight 20, color 5": potts(20.0, color=5.0),
    "potts, weight 5, 1/4 of the size, radius 2": potts(5.0, scale=0.25, radius=2.0),
    "potts, weight 5, entropy 0.1, 1/4 of the size, radius 2": potts(
        5.0, 0.1, scale=0.25, radius=2.0
    ),
    "self, weight 20, share 0.1, color 5": self_labels(20.0, 0.1, color=5.0),
}


class Data:
    """The photographs of a split at `SIZE`, with their masks and their scribbles, in memory."""

    def __init__(self, root: Path, split: str) -> None:
        photographs = open_camvid(root, split)
        self.classes = photographs.num_classes
        self.samples = []
        for index in range(len(photographs)):
            sample = photographs[index]
            image, label = resize(sample.image.float(), sample.label, SIZE)
            self.samples.append(Sample(sample.name, image.round().byte(), label))
        self.drawn = [
            torch.from_numpy(scribble(sample.label.numpy(), SHARE, seed=index))
            for index, sample in enumerate(self.samples)
        ]

    def labeled_share(self) -> float:
        known = sum(int((drawn != IGNORE).sum()) for drawn in self.drawn)
        return known / sum(int((sample.label != IGNORE).sum()) for sample in self.samples)

    def batch(self, indices: list[int], full: bool, *seeds: int) -> tuple[Tensor, ...]:
        """Augmented images, labels, and where there is a photograph."""
        augment = Augment((0.75, 1.5), (SIZE[0], SIZE[0]), 0.5, 0.2, 0.2, 0.2)
        parts = []
        for index in indices:
            random = np.random.SeedSequence([*seeds, index]).generate_state(1)
            label = self.samples[index].label if full else self.drawn[index]
            label = torch.where(label == IGNORE, OPEN, label)
            state = torch.Generator().manual_seed(int(random[0]))
            parts.append(augment(self.samples[index].image, label, state))
        image, label = (torch.stack(part) for part in zip(*parts, strict=True))
        inside = label != IGNORE
        return image, torch.where(label == OPEN, IGNORE, label), inside


def train(
    network: nn.Module, data: Data, term: Loss | None, full: bool, seed: int, stage: int,
    epochs: int, state: Path,
) -> float:  # fmt: skip
    """Train for a stage, from the last epoch that `state` holds; return the seconds it took."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=5e-4)
    first, seconds = 0, 0.0
    if state.is_file():
        stored = torch.load(state, weights_only=True)
        network.load_state_dict(stored["network"])
        optimizer.load_state_dict(stored["optimizer"])
        first, seconds = stored["epoch"], stored["seconds"]
    batches = len(data.samples) // PER_STEP
    for epoch in range(first, epochs):
        begin, total = time.perf_counter(), 0.0
        torch.manual_seed(1000 * seed + 100 * stage + epoch)  # dropout
        network.train()
        order = np.random.default_rng([seed, stage, epoch]).permutation(len(data.samples))
        for step in range(batches):
            done = (epoch * batches + step) / (epochs * batches)
            for group in optimizer.param_groups:
                group["lr"] = rate(stage, done)
            indices = order[step * PER_STEP : (step + 1) * PER_STEP].tolist()
            image, label, inside = data.batch(indices, full, seed, stage, epoch)
            z = network(image)
            loss = nn.functional.cross_entropy(z, label, ignore_index=IGNORE)
            if term is not None:
                loss = loss + term(z, image, label, inside)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
        seconds += time.perf_counter() - begin
        print(f"  {state.stem}: epoch {epoch + 1} of {epochs}, loss {total / batches:.4f}, "
              f"{seconds:.0f} s", flush=True)  # fmt: skip
        with replacing(state) as file:
            torch.save(
                {"network": network.state_dict(), "optimizer": optimizer.state_dict(),
                 "epoch": epoch + 1, "seconds": seconds}, file,
            )  # fmt: skip
    return seconds


def rate(stage: int, done: float) -> float:
    """One cycle up to 5e-3 for the first stage, then from 1e-3 down to 0."""
    if stage == 1:
        return 1e-3 * (1 - done) ** 0.9
    rise = min(1.0, 0.04 + done / 0.3)
    fall = 0.5 * (1 + np.cos(np.pi * max(0.0, (done - 0.3) / 0.7)))
    return float(5e-3 * rise * fall + 1e-6)


@torch.no_grad()
def judge(network: nn.Module, data: Data, path: Path) -> metrics.Counts:
    """Count the predictions for each photograph, once."""
    names = ("confusion", "trimap", "band", "contour")
    if not path.is_file():
        network.eval()
        counts = []
        for sample in data.samples:
            found = network(sample.image[None].float())[0].argmax(0)
            counts.append(metrics.Judge(sample.label, data.classes).count(found.numpy()))
        stacked = metrics.stack(counts)
        with replacing(path) as file:
            np.savez(file, **{name: np.asarray(getattr(stacked, name)) for name in names})
    with np.load(path) as stored:
        return metrics.Counts(*(stored[name] for name in names))


def start(data: Data, full: bool, seed: int, epochs: int, folder: Path) -> tuple[nn.Module, float]:
    """The network after the first stage."""
    torch.manual_seed(seed)
    network = LightFCN(data.classes)
    name = f"seed{seed}-{'full' if full else 'scribbles'}-warmup.pt"
    return network, train(network, data, None, full, seed, 0, epochs, folder / name)


def run_row(row: str, seed: int, seen: Data, new: Data, options: argparse.Namespace) -> dict:
    """Train and judge one row; a row that is done is read from its files."""
    folder = options.output
    path = folder / f"seed{seed}-{row}.json"
    if path.is_file():
        return json.loads(path.read_text())
    print(f"seed {seed}, {row}", flush=True)
    full = row == "full"
    network, first = start(seen, full, seed, options.warmup, folder)
    state = folder / f"seed{seed}-{row}.pt"
    second = train(network, seen, ROWS[row], full, seed, 1, options.epochs, state)
    counts = judge(network, new, folder / f"seed{seed}-{row}.npz")
    scores = metrics.summarize(metrics.total(counts), metrics.Settings())
    result = {name: 100 * float(value) for name, value in scores.items()}
    result["warmup_seconds"], result["seconds"] = first, second
    write_text(path, json.dumps(result, indent=1))
    return result


def choose(seen: Data, options: argparse.Namespace) -> None:
    """Compare the candidates on the full masks of every fourth training photograph."""
    seed, table = options.seeds[0], {}
    judged = copy.copy(seen)
    judged.samples = seen.samples[::4]
    for name, term in CANDIDATES.items():
        stem = "choose-" + "".join(c if c.isalnum() else "-" for c in name)
        network, _ = start(seen, False, seed, options.warmup, options.output)
        seconds = train(
            network, seen, term, False, seed, 1, options.epochs, options.output / f"{stem}.pt"
        )
        counts = judge(network, judged, options.output / f"{stem}.npz")
        scores = metrics.summarize(metrics.total(counts), metrics.Settings())
        table[name] = {key: 100 * float(scores[key]) for key in ("mean_iou", "trimap_iou_3")}
        table[name]["seconds"] = seconds
        print(f"{name:<50} {table[name]}", flush=True)
        write_text(options.output / "choose.json", json.dumps(table, indent=1))


def report(results: dict[str, dict[int, dict]], options: argparse.Namespace, share: float) -> str:
    """Means over seeds, and differences with two intervals."""
    seeds, rows = options.seeds, list(results)
    settings = metrics.Settings()
    draws: dict[str, dict[str, list[np.ndarray]]] = {row: {} for row in rows}
    for seed in seeds:
        counts = {
            row: judge(nn.Identity(), None, options.output / f"seed{seed}-{row}.npz")
            for row in rows
        }
        for row, values in metrics.resample(counts, settings).items():
            for key in ("mean_iou", "trimap_iou_3"):
                draws[row].setdefault(key, []).append(100 * np.asarray(values[key]))
    lines = [
        f"CamVid at {SIZE[1]} x {SIZE[0]}, {options.warmup} + {options.epochs} epochs, seeds "
        f"{', '.join(map(str, seeds))}; scribbles on {100 * share:.1f} % of the labeled pixels.",
        "",
        "| row | mean IoU | of full | trimap IoU, 3 px | seconds |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = []
        for key in ("mean_iou", "trimap_iou_3"):
            values = [results[row][seed][key] for seed in seeds]
            cells.append(f"{statistics.mean(values):.2f} ± {spread(values):.2f}")
        share_of_full = "" if "full" not in rows else f"{100 * ratio(results, row, seeds):.0f} %"
        seconds = statistics.mean(results[row][seed]["seconds"] for seed in seeds)
        lines.append(f"| {row} | {cells[0]} | {share_of_full} | {cells[1]} | {seconds:.0f} |")
    lines += [
        "",
        "| difference in mean IoU | each seed | mean, over seeds | over photographs |",
        "| --- | --- | ---: | ---: |",
    ]
    for row, base in PAIRS:
        if row not in rows or base not in rows:
            continue
        gains = [results[row][seed]["mean_iou"] - results[base][seed]["mean_iou"] for seed in seeds]
        both = np.mean(draws[row]["mean_iou"], 0) - np.mean(draws[base]["mean_iou"], 0)
        low, high = metrics.interval(both)
        half = half_width(gains)
        mean = statistics.mean(gains)
        lines.append(
            f"| {row} - {base} | {', '.join(f'{gain:+.2f}' for gain in gains)} | {mean:+.2f} "
            f"[{mean - half:+.2f}, {mean + half:+.2f}] | [{low:+.2f}, {high:+.2f}] |"
        )
    return "\n".join(lines) + "\n"


PAIRS = [
    ("2018", "scribbles"), ("potts", "scribbles"), ("potts", "2018"), ("full", "scribbles"),
]  # fmt: skip

#: The 97.5 % quantile of Student's t, by the degrees of freedom.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def half_width(values: list[float]) -> float:
    """Half of the 95 % interval of a mean over seeds."""
    if len(values) < 2:
        return float("nan")
    return T[min(len(values) - 1, 9)] * spread(values) / len(values) ** 0.5


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else float("nan")


def ratio(results: dict[str, dict[int, dict]], row: str, seeds: list[int]) -> float:
    return statistics.mean(results[row][s]["mean_iou"] for s in seeds) / statistics.mean(
        results["full"][s]["mean_iou"] for s in seeds
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="the folder of CamVid, with train.txt and test.txt")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--warmup", type=int, default=10, help="epochs of the first stage")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of the second stage")
    parser.add_argument("--choose", action="store_true", help="compare the candidates instead")
    parser.add_argument("--warm", action="store_true", help="only train the first stages")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    seen = Data(options.root, "train")
    print(f"scribbles on {100 * seen.labeled_share():.2f} % of the labeled pixels", flush=True)
    if options.choose:
        choose(seen, options)
        return
    if options.warm:
        for seed in options.seeds:
            start(seen, False, seed, options.warmup, options.output)
        return
    new = Data(options.root, "test")
    results: dict[str, dict[int, dict]] = {row: {} for row in options.rows}
    for seed in options.seeds:
        for row in options.rows:
            results[row][seed] = run_row(row, seed, seen, new, options)
    text = report(results, options, seen.labeled_share())
    write_text(options.output / "report.md", text)
    print(text)


if __name__ == "__main__":
    main()
