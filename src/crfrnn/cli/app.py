"""Choose the CRF's parameters by looking: a page with sliders, in the browser.

FILES is
  nothing          the photographs of `crfrnn demo`
  IMAGE SCORES     a photograph and its scores, as for `crfrnn refine`
  FOLDER           photographs, and arrays of scores with the same stems
  IMAGES SCORES    two folders; the page goes through the files of equal stems
The page listens on this machine only, needs no internet connection, opens no
other file, and keeps nothing once it is closed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import Parser
from ._options import add_options, describe_presets

if TYPE_CHECKING:
    from crfrnn.app.choice import Choice
    from crfrnn.app.desk import Start
    from crfrnn.jobs.pairs import Matches, Pair
    from crfrnn.jobs.resume import Looks, Origin

_HERE = ("127.0.0.1", "localhost", "::1")


def add_arguments(parser: Parser) -> None:
    """Declare the options of `crfrnn app`."""
    from crfrnn.io.options import ReadOptions

    parser.make_epilog = describe_presets
    add = parser.add_argument
    add("files", metavar="FILES", type=Path, nargs="*", help="what to open; see above")
    add(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        help="folders: where the page writes labels (default: refined, in the first folder)",
    )
    add("--preset", metavar="NAME", default="deeplab", help="preset, or preset file, to start from")
    add("--host", metavar="NAME", default="127.0.0.1", help="address to listen on (this machine)")
    add("--port", metavar="N", type=int, help="port (default: a free one from 7860 on)")
    add("--browser", action="store_true", help="open the page in the browser")
    add_options(parser.add_argument_group("reading SCORES"), ReadOptions)


def run(args: argparse.Namespace) -> int:
    """Run `crfrnn app`; Ctrl-C ends it."""
    from crfrnn.app.serving import serving

    from ._notes import say

    start = make_start(args)
    if args.host not in _HERE:
        say(f"crfrnn app: note: anyone who can reach {args.host} can open the page")
    with serving(start, host=args.host, port=args.port) as address:
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()
        say("crfrnn app: open this address in a browser; Ctrl-C stops the page")
        if args.browser:
            import webbrowser

            webbrowser.open(address)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return 0


def make_start(args: argparse.Namespace) -> Start:
    """Open what the options name; raises before the page is served."""
    from crfrnn.app.choice import Choice
    from crfrnn.app.desk import Start
    from crfrnn.app.subject import open_files

    from ._settings import make_reading

    choice, reading = Choice.of_preset(args.preset), make_reading(args)
    files: list[Path] = args.files
    if len(files) == 1 and not files[0].exists():
        raise FileNotFoundError(f"{files[0]}: no such file or folder")
    folders = [path.is_dir() for path in files]
    if len(files) > 2 or (len(files) == 1 and not folders[0]) or len(set(folders)) > 1:
        raise ValueError(
            f"FILES must be a photograph and its scores, or one or two folders; got "
            f"{' '.join(map(str, files))}"
        )
    if not files:
        return Start(choice)
    if not folders[0]:
        return Start(choice, open_files(*files, reading=reading))
    return _folder(args, choice, reading)


def _folder(args: argparse.Namespace, choice: Choice, reading: Any) -> Start:
    from crfrnn.app.desk import Entry, Start
    from crfrnn.io.paths import require_local
    from crfrnn.jobs.pairs import Outputs, match
    from crfrnn.jobs.resume import Origin
    from crfrnn.jobs.settings import Settings

    images, scores = args.files[0], args.files[-1]
    output: Path = args.output or images / "refined"
    matches = match(images, scores, Outputs(output))
    if not matches.pairs:
        raise ValueError(f"{images}: no photograph has exactly one file of scores with its stem")
    entries = [
        Entry(pair.stem, require_local(pair.image), require_local(pair.scores))
        for pair in matches.pairs
    ]

    def refine_folder(choice: Choice) -> Iterator[tuple[str, str]]:
        settings = Settings(reading, choice.options(reading.confidence))
        yield from _refine_all(matches, Origin("refine", images, scores, settings), output)

    return Start(
        choice, entries=entries, output=output, refine_folder=refine_folder, reading=reading
    )


def _refine_all(matches: Matches, origin: Origin, output: Path) -> Iterator[tuple[str, str]]:
    """Refine all pairs as `crfrnn refine` does; yields the stem of each, and an error or "".

    What is done with the same parameters is not done again; results of other ones are replaced.
    """
    from crfrnn.io.files import describe
    from crfrnn.io.locks import claimed
    from crfrnn.jobs.files import refine_file
    from crfrnn.jobs.pairs import Outputs, as_arrays
    from crfrnn.jobs.resume import is_done, make_folders, record_of
    from crfrnn.jobs.survey import settle, survey

    understood = survey([(pair.image, pair.scores) for pair in matches.pairs], origin.settings)
    settings = settle(origin.settings, understood)
    origin = replace(origin, settings=settings)
    pairs = (as_arrays(matches) if understood.kind == "masks" else matches).pairs
    make_folders(origin, Outputs(output))
    with claimed(output, origin.command):
        moved, looks = _prepare(origin, pairs, output)
        record = record_of(origin, Outputs(output))
        for pair in pairs:
            try:
                if not is_done(pair, origin, record, moved=moved, looks=looks):
                    refine_file(pair.image, pair.scores, pair.outputs, settings)
            except Exception as error:  # no other failure may stop the other files
                yield pair.stem, describe(error)
            else:
                yield pair.stem, ""


def _prepare(origin: Origin, pairs: Sequence[Pair], output: Path) -> tuple[bool, Looks]:
    """Write the manifest, also over one of other parameters; see `prepare`."""
    from crfrnn.jobs.pairs import Outputs
    from crfrnn.jobs.resume import manifest_name, prepare

    existing = [pair.outputs.labels for pair in pairs if pair.outputs.labels.exists()]
    if existing and not (output / manifest_name(origin.command)).exists():
        raise ValueError(
            f"{existing[0]} exists and is not a result of crfrnn {origin.command}; start the page "
            "with another folder for its results: crfrnn app FOLDER -o DIR"
        )
    try:
        return prepare(origin, pairs, Outputs(output), overwrite=False)
    except ValueError:
        return prepare(origin, pairs, Outputs(output), overwrite=True)
