"""The server's side of the page, without Gradio: the open pages, their uploads, and a folder."""

from __future__ import annotations

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crfrnn.io.files import describe
from crfrnn.io.options import DEFAULTS, ReadOptions

from .choice import CLAMP_FILE, Choice, command_text, python_text, quoted
from .subject import Subject, checked_truth, open_demo, open_files, open_mask, read_photograph
from .work import Work

#: More open pages are not kept; the one that was not used for longest starts anew.
_MOST_PAGES = 8

_NO_FOLDER = "no folder is open; start the page with one: crfrnn app FOLDER"


@dataclass(frozen=True)
class Entry:
    """A photograph of a folder and its scores."""

    name: str
    image: Path
    scores: Path


@dataclass(frozen=True)
class Start:
    """What a page opens with.

    Attributes:
        choice: the parameters to start from.
        subject: the photograph and scores; None for the demo's.
        entries: the photographs of a folder, to go through.
        output: the folder that `refine_folder` writes to.
        refine_folder: refines all photographs of the folder, and writes their labels as
            `crfrnn refine` does; yields the name of each, and an error or "".
        reading: how the files of the folder are read.
        truth: the true labels of `subject`, if they are known.
    """

    choice: Choice = field(default_factory=Choice)
    subject: Subject | None = None
    entries: Sequence[Entry] = ()
    output: Path | None = None
    refine_folder: Callable[[Choice], Iterator[tuple[str, str]]] | None = None
    reading: ReadOptions = DEFAULTS
    truth: np.ndarray | None = None

    def open(self) -> Work:
        """Open the first photograph."""
        if self.subject is None:
            return Work(self.open_entry(0) if self.entries else open_demo("astronaut"))
        work = Work(self.subject)
        if self.truth is not None:
            work.compare_with(checked_truth(self.truth, self.subject))
        return work

    def refine_all(self, choice: Choice) -> Iterator[tuple[str, str]]:
        """Refine all photographs of the folder; yields the name of each, and an error or "".

        A photograph that fails does not stop the others.
        """
        if self.refine_folder is None:
            raise ValueError(_NO_FOLDER)
        yield from self.refine_folder(choice)

    def open_entry(self, index: int) -> Subject:
        """Open a photograph of the folder."""
        entry = self.entries[index]
        return open_files(entry.image, entry.scores, reading=self.reading)


class Page:
    """What the server keeps for one open page. Nothing of it lies on disk.

    Attributes:
        work: the photograph, its scores and results.
        index: which entry of the folder is open.
    """

    def __init__(self, start: Start) -> None:
        self.lock = threading.RLock()
        self.start = start
        self.index = 0
        self._waiting: dict[str, tuple[str, bytes]] = {}
        self.work = start.open()

    def turn(self, by: int) -> str:
        """Open the next photograph of the folder, or the one before; returns a message."""
        entries = self.start.entries
        if not entries:
            raise ValueError(_NO_FOLDER)
        self.index = (self.index + by) % len(entries)
        entry = entries[self.index]
        self._show(self.start.open_entry(self.index))
        notes = "; ".join(self.work.subject.notes)
        return f"{entry.name}: {self.index + 1} of {len(entries)}{notes and f'. {notes}'}"

    def show_demo(self, name: str) -> str:
        """Open a photograph of the demo; returns a message."""
        self._show(open_demo(name))
        return f"{name}: a network's 33 x 33 scores, resized to the photograph"

    def upload(self, what: str, name: str, content: bytes) -> str:
        """Take an uploaded "photograph" or its "scores", or a "mask"; returns a message.

        A photograph waits for its scores, and scores for their photograph.

        Raises:
            ValueError: the file cannot be used; the message says why.
        """
        with tempfile.TemporaryDirectory() as folder:
            try:
                return self._take(Path(folder), what, name, content)
            except Exception as error:
                said = describe(error)
                for place in (f"{folder}/scores/", f"{folder}/image/"):
                    said = said.replace(place, "")  # a person knows the name alone
                raise ValueError(said) from error

    def python(self, choice: Choice) -> str:
        """The result as Python code."""
        subject, source = self.work.subject, self.work.subject.source
        clamp = "clamp" if self.work.has_scribbles else ""
        if source is None:
            return python_text(choice, f"{subject.kind}={subject.kind}", clamp=clamp)
        reading = source.code()
        imports = ["from pathlib import Path"]
        imports += ["import numpy as np", "from PIL import Image"] if clamp else []
        imports.append("from crfrnn.io.files import read_image")
        imports += ["from crfrnn.io.options import ReadOptions"] if reading else []
        imports.append("from crfrnn.io.scores import read_scores")
        exif = ", apply_exif=True" if source.reading.apply_exif else ""
        extra = f", ReadOptions({reading})" if reading else ""
        setup = [
            f"image = read_image(Path({quoted(source.image)}){exif})",
            f"scores = read_scores(Path({quoted(source.scores)}), image.shape[:2]{extra})",
        ]
        setup += [f"clamp = np.asarray(Image.open({quoted(CLAMP_FILE)}))"] if clamp else []
        scores = f"{subject.kind}=scores.values"
        if subject.kind == "labels" and source.reading.confidence != DEFAULTS.confidence:
            scores += f", confidence={source.reading.confidence}"
        return python_text(choice, scores, imports=imports, setup=setup, clamp=clamp)

    def command(self, choice: Choice) -> str:
        """The result as a command, or why there is none."""
        source = self.work.subject.source
        if source is None:
            return "# Save image and scores as files first; a command refines files."
        clamp = ("--clamp", CLAMP_FILE) if self.work.has_scribbles else ()
        return command_text(choice, source.image, source.scores, (*source.words(), *clamp))

    def _take(self, folder: Path, what: str, name: str, content: bytes) -> str:
        if what == "mask":
            path = _write(folder / "image", name, content)
            truth = open_mask(path, self.work.subject, max(self.work.num_classes, 2))
            self.work.compare_with(truth)
            return f"{name}: compared with this mask"
        waiting = {**self._waiting, what: (name, content)}
        self._waiting.pop(what, None)
        if what == "photograph":  # say at once what is wrong with it
            read_photograph(_write(folder / "image", name, content))
        if len(waiting) < 2:
            self._waiting = waiting
            other = "scores" if what == "photograph" else "photograph"
            return f"{name} is here; now drop its {other}"
        image, scores = waiting["photograph"], waiting["scores"]
        paths = [
            _write(folder / kind, *pair) for kind, pair in (("image", image), ("scores", scores))
        ]
        self._show(open_files(paths[0], paths[1], names=(image[0], scores[0])))
        self._waiting = {}
        notes = "; ".join(self.work.subject.notes)
        return f"{image[0]} and {scores[0]} are open{notes and f'. {notes}'}"

    def _show(self, subject: Subject) -> None:
        self.work = Work(subject)


class Desk:
    """All open pages, by the identifier of their session.

    Attributes:
        choice: the parameters of the page that was used last.
        last: the arguments of `refine` there, with the scribbles if there are any.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        self._pages: OrderedDict[str, Page] = OrderedDict()
        self._lock = threading.Lock()
        self.last: dict[str, Any] = start.choice.arguments()
        self.choice = start.choice

    def __len__(self) -> int:
        """Return the number of open pages."""
        return len(self._pages)

    @contextmanager
    def page(self, session: str) -> Iterator[Page]:
        """The page of a session, for one request at a time; a new session gets a new page."""
        with self._lock:
            page = self._pages.get(session)
        if page is None:
            page = Page(self._start)
        with self._lock:
            page = self._pages.setdefault(session, page)
            self._pages.move_to_end(session)
            while len(self._pages) > _MOST_PAGES:
                self._pages.popitem(last=False)
        with page.lock:
            yield page

    def note(self, page: Page, choice: Choice) -> None:
        """Note what a page shows."""
        clamp = {"clamp": page.work.scribbles.copy()} if page.work.has_scribbles else {}
        self.choice, self.last = choice, {**choice.arguments(), **clamp}

    def close(self, session: str) -> None:
        """Forget the page of a session."""
        with self._lock:
            self._pages.pop(session, None)


def _write(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / Path(name).name
    path.write_bytes(content)
    return path
