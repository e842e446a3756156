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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import Parser
from ._options import add_options, describe_presets

if TYPE_CHECKING:
    from crfrnn.app.choice import Choice
    from crfrnn.app.desk import Entry, Start

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
    from crfrnn.io.files import make_folder
    from crfrnn.io.paths import require_local
    from crfrnn.jobs.files import refine_file
    from crfrnn.jobs.pairs import Outputs, match
    from crfrnn.jobs.settings import Settings

    images, scores = args.files[0], args.files[-1]
    output: Path = args.output or images / "refined"
    pairs = {pair.stem: pair for pair in match(images, scores, Outputs(output)).pairs}
    if not pairs:
        raise ValueError(f"{images}: no photograph has exactly one file of scores with its stem")
    entries = [
        Entry(pair.stem, require_local(pair.image), require_local(pair.scores))
        for pair in pairs.values()
    ]

    def refine_entry(entry: Entry, choice: Choice) -> None:
        make_folder(output)
        settings = Settings(reading, choice.options(reading.confidence))
        refine_file(entry.image, entry.scores, pairs[entry.name].outputs, settings)

    return Start(choice, entries=entries, output=output, refine_entry=refine_entry, reading=reading)
