"""The configuration of an ablation."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from crfrnn.presets import find_preset
from crfrnn.training import CrfConfig, DataConfig, ModelConfig, StageConfig, TrainConfig
from crfrnn.training._limits import at_least
from crfrnn.training.settings import build
from crfrnn.tuning import SearchConfig

#: Folder of the common network of all rows.
BASE = "base"

#: The rows and their titles.
ROWS = {
    "network": "network alone",
    "default": "+ disconnected CRF, default parameters",
    "tuned": "+ disconnected CRF, tuned",
    "crf": "+ CRF-RNN, only its parameters trained",
    "joint": "CRF-RNN trained end to end",
}


#: Keys of a CRF that change a row whose parameters are not trained.
_AFTERWARD = ("normalization", "filter", "step")


@dataclass(frozen=True)
class VariantConfig:
    """Another version of a row, with a different CRF.

    Attributes:
        name: title in the table.
        row: the row: "default", "tuned", "crf" or "joint".
        crf: keys of `model.crf` that differ, such as `{weights: matrix}`, `{normalization: after}`
            or `{step: {regularizer: l2, size: 0.5}}`. The rows "default" and "tuned" have their
            parameters from elsewhere: only `normalization`, `filter` and `step` change them.
    """

    name: str
    row: Literal["default", "tuned", "crf", "joint"]
    crf: dict[str, Any]

    def __post_init__(self) -> None:
        """Check the name, which becomes the name of a folder."""
        if not self.key or self.key in (*ROWS, BASE):
            raise ValueError(
                f"name: expected letters or digits, and not the name of a row or {BASE!r}; got "
                f"{self.name!r}"
            )

    @property
    def key(self) -> str:
        """The name of the folder."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


@dataclass(frozen=True)
class AblateConfig:
    """The five rows over several seeds.

    All rows of a seed start from the same network. For a fair comparison, the network alone is then
    trained for as many epochs as in the joint model: the epochs of `network` must equal those of
    the stages of `joint` that train the network. Stages of `joint` that train only the CRF may
    have at most as many epochs as `crf`.

    Attributes:
        output: folder of all results; an interrupted ablation resumes from it.
        data: the data set. All rows are scored on its `val`; nothing is selected on it.
        model: the network, its initial weights, and the CRF of the trained rows. Its preset and
            kernels count only without `from_tuned`.
        base: stages that train the common network of all rows; may be empty if `model` has weights.
        network: stages that train the network further, alone.
        crf: training of the CRF's parameters, on top of the network that `network` trained.
        joint: stages that train both, from the same start as `network`.
        seeds: all rows are repeated for each seed.
        iterations: numbers of mean-field steps at test time.
        report: the entry of `iterations` for intervals and boundary scores.
        preset: parameters of the row "default".
        search: the search of the row "tuned".
        from_tuned: initialize the kernels of the trained rows from the search.
        variants: further rows.
        trimap: distance in pixels of the band for trimap IoU from a boundary.
        device: default is "cuda" where there is a GPU, else "cpu".
        precision: of training, as in `TrainConfig`.
        threads: of torch.
        workers: processes that load images ahead.
        save_every: steps between checkpoints of training.
    """

    output: Path
    data: DataConfig
    model: ModelConfig
    base: tuple[StageConfig, ...] = ()
    network: tuple[StageConfig, ...] = ()
    crf: StageConfig = field(default_factory=lambda: StageConfig("crf", epochs=2))
    joint: tuple[StageConfig, ...] = ()
    seeds: tuple[int, ...] = (0,)
    iterations: tuple[int, ...] = (1, 2, 5, 10, 20)
    report: int = 10
    preset: str = "deeplab"
    search: SearchConfig = field(default_factory=SearchConfig)
    from_tuned: bool = True
    variants: tuple[VariantConfig, ...] = ()
    trimap: int = 3
    device: str | None = None
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    threads: int | None = None
    workers: int = 0
    save_every: int | None = None

    def __post_init__(self) -> None:
        """Check the parts against each other."""
        find_preset(self.preset)
        if self.report not in self.iterations or min(self.iterations) < 1:
            raise ValueError(
                f"report: expected one of iterations, all at least 1; got {self.report} of "
                f"{list(self.iterations)}"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: expected one or more, all different; got {list(self.seeds)}")
        at_least("seeds", min(self.seeds), 0)
        at_least("trimap", self.trimap, 1)
        if self.data.val is None:
            raise ValueError("data.val: expected a split on which to score the rows; got none")
        self._check_stages()
        keys = [variant.key for variant in self.variants]
        if len(set(keys)) < len(keys):
            raise ValueError(f"variants: names must differ; got {', '.join(keys)}")
        for index, variant in enumerate(self.variants):
            self._check_variant(f"variants.{index}", variant)
        for row, stages in self.stages().items():
            # Training checks the rest, now rather than after hours.
            try:
                self.train_config(stages, 0, self.output / row, self.model)
            except ValueError as error:
                key = "crf" if row == "crf" else rf"{row}.\1"
                raise ValueError(re.sub(r"^stages\.(\d+)", key, str(error))) from None

    def rows(self) -> tuple[str, ...]:
        """The rows; without a network there is no joint training."""
        return tuple(row for row in ROWS if row != "joint" or self.joint)

    def stages(self) -> dict[str, tuple[StageConfig, ...]]:
        """The stages of each trained row, and of the common network."""
        crf = (self.crf,)
        return {BASE: self.base, "network": self.network, "crf": crf, "joint": self.joint}

    def crf_of(self, variant: VariantConfig | None, where: str = "crf") -> CrfConfig:
        """The CRF of a variant."""
        if variant is None:
            return self.model.crf
        known = {field.name for field in dataclasses.fields(CrfConfig)}
        base = {name: getattr(self.model.crf, name) for name in known}
        # `build` names unknown keys; the dataclass itself would not.
        changed = build(CrfConfig, variant.crf, where)
        return CrfConfig(**{**base, **{name: getattr(changed, name) for name in variant.crf}})

    def train_config(
        self,
        stages: tuple[StageConfig, ...],
        seed: int,
        output: Path,
        model: ModelConfig,
    ) -> TrainConfig:
        """The configuration of the training of a row."""
        return TrainConfig(
            output,
            self.data,
            model,
            stages,
            seed=seed,
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            workers=self.workers,
            save_every=self.save_every,
            validate_every=0,
        )

    def _check_variant(self, where: str, variant: VariantConfig) -> None:
        self.crf_of(variant, f"{where}.crf")
        if variant.row not in self.rows():
            raise ValueError(
                f"{where}.row: expected one of {', '.join(self.rows())}; got {variant.row!r}"
            )
        if variant.row in ("default", "tuned"):
            idle = variant.crf.keys() - set(_AFTERWARD)
            reason = f"only {', '.join(_AFTERWARD)} have an effect there"
        else:
            taken = {"preset", "kernels"} if self.from_tuned else set()
            idle = variant.crf.keys() & {*taken, "eval_iterations"}
            reason = "steps at test time come from iterations" + (
                ", and the initial kernels from the search unless from_tuned is false"
            ) * bool(taken)
        if idle:
            raise ValueError(
                f"{where}.crf: {', '.join(sorted(idle))} would change nothing in the row "
                f"{variant.row!r}: {reason}; remove the key"
            )

    def _check_stages(self) -> None:
        if self.crf.train != "crf":
            raise ValueError(f"crf.train: expected crf; got {self.crf.train}")
        if self.model.network is None:
            if self.base or self.network or self.joint:
                raise ValueError(
                    "base, network and joint need model.network; set it, or remove the three"
                )
            return
        if not self.network or not self.joint:
            raise ValueError(
                "network and joint: both are needed with model.network; set the other one too"
            )
        for index, stage in enumerate((*self.base, *self.network)):
            if stage.train != "network":
                raise ValueError(f"base and network train the network; got {stage.train} ({index})")
        if not self.base and self.model.weights is None:
            raise ValueError("give base or model.weights: the rows need a common initial network")
        alone = sum(stage.epochs for stage in self.network)
        together = sum(stage.epochs for stage in self.joint if stage.train != "crf")
        if alone != together:
            raise ValueError(
                f"network: expected stages of {together} epochs, as many as those of joint that "
                f"train the network, so that both networks see the images equally often; got "
                f"{alone}"
            )
        before = sum(stage.epochs for stage in self.joint) - together
        if before > self.crf.epochs:
            raise ValueError(
                f"joint: expected at most the {self.crf.epochs} epochs of crf in stages that train "
                f"the CRF alone; got {before}"
            )
