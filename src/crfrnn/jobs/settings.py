"""How a job reads and refines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args, get_type_hints

from crfrnn.io.options import Kind, ReadOptions
from crfrnn.offline.device import PROCESSORS
from crfrnn.offline.options import RefineOptions


@dataclass(frozen=True)
class Settings:
    """How to read photographs and scores, and how to refine them.

    Attributes:
        reading: how to read.
        refining: how to refine.
        job_kind: the kind of all files of scores, once they were looked at.
        ids: those that occur in the label maps of the job.
        container: the options of volumes or tiles, as JSON values; none for photographs.
        device: where to refine, as torch names it. Results do not depend on it beyond rounding, so
            it is not one of the parameters, and a job may continue on another device.
    """

    reading: ReadOptions
    refining: RefineOptions
    job_kind: Kind | None = None
    ids: tuple[int, ...] | None = None
    container: Mapping[str, Any] = field(default_factory=dict)
    device: str = PROCESSORS

    def parameters(self) -> dict[str, Any]:
        """Return the settings that the command line can change, as JSON values."""
        parameters = {**asdict(self.reading), **self.refining.parameters()}
        hidden = python_only(RefineOptions)
        shown = {name: value for name, value in parameters.items() if name not in hidden}
        return {**shown, **self.container}


def python_only(definition: type[ReadOptions] | type[RefineOptions]) -> set[str]:
    """Return the names of the options that the command line lacks."""
    hints = get_type_hints(definition, include_extras=True)
    names = (field.name for field in fields(definition) if field.init)
    return {name for name in names if get_args(hints[name])[1].python_only}
