"""Refuse a release whose tag, files and changelog do not speak of the same version.

python .ci/release.py v0.1.0 dist
"""

import sys
from pathlib import Path

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"
PLATFORMS = ("manylinux", "macosx", "win_amd64")


def main() -> None:
    tag, folder = sys.argv[1:]
    version = tag.removeprefix("v")
    names = sorted(path.name for path in Path(folder).iterdir())
    print(*names, sep="\n")
    strangers = [name for name in names if not name.startswith(f"crfrnn-{version}")]
    missing = [part for part in (*PLATFORMS, ".tar.gz") if not any(part in name for name in names)]
    if strangers or missing:
        sys.exit(f"{tag}: of another version: {strangers}; missing: {missing}")
    headings = [line for line in CHANGELOG.read_text("utf-8").splitlines() if line.startswith("##")]
    if not any(heading.startswith(f"## {version} ") for heading in headings):
        sys.exit(f"{tag}: CHANGELOG.md has no heading '## {version} (date)'")


if __name__ == "__main__":
    main()
