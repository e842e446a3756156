"""Sharpen the scores, labels or mask of a photograph with a fully connected CRF.

IMAGE and SCORES are two files, or two folders whose files are matched by stem.
SCORES is
  .npy or .npz   logits, probabilities or energies (C, h, w) or (h, w, C), of
                 any float type and resolution (upsampled bilinearly to the
                 image); a foreground map (h, w); integer labels (H, W); or
                 independent masks (K, H, W). If an .npz holds several arrays,
                 name the one to use logits, probs, energy, labels, mask, masks
                 or scores. Logits may be unsigned bytes with a `scale` and a
                 `zero`: (logits - zero) * scale
  a dictionary   {class: map} in a .npy, as weakly supervised programs save it
  .h5 .zarr .safetensors   arrays; FILE:NAME chooses one, also in an .npz
  an image       labels (palette, or gray class ids) or a mask (0..255); the
                 pages of a TIFF are classes
All files of a job have one kind and one number of classes. The first lines on
stderr say how they are read; --dry-run prints only these.

The result is a PNG of class ids. It has the palette of SCORES if there is one;
otherwise a mask is black and white, and labels have VOC's colors. Above 256
classes, it is 16-bit gray without a palette. Independent masks give an array
(K, H, W) of bools; LABELS is then a .npy file, or a folder of them. For example
  crfrnn refine photo.jpg scores.npy -o labels.png
  crfrnn refine photos scores -o labels --overlay overlays
  crfrnn refine photo.jpg masks.npy --kind masks -o refined.npy

Files of other formats keep their metadata. Rasters, and any large image, are
refined in tiles; SCORES has one band per class:
  crfrnn refine scene.tif probs.tif -o labels.tif --memory 4G
Volumes, with scores of nnU-Net or NIfTI; bandwidths are in millimeters:
  crfrnn refine t1.nii.gz case.npz -o seg.nii.gz
Masks in COCO files:
  crfrnn refine photos instances.json -o refined.json
Folders of volumes or rasters; CASE_0000, CASE_0001 ... are modalities:
  crfrnn refine scans probs -o out

Photographs may lie in buckets, a table may name them, and a cluster may work:
  crfrnn refine s3://b/photos s3://b/scores -o s3://b/out --on ray
  crfrnn refine --manifest jobs.csv -o out
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import Parser
from ._container_options import add_containers, check_no_container, container_of
from ._options import add_crf, add_outputs, add_reading, make_epilog, refuse_folder_options
from ._paths import add_paths, any_path

if TYPE_CHECKING:
    from crfrnn.io.paths import AnyPath
    from crfrnn.jobs.pairs import Outputs
    from crfrnn.jobs.settings import Settings


def add_arguments(parser: Parser) -> None:
    """Declare the options of `crfrnn refine`."""
    parser.make_epilog = make_epilog
    parser.add_argument(
        "image",
        metavar="IMAGE",
        type=any_path,
        nargs="?",
        help="a photograph, or a folder of them; also a URL",
    )
    parser.add_argument(
        "scores",
        metavar="SCORES",
        type=any_path,
        nargs="?",
        help="its scores, or a folder of them; also a URL",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="LABELS",
        type=any_path,
        required=True,
        help="the .png, or the folder, to write; see above",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what the files hold, how they would be read and, for tiles, volumes and COCO "
        "files, what would be written; and stop",
    )
    add_outputs(parser, any_path)
    add_reading(parser)
    add_paths(parser)
    add_containers(parser)
    add_crf(parser)
    parser.add_argument(
        "--clamp",
        metavar="CLAMP",
        type=any_path,
        help="a map of pixels to keep, such as scribbles, or a folder of maps with the stems of "
        "the images: an image or array like a label map, with the class of each clamped pixel and "
        "255 for free ones (65535 from 256 classes on); or a .npy of bools, True for pixels that "
        "keep their scores. For rasters also a raster, for volumes a NIfTI file",
    )


def run(args: argparse.Namespace) -> int:
    """Run `crfrnn refine`."""
    from crfrnn.io.paths import Remote
    from crfrnn.io.scores import SCORE_SUFFIXES
    from crfrnn.jobs.pairs import Outputs
    from crfrnn.offline.device import require_device

    from ._file import check_inputs
    from ._paths import settle_paths
    from ._settings import make_settings

    settings = replace(make_settings(args), device=args.device)
    settle_paths(args)
    outputs = Outputs(args.output, args.probs, args.overlay)
    if args.manifest is not None:
        check_no_container(args)
        require_device(settings.device, settings.refining.engine)
        return _run_folder(args, outputs, settings)
    kind = container_of(args)
    if kind:
        from ._containers import run_container

        check_inputs(args.image, args.scores, *(args.more or ()))
        check_clamp(args, folder=args.image.is_dir())
        return run_container(kind, args, settings)
    require_device(settings.device, settings.refining.engine)

    def is_folder(path: AnyPath) -> bool:
        """Whether it is one; a URL without a known suffix is."""
        plain = path.suffix.lower() not in SCORE_SUFFIXES
        return plain if isinstance(path, Remote) else path.is_dir()

    folder = is_folder(args.image)
    check_clamp(args, folder=folder)
    check_inputs(args.image, args.scores)
    if folder != (is_folder(args.scores) and args.scores.suffix.lower() not in SCORE_SUFFIXES):
        raise ValueError(
            f"IMAGE and SCORES must be two files or two folders; got {args.image} and {args.scores}"
        )
    if folder:
        return _run_folder(args, outputs, settings)
    refuse_folder_options(args, "folders and manifests")
    from ._file import run_file

    return run_file(args, outputs, settings)


def _run_folder(args: argparse.Namespace, outputs: Outputs, settings: Settings) -> int:
    from ._folder import run_folder

    return run_folder(args, outputs, settings)


def check_clamp(args: argparse.Namespace, *, folder: bool) -> None:
    """Raise unless the maps are a file for a file, or a folder for a folder."""
    if not isinstance(args.clamp, Path):  # a URL is looked up when it is read
        return
    if not args.clamp.exists():
        raise FileNotFoundError(f"--clamp {args.clamp}: no such file or folder")
    if args.clamp.is_dir() != folder:
        expected = "a folder" if folder else "a file"
        raise ValueError(f"--clamp must be {expected}, like IMAGE; got {args.clamp}")
