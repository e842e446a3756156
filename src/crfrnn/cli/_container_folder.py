"""Folders of volumes or of rasters on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from crfrnn.containers.tile_job import default_memory
from crfrnn.jobs.containers import (
    ContainerOptions,
    clamp_suffixes,
    match_containers,
    refine_container,
)
from crfrnn.jobs.files import Result
from crfrnn.jobs.pairs import Outputs, Pair, with_clamps
from crfrnn.jobs.resume import Origin
from crfrnn.jobs.settings import Settings

from ._folder import Task, check_folders, check_workers, report_unmatched, run_pairs


def run_container_folder(
    args: argparse.Namespace,
    settings: Settings,
    options: ContainerOptions,
    show: Callable[[Pair, int], None],
) -> int:
    """Refine a folder of volumes, rasters or large images; returns the exit code.

    Args:
        args: of the command line.
        settings: how to read and refine.
        options: of the containers.
        show: prints what would be done with the first of some pairs.
    """
    folders = Outputs(args.output, args.probs, args.overlay)
    check_workers(args.workers)
    check_folders(folders)
    if not isinstance(args.scores, Path) or not args.scores.is_dir():
        raise ValueError(
            f"IMAGE and SCORES must be two files or two folders; got {args.image} and {args.scores}"
        )
    matches = match_containers(options.kind, args.image, args.scores, folders)
    matches = with_clamps(matches, args.clamp, clamp_suffixes(options.kind))
    if args.dry_run:
        report_unmatched("refine", matches)
        if matches.pairs:
            show(matches.pairs[0], len(matches.pairs))
        return 0
    # A volume needs gigabytes and keeps all processors busy, so they come one after the other.
    workers = args.workers or 1
    args = argparse.Namespace(**{**vars(args), "workers": workers})
    memory = (options.tiles.memory or default_memory()) // workers
    options = replace(options, tiles=replace(options.tiles, memory=memory))
    settings = replace(settings, container=options.decisive())

    def work(pair: Pair) -> Result:
        return refine_container(pair, settings, options)

    origin = Origin("refine", args.image, args.scores, settings, args.clamp)
    return run_pairs(args, Task(origin, "refining", "refined", folders, work), matches)
