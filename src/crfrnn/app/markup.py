"""The parts of the page as HTML: the board with the picture, the verdict, the plots, the links."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape

import numpy as np

from crfrnn.evaluation.metrics import Settings, score_titles
from crfrnn.offline.clamp import FREE

from .choice import CLAMP_FILE, Choice, preset_text
from .look import (
    STEPS,
    Look,
    Part,
    Tool,
    color_of,
    labels_url,
    pictures,
    scribbles_picture,
)
from .work import Step, Work, spell_changes, spell_guard, spell_scores

_KEYS = {
    False: "Arrow keys move the cross (with Shift, by one pixel). Enter puts the point there.",
    True: "Arrow keys move the cross (with Shift, by one pixel). Enter marks the pixels there.",
}


def board(work: Work, choice: Choice, look: Look, tool: Tool) -> str:
    """The picture with what lies over it: the cross, bandwidths, scribbles, the dividing slider."""
    shown = pictures(work, choice, look)
    part = shown.part
    color = "#ffffff" if tool.label == FREE else color_of(work, tool.label)
    hint = _KEYS[tool.draws]
    layers = [f'<img class="after" src="{shown.after}" alt="{escape(shown.says)}">']
    if shown.before:
        layers.append(f'<img class="before" src="{shown.before}" alt="">')
        layers.append('<span class="divider"></span>')
        layers.append('<span class="tag left">before: the network</span>')
        layers.append('<span class="tag right">after: with CRF</span>')
    if scribbles := scribbles_picture(work, part):
        layers.append(f'<img class="marks" src="{scribbles}" alt="your scribbles">')
    layers.append(_drawing(work, choice, look, part))
    layers.append("<canvas></canvas>")
    key = "".join(
        f'<li><i style="background:{color}"></i>{escape(text)}</li>' for color, text in shown.key
    )
    cut = ""
    if shown.before:
        cut = (
            '<input class="cut" type="range" min="0" max="100" value="50" '
            'aria-label="Where before ends and after begins, in percent of the width">'
        )
    data = (
        f'data-left="{part.left}" data-top="{part.top}" data-width="{part.width}" '
        f'data-height="{part.height}" data-x="{work.point[0]}" data-y="{work.point[1]}" '
        f'data-draws="{int(tool.draws)}" data-color="{color}" data-radius="{tool.radius:g}"'
    )
    return (
        f'<figure class="board{" steps" if look.view == STEPS else ""}" {data}>'
        f'<div class="stage" tabindex="0" role="application" aria-label="The photograph. {hint}" '
        f'style="aspect-ratio:{part.width}/{part.height}">{"".join(layers)}</div>{cut}'
        f'<figcaption><ul class="key">{key}</ul>{_rings_key(work, choice, look)}</figcaption>'
        "</figure>"
    )


def _drawing(work: Work, choice: Choice, look: Look, part: Part) -> str:
    x, y = work.point[0] + 0.5, work.point[1] + 0.5
    rings = ""
    if look.rings:
        rings = (
            f'<circle class="shade" cx="{x}" cy="{y}" r="{choice.position}"/>'
            f'<circle class="far" cx="{x}" cy="{y}" r="{choice.position}"/>'
            f'<circle class="shade" cx="{x}" cy="{y}" r="{choice.near}"/>'
            f'<circle class="near" cx="{x}" cy="{y}" r="{choice.near}"/>'
        )
    size = 0.02 * part.width
    lines = f'd="M{-size} 0H{size}M0 {-size}V{size}"'
    cross = (
        f'<g class="cross" transform="translate({x} {y})"><path class="shade" {lines}/>'
        f"<path {lines}/></g>"
    )
    box = f"{part.left} {part.top} {part.width} {part.height}"
    return f'<svg viewBox="{box}" aria-hidden="true">{rings}{cross}</svg>'


def _rings_key(work: Work, choice: Choice, look: Look) -> str:
    if not look.rings:
        return ""
    x, y = work.point
    color = work.subject.photo[y, x].astype(float)
    patches = []
    for away in (-2, -1, 0, 1, 2):  # the same shift of all channels, this many bandwidths long
        r, g, b = (round(c) for c in np.clip(color + away * choice.color / math.sqrt(3), 0, 255))
        weight = math.exp(-0.5 * away**2)
        patches.append(
            f'<i style="background:rgb({r},{g},{b})" title="{weight:.0%} of the pull"></i>'
        )
    return (
        f'<p class="rings"><span class="ring far"></span>pixels this near ({choice.position:g} px) '
        f'<b>and</b> of a color like <span class="patches">{"".join(patches)}</span> pull the '
        f'marked pixel to their label; <span class="ring near"></span>so do those this near '
        f"({choice.near:g} px), of any color.</p>"
    )


def verdict(work: Work, choice: Choice) -> str:
    """What the CRF did, in words, and if there is a true mask, in figures."""
    result = work.refine(choice)
    lines = [*spell_changes(result.changed, work.class_names), *spell_guard(result.guarded)]
    scores = work.scores(choice)
    head = "" if scores is None else f"<p class='head'>{escape(spell_scores(scores))}</p>"
    table = ""
    if scores is None:
        lines.append(
            "Whether this is better, only your eyes can judge, or a true mask, if you open one."
        )
    else:
        titles = score_titles(Settings().widths)
        rows = "".join(
            f"<tr><th scope='row'>{titles[name]}</th><td>{100 * a:.2f}</td><td>{100 * b:.2f}</td>"
            f"<td class='{_way(b - a)}'>{100 * (b - a):+.2f}</td></tr>"
            for name, (a, b) in scores.items()
        )
        table = (
            "<table><caption>Against the true mask, in percent, as <code>crfrnn evaluate</code> "
            "counts</caption><thead><tr><th scope='col'>score</th><th scope='col'>before</th>"
            f"<th scope='col'>after</th><th scope='col'>change</th></tr></thead><tbody>{rows}"
            "</tbody></table>"
        )
    said = "".join(f"<li>{escape(line)}</li>" for line in lines)
    engine = f"computed in {1000 * result.seconds:.0f} ms"
    return f"<div class='verdict'>{head}<ul>{said}</ul>{table}<p class='quiet'>{engine}</p></div>"


def _way(change: float) -> str:
    if change == 0:
        return ""
    return "up" if change > 0 else "down"


def plots(steps: Sequence[Step]) -> str:
    """Free energy and change of each step, as two plots and a table."""
    energy = [(s.number, s.energy) for s in steps]
    change = [(s.number, s.change) for s in steps if s.number]
    rows = "".join(
        f"<tr><th scope='row'>{s.number}</th><td>{s.energy:.4f}</td>"
        f"<td>{'' if math.isnan(s.change) else f'{s.change:.4f}'}</td></tr>"
        for s in steps
    )
    return (
        "<div class='plots'>"
        + _plot("Free energy per pixel, after each step", "Lower fits better.", energy)
        + _plot(
            "Change of the probabilities in each step",
            "Once it is near 0, more steps change nothing.",
            change,
            zero=True,
        )
        + "<details><summary>The numbers</summary><table><thead><tr><th scope='col'>step</th>"
        "<th scope='col'>free energy</th><th scope='col'>change</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></details></div>"
    )


def _plot(title: str, says: str, points: Sequence[tuple[int, float]], zero: bool = False) -> str:
    if not points:
        return f"<p class='quiet'>{title}: there is no step.</p>"
    values = [value for _, value in points]
    low, high = (0.0 if zero else min(values)), max(values)
    span = (high - low) or 1.0
    first, last = points[0][0], max(points[-1][0], points[0][0] + 1)
    left, top, width, height = 62, 12, 410, 120

    def place(step: float, value: float) -> tuple[float, float]:
        return (
            left + width * (step - first) / (last - first),
            top + height * (1 - (value - low) / span),
        )

    spots = [place(step, value) for step, value in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    dots = "".join(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5'/>" for x, y in spots)
    ticks = "".join(
        f"<text x='{left - 8}' y='{place(first, v)[1] + 4:.1f}' text-anchor='end'>{v:.3g}</text>"
        f"<line x1='{left}' x2='{left + width}' y1='{y:.1f}' y2='{y:.1f}'/>"
        for v, y in ((low, place(first, low)[1]), (low + span, place(first, low + span)[1]))
    )
    every = max(1, (last - first) // 10)
    ticks += "".join(
        f"<text x='{place(step, low)[0]:.1f}' y='{top + height + 18}' text-anchor='middle'>{step}"
        "</text>"
        for step in range(first, last + 1, every)
    )
    description = f"{title}: from {values[0]:.4g} at step {points[0][0]} to {values[-1]:.4g}"
    return (
        f"<figure><figcaption><b>{title}.</b> {says}</figcaption>"
        f"<svg viewBox='0 0 490 155' role='img' aria-label='{description}'>{ticks}"
        f"<polyline points='{line}'/>{dots}</svg></figure>"
    )


def links(work: Work, choice: Choice) -> str:
    """Links that save the preset, the labels and the scribbles; the page holds their content."""
    labels = work.refine(choice).refined.labels
    text = base64.b64encode(preset_text(choice).encode()).decode()
    saved = [
        ("preset.yaml", f"data:application/yaml;base64,{text}", "Save preset"),
        ("labels.png", labels_url(work, labels, work.num_classes), "Save labels"),
    ]
    if work.has_scribbles:
        scribbles = labels_url(work, work.scribbles, work.free + 1)
        saved.append((CLAMP_FILE, scribbles, "Save scribbles"))
    anchors = "".join(
        f'<a class="save" download="{name}" href="{url}">{text}</a>' for name, url, text in saved
    )
    return f'<p class="links">{anchors}</p>'


def copies(command: str, python: str) -> str:
    """The result as a command and as Python, each with a button that copies it."""
    parts = []
    for name, what, text in (
        ("command", "a command", command),
        ("python", "Python", python),
    ):
        parts.append(
            f'<section id="{name}"><header><span id="{name}-title">The same as {what}</span>'
            f'<button type="button" aria-label="Copy the {name}">Copy</button></header>'
            f'<pre tabindex="0" role="textbox" aria-readonly="true" aria-labelledby="{name}-title">'
            f"{_words(text) if name == 'command' else escape(text)}</pre></section>"
        )
    return "".join(parts)


def _words(command: str) -> str:
    """A command whose options are not broken at their hyphens."""
    words = [escape(word) for word in command.split(" ")]
    return " ".join(f"<span>{word}</span>" if len(word) < 30 else word for word in words)


def message(text: str, *, bad: bool = False) -> str:
    """A line about what happened; screen readers read it when it changes."""
    if not text:
        return '<p class="message" role="status"></p>'
    kind, role = ("message bad", "alert") if bad else ("message", "status")
    return f'<p class="{kind}" role="{role}">{escape(text)}</p>'


def progress(done: int, total: int, name: str) -> str:
    """How far the work on a folder is."""
    return (
        f'<p class="message" role="status"><progress max="{total}" value="{done}" '
        f'aria-label="photographs refined"></progress> {done} of {total} {escape(name)}</p>'
    )
