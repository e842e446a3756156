"""Show which engines are built, which would run, and why others cannot."""

from __future__ import annotations

import argparse
import json

from ._notes import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `crfrnn info`."""
    parser.add_argument("--json", action="store_true", help="print the facts as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run `crfrnn info`."""
    from dataclasses import asdict

    from crfrnn import info

    facts = info()
    text = json.dumps(asdict(facts), indent=2) if args.json else str(facts)
    tell(text)
    return 0
