"""Tying Gradio's components to what the page computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from crfrnn.io.files import describe

from . import markup
from .answers import ERASE, Shown, answer, choice_of, pick, stroke
from .choice import Choice
from .desk import Desk, Page

if TYPE_CHECKING:
    from .page import Parts

#: Takes the page, the values of its components, and the event; returns a message.
Do = Callable[[Page, Mapping[str, Any], Any], str]

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def connect(parts: Parts, desk: Desk, page: Any) -> None:
    """Tie the components to what they do."""
    events = _Events(parts, desk)
    for name, component in {**parts.numbers, **parts.looks}.items():
        if name != "preset":
            events.on(component.input, _nothing, trigger_mode="always_last")
    events.on(page.load, _greet)
    events.on(parts.board.pick, _pick, trigger_mode="always_last")
    events.on(parts.board.stroke, _stroke, trigger_mode="multiple")
    events.on(parts.clear.click, _clear)
    for by, button in ((-1, parts.previous), (1, parts.next)):
        events.on(button.click, _turn(by))
    for name, button in zip(("astronaut", "chelsea"), parts.demos, strict=True):
        events.on(button.click, _demo(name))
    for what, component in parts.uploads.items():
        events.on_upload(what, component)
    events.on_preset()
    parts.all.click(events.refine_all, events.inputs, parts.message, **_QUIET)

    def unload(request: gr.Request) -> None:
        desk.close(str(request.session_hash))

    page.unload(unload)


class _Events:
    """What all events share: the values of all components go in, and what is shown comes out."""

    def __init__(self, parts: Parts, desk: Desk) -> None:
        components = {**parts.numbers, **parts.looks}
        self._parts, self._desk, self._names = parts, desk, list(components)
        self.inputs = list(components.values())
        self.outputs = list(parts.shown.values())

    def on(self, listen: Callable[..., Any], do: Do, **more: Any) -> None:
        """Do something when an event happens, and show the result."""

        def run(request: gr.Request, event: gr.EventData, *values: Any) -> list[Any]:
            return self._answer(request, values, do, event)

        listen(run, self.inputs, self.outputs, **_QUIET, **more)

    def on_upload(self, what: str, component: Any) -> None:
        """Take an uploaded file, and remove it at once."""

        def run(request: gr.Request, file: tuple[str, str], *values: Any) -> list[Any]:
            name, path = file
            content = Path(path).read_bytes()
            Path(path).unlink()

            def do(page: Page, values: Mapping[str, Any], event: Any) -> str:
                return page.upload(what, name, content)

            return [*self._answer(request, values, do, None), None]

        component.upload(run, [component, *self.inputs], [*self.outputs, component], **_QUIET)

    def on_preset(self) -> None:
        """Move the sliders to the numbers of a preset, and show its result."""
        parts = self._parts
        names = [name for name in (*parts.sliders, "normalization") if name != "band"]

        def numbers(name: str) -> list[Any]:
            choice = Choice.of_preset(name)
            return [getattr(choice, n) for n in names]

        def run(request: gr.Request, *values: Any) -> list[Any]:
            return self._answer(request, values, _nothing, None)

        moved = [parts.numbers[name] for name in names]
        parts.preset.input(numbers, parts.preset, moved, **_QUIET).then(
            run, self.inputs, self.outputs, **_QUIET
        )

    def refine_all(self, request: gr.Request, *values: Any) -> Iterator[str]:
        """Refine the whole folder, and say how far it is."""
        try:
            with self._desk.page(str(request.session_hash)) as page:
                start = page.start
            choice = choice_of(dict(zip(self._names, values, strict=True)), start.choice)
            total, failures = len(start.entries), []
            yield markup.progress(0, total, "")
            for done, (name, error) in enumerate(start.refine_all(choice), start=1):
                failures += [f"{name}: {error}"] if error else []
                yield markup.progress(done, total, name)
            said = f"{total - len(failures)} of {total} label maps are in {start.output}"
            yield markup.message("; ".join([said, *failures]), bad=bool(failures))
        except Exception as error:
            yield markup.message(describe(error), bad=True)

    def _answer(
        self, request: gr.Request, values: tuple[Any, ...], do: Do, event: Any
    ) -> list[Any]:
        given = dict(zip(self._names, values, strict=True))
        try:
            with self._desk.page(str(request.session_hash)) as page:
                said = do(page, given, event)
                shown = answer(page, given, said)
                self._desk.note(page, choice_of(given, page.start.choice))
        except Exception as error:  # the page says what is wrong, and stays as it is
            bad = markup.message(describe(error), bad=True)
            return [bad, *[gr.skip()] * (len(self.outputs) - 1)]
        return [_update(name, shown) for name in self._parts.shown]


def _update(name: str, shown: Shown) -> Any:
    """The new state of a component."""
    value = getattr(shown, name)
    if name == "plots":
        return gr.update(value=value, visible=bool(value))
    if name == "label":
        return gr.update(choices=shown.classes, value=value, visible=shown.picks_class)
    if name == "pen":
        return gr.update(choices=[*shown.classes, (ERASE, ERASE)], value=value)
    return value


def _nothing(page: Page, values: Mapping[str, Any], event: Any) -> str:
    return ""


def _greet(page: Page, values: Mapping[str, Any], event: Any) -> str:
    return " ".join(page.work.subject.notes)


def _pick(page: Page, values: Mapping[str, Any], event: Any) -> str:
    return pick(page, event.x, event.y)


def _stroke(page: Page, values: Mapping[str, Any], event: Any) -> str:
    return stroke(page, values, event.points)


def _clear(page: Page, values: Mapping[str, Any], event: Any) -> str:
    page.work.clear_scribbles()
    return ""


def _turn(by: int) -> Do:
    return lambda page, values, event: page.turn(by)


def _demo(name: str) -> Do:
    return lambda page, values, event: page.show_demo(name)
