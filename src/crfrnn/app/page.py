"""The page itself, built of Gradio's components; what it shows is computed in the other modules."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from crfrnn._extras import install
from crfrnn.core.names import FILTERS, NORMALIZATIONS
from crfrnn.io.files import IMAGE_SUFFIXES
from crfrnn.io.scores import SCORE_SUFFIXES
from crfrnn.presets import PRESETS

try:
    import gradio as gr
except ImportError as error:
    raise ImportError(f"the page needs gradio: {install('app')}") from error

from . import markup
from .answers import DRAW, ERASE, LOOK
from .choice import RANGES, Choice, limits
from .desk import Desk, Start
from .events import connect
from .look import BOTH, RADII, VIEWS, ZOOMS
from .subject import MOST_BYTES

#: Label and explanation of each slider.
_SLIDERS = {
    "position": ("Nearness, in pixels", "bilateral position, sxy: how far pixels pull each other"),
    "color": ("Likeness, in color units of 0–255", "bilateral color, srgb: which colors are alike"),
    "weight": ("Pull of pixels that are near and alike", "bilateral weight, compat: 0 for none"),
    "near": ("Smoothing, in pixels", "Gaussian position, sxy: removes specks up to this size"),
    "smoothness": ("Pull of near pixels of any color", "Gaussian weight, compat: 0 for none"),
    "iterations": ("Steps", "more steps carry the pull farther"),
    "band": ("Band, in pixels", "only pixels this close to a label change can change; 0: all"),
}

_INTRO = """<h1>See what a CRF does to your segmentation</h1>
<p>A network says what each pixel shows, but its outlines are coarse. The CRF moves them to the
edges in the photograph: pixels that are near each other and alike in color pull each other to the
same label. Drag the divider, move a slider, and look.</p>"""


#: Copies the text beside the button that is pressed.
_COPY = """
element.addEventListener('click', async (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  const text = button.closest('section').querySelector('pre');
  if (navigator.clipboard) await navigator.clipboard.writeText(text.innerText);
  else {  // a page from another machine, without TLS
    getSelection().selectAllChildren(text);
    document.execCommand('copy');
  }
  button.innerText = 'Copied';
});
"""


def build(desk: Desk, start: Start) -> Any:
    """Build the page.

    Args:
        desk: keeps what is open in each browser tab.
        start: what a page opens with.
    """
    with gr.Blocks(
        title="crfrnn app", analytics_enabled=False, delete_cache=(60, 60), fill_width=False
    ) as page:
        connect(Parts(start), desk, page)
    return page


def launch(page: Any, *, host: str, port: int | None, **options: Any) -> Any:
    """Serve a page that `build` made, to this machine unless `host` says otherwise."""
    folder = files("crfrnn") / "app"
    theme = gr.themes.Default(  # whose own fonts come from another host
        primary_hue="blue",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=False,
        footer_links=[],
        allowed_paths=[],
        max_file_size=MOST_BYTES,
        theme=theme,
        css=(folder / "page.css").read_text(encoding="utf-8"),
        **options,
    )


class Parts:
    """The components of the page, and what their events do."""

    def __init__(self, start: Start) -> None:
        choice = start.choice
        gr.HTML(_INTRO, elem_id="intro")
        with gr.Row(equal_height=False):
            with gr.Column(scale=7, min_width=340):
                self.message = gr.HTML(markup.message(""), elem_id="message")
                self.view = gr.Radio(VIEWS, value=BOTH, label="Show", elem_id="view")
                self.board = gr.HTML("", js_on_load=_script(), elem_id="board")
                self.plots = gr.HTML("", elem_id="plots", visible=False)
                self.verdict = gr.HTML("", elem_id="verdict")
                self._looking()
            with gr.Column(scale=5, min_width=340):
                self._opening(bool(start.entries))
                self._numbers(choice)
                self._copying()

    def _looking(self) -> None:
        with gr.Row():
            self.zoom = gr.Radio(
                [(f"{z}×", z) for z in ZOOMS], value=1, label="Enlarge around the point"
            )
            self.rings = gr.Checkbox(True, label="Draw the bandwidths on the photograph")
        self.label = gr.Dropdown(
            [], label="Class whose probability is shown", visible=False, elem_id="label"
        )
        with gr.Accordion(
            "Scribbles: tell the CRF what some pixels are", open=False, elem_id="scribbles"
        ):
            self.pointer = gr.Radio([LOOK, DRAW], value=LOOK, label="On the photograph, I")
            self.pen = gr.Dropdown([ERASE], value=ERASE, label="Mark pixels as", elem_id="pen")
            self.radius = gr.Slider(
                *RADII, 4, step=1, label="Half the width of the line, in pixels"
            )
            self.clear = gr.Button("Remove all scribbles", size="sm")

    def _opening(self, has_folder: bool) -> None:
        with gr.Row(visible=has_folder):
            self.previous = gr.Button("← Previous photograph", size="sm", min_width=120)
            self.next = gr.Button("Next photograph →", size="sm", min_width=120)
            self.all = gr.Button("Refine the whole folder", size="sm", min_width=120)
        with gr.Accordion("Open a photograph, its scores, a true mask", open=False):
            with gr.Row():
                self.demos = [
                    gr.Button(f"Demo: {name}", size="sm", min_width=120)
                    for name in ("astronaut", "chelsea")
                ]
            pictures, scores = sorted(IMAGE_SUFFIXES), sorted(SCORE_SUFFIXES)
            self.uploads = {
                what: _upload(label=label, file_types=kinds, height=110, elem_id=f"upload-{what}")
                for what, label, kinds in (
                    ("photograph", "Photograph", pictures),
                    ("scores", "Scores: .npy or .npz (C, h, w), or a label image", scores),
                    ("mask", "True mask, if you have one: class ids, 255 for unknown", pictures),
                )
            }

    def _numbers(self, choice: Choice) -> None:
        presets = [(f"{p.name}: {p.purpose}", p.name) for p in PRESETS.values()]
        if choice.preset not in PRESETS:
            presets.append((choice.preset, choice.preset))
        self.preset = gr.Dropdown(
            presets, value=choice.preset, label="Start from a preset", elem_id="preset"
        )
        ends = limits(choice)
        self.sliders = {
            name: gr.Slider(
                *ends[name],
                getattr(choice, name),
                step=RANGES[name][2],
                label=label,
                info=info,
                elem_id=name,
            )
            for name, (label, info) in _SLIDERS.items()
        }
        with gr.Accordion("More", open=False):
            self.normalization = gr.Radio(
                list(NORMALIZATIONS), value=choice.normalization, label="Normalization"
            )
            self.filter = gr.Radio(
                list(FILTERS),
                value=choice.filter,
                label="Filter",
                info="exact is the sum itself, and takes many seconds on a large photograph",
            )
            self.guard = gr.Checkbox(
                choice.guard, label="Guard: keep labels where the scores speak against the CRF"
            )

    def _copying(self) -> None:
        self.links = gr.HTML("", elem_id="links")
        self.copies = gr.HTML("", js_on_load=_COPY, elem_id="copies")

    @property
    def numbers(self) -> dict[str, Any]:
        """The components that hold a `Choice`, by the names of its fields."""
        others = {
            name: getattr(self, name) for name in ("preset", "normalization", "filter", "guard")
        }
        return {**self.sliders, **others}

    @property
    def looks(self) -> dict[str, Any]:
        """The components that hold a `Look` and a `Tool`."""
        names = ("view", "zoom", "label", "rings", "pointer", "pen", "radius")
        return {name: getattr(self, name) for name in names}

    @property
    def shown(self) -> dict[str, Any]:
        """The components that show a result, by the names of the fields of `answers.Shown`."""
        names = ("message", "board", "plots", "verdict", "links", "copies")
        return {name: getattr(self, name) for name in (*names, "label", "pen")}


def _upload(**options: Any) -> Any:
    """A field for a file, which gives the name that the file had, and the path where it lies.

    The field's own `preprocess` would leave an empty file behind for each upload.
    """
    field = gr.File(**options)
    field.preprocess = lambda given: given and (given.orig_name or "upload", given.path)
    return field


def _script() -> str:
    return (files("crfrnn") / "app" / "board.js").read_text(encoding="utf-8")
