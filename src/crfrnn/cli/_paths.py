"""Where the files of a job lie, and where the work is done: URLs, manifests, clusters."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crfrnn.io.paths import AnyPath, Remote, parse_options, parse_path

if TYPE_CHECKING:
    from crfrnn.distributed.pool import Cluster

#: The arguments of `crfrnn refine` that may be URLs.
_PLACES = ("image", "scores", "output", "probs", "overlay", "clamp", "manifest")
#: Options that need `--on ray`.
_OF_RAY = {
    "address": "--address",
    "cpus": "--cpus",
    "gpus": "--gpus",
    "time_limit": "--time-limit",
}


def any_path(text: str) -> AnyPath:
    """Read a path or a URL of the command line."""
    try:
        return parse_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Declare manifests, options of stores, the device, and the cluster."""
    from crfrnn.jobs.manifest import spell_columns

    group = parser.add_argument_group("manifests, buckets, GPUs and clusters")
    add = group.add_argument
    add(
        "--manifest",
        metavar="FILE",
        type=any_path,
        help=f"a .csv or .parquet with {spell_columns()}, in place of IMAGE and SCORES. Relative "
        "paths are relative to it. The result of a row without an output is LABELS/ID.png",
    )
    add(
        "--storage-options",
        metavar="JSON",
        type=_options,
        help="options of fsspec for all URLs, such as '{\"anon\": true}' (default: fsspec's "
        "configuration, and the credentials that the store's library finds)",
    )
    add(
        "--device",
        metavar="DEVICE",
        default="cpu",
        help="photographs: where to refine, as torch names it, such as cuda or cuda:1; needs "
        "crfrnn[gpu] (default cpu)",
    )
    add("--on", choices=("ray",), help="folders and manifests: work on a Ray cluster")
    add(
        "--address",
        metavar="HOST:PORT",
        help="of the Ray cluster (default: RAY_ADDRESS, or a cluster on this machine alone)",
    )
    add(
        "--cpus",
        metavar="N",
        type=int,
        help="on Ray: processors of each worker, which uses as many threads (default 1)",
    )
    add(
        "--gpus",
        metavar="N",
        type=float,
        help="on Ray: 1 to refine on a GPU for each worker, or the share that a worker has of one, "
        "such as 0.5 (default 0)",
    )
    add(
        "--time-limit",
        metavar="SECONDS",
        type=float,
        help="on Ray: an image that takes longer fails (default 600)",
    )


def settle_paths(args: argparse.Namespace) -> None:
    """Give each URL the options of its store; raise if the options do not fit together."""
    if args.storage_options:
        for name in _PLACES:
            path = getattr(args, name)
            if isinstance(path, Remote):
                setattr(args, name, replace(path, options=args.storage_options))
        remote = any(isinstance(getattr(args, name), Remote) for name in _PLACES)
        if args.manifest is None and not remote:
            raise ValueError("--storage-options is for URLs such as s3://; there is none")
    if args.manifest is None:
        if args.image is None or args.scores is None:
            raise ValueError("expected IMAGE and SCORES, or --manifest FILE in their place")
    elif args.image is not None:
        raise ValueError(
            f"--manifest takes the place of IMAGE and SCORES; got both it and {args.image}"
        )
    elif args.clamp is not None:
        raise ValueError("--clamp does not go with --manifest; give its column clamp")
    if args.on is None:
        given = [flag for name, flag in _OF_RAY.items() if getattr(args, name) is not None]
        if given:
            raise ValueError(f"{given[0]} is for a cluster; give --on ray too")
    elif args.device != "cpu":
        raise ValueError(
            f"--device {args.device} is for this machine; with --on {args.on}, give --gpus 1"
        )


def cluster_of(args: argparse.Namespace) -> Cluster:
    """Return what `--on ray` and its options describe.

    Raises:
        ImportError: ray is not installed.
    """
    from crfrnn._extras import load
    from crfrnn.distributed.pool import Cluster

    load("ray", "ray", "--on ray")
    given: dict[str, Any] = {"address": args.address, "workers": args.workers}
    given |= {name: getattr(args, name) for name in ("cpus", "gpus", "time_limit")}
    return Cluster(**{name: value for name, value in given.items() if value is not None})


def _options(text: str) -> str:
    try:
        return parse_options(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
