"""The page in a browser: what a person does there, and what they see."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crfrnn import refine
from crfrnn.demo import network_scores, photograph
from crfrnn.evaluation.metrics import score_titles
from tests.app.browser import Browser, needs, served

pytest.importorskip("gradio")
pytest.importorskip("selenium")
pytest.importorskip("skimage")

pytestmark = pytest.mark.slow

ENTER, TAB, END, HOME, LEFT, RIGHT, DOWN = (chr(0xE000 + n) for n in (7, 4, 16, 17, 18, 20, 21))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def browser(folder: Path) -> Iterator[Browser]:
    needs()
    tab = Browser(folder / "profile")
    yield tab
    hosts = tab.requests()
    tab.close()
    assert hosts == {"127.0.0.1"}


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    needs()
    with served(folder) as address:
        yield address


#: Where the test puts its screenshots for the documentation; `make screenshots` sets it.
SCREENSHOTS = "CRFRNN_SCREENSHOTS"

SLIDERS = ("position", "color", "weight", "near", "smoothness", "iterations")

#: The roles of what a person can operate.
NAMED = {
    "application", "button", "checkbox", "combobox", "link", "radio", "slider", "spinbutton",
    "textbox",
}  # fmt: skip


@pytest.fixture(scope="module")
def files(folder: Path) -> Path:
    """A photograph, scores at its size and a mask, all small, and files that do not fit."""
    files = folder / "files"
    files.mkdir()
    photo = photograph("chelsea")[40:200, 180:420]
    scores = network_scores("chelsea", (300, 451)).values[:, 40:200, 180:420]
    Image.fromarray(photo).save(files / "cat.png")
    np.save(files / "cat.npy", scores)
    truth = refine(photo, logits=scores, preset="maskcut").labels.astype(np.uint8)
    truth[:3] = 255
    Image.fromarray(truth).save(files / "truth.png")
    Image.fromarray((truth % 255 > 0).astype(np.uint8) * 255).save(files / "blackwhite.png")
    Image.fromarray(truth[:-20]).save(files / "smaller.png")
    (files / "torn.png").write_bytes((files / "cat.png").read_bytes()[:9000])
    Image.new("1", (20_000, 10_000)).save(files / "huge.png")
    return files


def set_number(browser: Browser, name: str, value: str) -> None:
    """Type a number into the field of a slider."""
    field = browser.find(f"#{name} input[type=number]")
    browser.run("arguments[0].scrollIntoView({block: 'center'}); arguments[0].select()", field)
    browser.keys(value, ENTER)


def message(browser: Browser) -> str:
    return browser.text("#message")


def open_cat(browser: Browser, files: Path) -> None:
    browser.upload("photograph", files / "cat.png")
    browser.until(lambda: "now drop its scores" in message(browser), "the photograph")
    browser.upload("scores", files / "cat.npy")
    browser.until(lambda: "cat.npy are open" in message(browser), "the scores")


def href(browser: Browser, name: str) -> str:
    """A link that saves a file."""
    script = "return document.querySelector(`a.save[download='${arguments[0]}']`).href"
    return str(browser.run(script, name))


def saved(browser: Browser, name: str) -> np.ndarray:
    """The picture behind a link that saves it."""
    with urllib.request.urlopen(href(browser, name)) as file:
        return np.asarray(Image.open(file))


def test_each_slider_changes_the_picture(browser: Browser, address: str) -> None:
    browser.open(address)
    assert "another label" in browser.text("#verdict")
    for name in SLIDERS:
        slider = browser.find(f"#{name} input[type=range]")
        browser.run("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", slider)
        browser.changes(lambda key=HOME if name == "iterations" else END: browser.keys(key))


def test_each_view_shows_something_else(browser: Browser, address: str) -> None:
    browser.open(address)
    for view in ("What changed", "Probability of a class", "Who is alike"):
        browser.changes(lambda view=view: browser.click_text("label", view))
    browser.click_text("label", "Step by step")
    browser.until(lambda: "Free energy per pixel" in browser.text("#plots"), "the plots")
    assert len(browser.run("return document.querySelectorAll('#plots tbody tr')")) == 11
    browser.changes(lambda: browser.click_text("label", "4×"))


def test_the_command_gives_the_labels_of_the_page(
    browser: Browser, address: str, folder: Path
) -> None:
    browser.open(address)
    browser.changes(lambda: set_number(browser, "weight", "7"))
    browser.until(lambda: "--bilateral-weight 7" in browser.text("#command pre"), "7")
    rights = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.driver.execute_cdp_cmd(
        "Browser.grantPermissions", {**rights, "origin": address.rstrip("/")}
    )
    browser.click("#command button")
    read = "navigator.clipboard.readText().then(arguments[0], e => arguments[0](String(e)))"
    copied = browser.until(lambda: browser.driver.execute_async_script(read), "the copy")
    assert copied == browser.text("#command pre")
    command = shlex.split(copied)
    assert command[0] == "crfrnn"
    subprocess.run([sys.executable, "-m", *command], cwd=folder, check=True)
    labels = np.asarray(Image.open(folder / "labels.png"))
    np.testing.assert_array_equal(labels, saved(browser, "labels.png"))
    space: dict[str, np.ndarray] = {}
    exec(browser.text("#python pre"), space)
    np.testing.assert_array_equal(space["labels"], labels)


def test_a_scribble_clamps_and_the_command_repeats_it(
    browser: Browser, files: Path, tmp_path: Path
) -> None:
    for name in ("cat.png", "cat.npy"):
        (tmp_path / name).write_bytes((files / name).read_bytes())
    with served(tmp_path, "cat.png", "cat.npy") as address:
        browser.open(address)
        browser.click("#scribbles > button")
        browser.until(
            lambda: browser.driver.find_elements("css selector", "#pen input"), "the part"
        )
        browser.click_text("label", "draw scribbles")
        browser.click("#pen input")
        browser.run("arguments[0].select()", browser.find("#pen input"))
        browser.keys("dog", ENTER)
        board = "return document.querySelector('#board .board').dataset"
        browser.until(lambda: browser.run(board)["color"] not in ("#ffffff", "#ebebeb"), "the pen")
        browser.until(lambda: browser.run(board)["draws"] == "1", "the pen")
        browser.changes(lambda: browser.drag([(0.1, 0.1), (0.2, 0.15), (0.4, 0.1)]))
        browser.until(lambda: "--clamp clamp.png" in browser.text("#command pre"), "the command")
        labels = saved(browser, "labels.png")
        clamp = saved(browser, "clamp.png")
        command = shlex.split(browser.text("#command pre"))
        assert set(np.unique(clamp)) == {12, 255}
        assert (clamp[:16, 24:90] == 12).any()
        assert (labels[clamp == 12] == 12).all()
        with urllib.request.urlopen(href(browser, "clamp.png")) as file:
            (tmp_path / "clamp.png").write_bytes(file.read())
        subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, check=True)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "labels.png")), labels)
        browser.run("document.querySelector('#board .stage').focus()")
        browser.keys(DOWN, DOWN, DOWN, ENTER)  # by keyboard
        browser.until(lambda: (saved(browser, "clamp.png") == 12).sum() > (clamp == 12).sum(), "it")
        browser.changes(lambda: browser.click_text("button", "Remove all scribbles"))
        assert "--clamp" not in browser.text("#command pre")


def test_a_mask_gives_the_figures_of_evaluate(
    browser: Browser, address: str, files: Path, folder: Path
) -> None:
    browser.open(address)
    open_cat(browser, files)
    browser.upload("mask", files / "truth.png")
    browser.until(lambda: "mean IoU" in browser.text("#verdict"), "the scores")
    rows = browser.run(
        "return [...document.querySelectorAll('#verdict tbody tr')].map(r => "
        "[...r.cells].map(c => c.innerText))"
    )
    for name, source in (("images", "cat.png"), ("scores", "cat.npy"), ("masks", "truth.png")):
        (folder / name).mkdir()
        target = folder / name / f"cat{Path(source).suffix}"
        target.write_bytes((files / source).read_bytes())
    data = ["--data", "folder", "--images", "images", "--masks", "masks", "--classes", "21"]
    command = [sys.executable, "-m", "crfrnn", "evaluate", "scores", *data, "--json"]
    out = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    found = json.loads(out)["rows"]
    titles = {title: name for name, title in score_titles((1, 3, 5, 10)).items()}
    assert [row[0] for row in rows] == list(titles)
    for title, before, after, _ in rows:
        name = titles[title]
        assert before == f"{100 * found['before'][name]['value']:.2f}"
        assert after == f"{100 * found['after'][name]['value']:.2f}"


@pytest.mark.parametrize(
    ("what", "name", "says"),
    [
        ("photograph", "torn.png", "torn.png: not a readable image"),
        ("photograph", "huge.png", "the page opens up to 16 megapixels; got"),
        ("scores", "smaller.png", "must have the size of the image"),
        ("mask", "smaller.png", "they must have the same size"),
        ("mask", "blackwhite.png", "255 means unknown"),
        ("mask", "torn.png", "torn.png: not a readable image"),
        ("scores", "torn.png", "torn.png: not a readable image"),
    ],
)
def test_files_that_do_not_fit_give_a_message(
    browser: Browser, address: str, files: Path, what: str, name: str, says: str
) -> None:
    browser.open(address)
    if what != "photograph":
        open_cat(browser, files)
    before = browser.picture()
    if what == "scores":  # of the same photograph, which is dropped again
        browser.upload("photograph", files / "cat.png")
        browser.until(lambda: "now drop its scores" in message(browser), "the photograph")
    browser.upload(what, files / name)
    browser.until(lambda: browser.run("return !!document.querySelector('#message .bad')"), says)
    assert says in message(browser)
    assert "/" not in message(browser).replace("0/255", ""), "a path of the server"
    assert browser.picture() == before


def test_a_black_and_white_mask_is_read_as_scores(
    browser: Browser, address: str, files: Path
) -> None:
    browser.open(address)
    browser.upload("photograph", files / "cat.png")
    browser.until(lambda: "now drop its scores" in message(browser), "the photograph")
    browser.upload("scores", files / "blackwhite.png")
    browser.until(lambda: "because only 0 and 255 occur" in message(browser), "what was guessed")
    assert "another label" in browser.text("#verdict")


def test_the_keyboard_reaches_everything(browser: Browser, address: str) -> None:
    browser.open(address)
    browser.run("document.querySelectorAll('button.label-wrap:not(.open)').forEach(b => b.click())")
    browser.until(lambda: browser.find("#upload-mask").is_displayed(), "open parts")
    script = """
        const seen = e => e.checkVisibility({visibilityProperty: true}) && !e.disabled;
        const wanted = [...document.querySelectorAll(
          'input:not([type=file]), button, textarea, a[href], [tabindex="0"]')].filter(seen);
        wanted.forEach((e, i) => { e.dataset.key = e.type == 'radio' ? 'r' + e.name : i });
        document.activeElement.blur(); window.scrollTo(0, 0);
        return [...new Set(wanted.filter(e => e.tabIndex >= 0).map(e => e.dataset.key))]
    """
    wanted = set(browser.run(script))
    assert len(wanted) > 30
    reached: set[str] = set()
    for _ in range(2 * len(wanted)):
        browser.keys(TAB)
        reached.add(browser.run("return document.activeElement.dataset.key"))
    describe = "return document.querySelector(`[data-key='${arguments[0]}']`).outerHTML"
    assert not [browser.run(describe, key) for key in wanted - reached]


def test_the_board_works_by_keyboard(browser: Browser, address: str) -> None:
    browser.open(address)
    browser.run("document.querySelector('#board .cut').focus()")
    browser.keys(RIGHT, RIGHT)
    cut = "return document.querySelector('#board .cut').value"
    assert browser.run(cut) == "52"
    x = "return document.querySelector('#board .board').dataset.x"
    before = browser.run(x)
    browser.run("document.querySelector('#board .stage').focus()")
    browser.keys(LEFT, LEFT, ENTER)
    browser.until(lambda: browser.run(x) != before, "another point")
    focused = "return document.activeElement.className"
    browser.until(lambda: browser.run(focused) == "stage", "the focus on the new picture")
    assert browser.run(cut) == "52"


def test_everything_has_a_name(browser: Browser, address: str) -> None:
    browser.open(address)
    browser.run("document.querySelectorAll('button.label-wrap:not(.open)').forEach(b => b.click())")
    browser.click_text("label", "Step by step")
    browser.until(lambda: "Free energy" in browser.text("#plots"), "the plots")
    nodes = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    found = [node for node in nodes if node.get("role", {}).get("value") in NAMED]
    assert len(found) > 50
    nameless = [
        (node["role"]["value"], node.get("backendDOMNodeId"))
        for node in found
        if not node.get("ignored") and not node.get("name", {}).get("value", "").strip()
    ]
    html = []
    for role, number in nameless:
        there = browser.driver.execute_cdp_cmd("DOM.getOuterHTML", {"backendNodeId": number})
        html.append(f"{role}: {there['outerHTML'][:300]}")
    assert not html, "\n".join(html)
    assert not browser.run("return [...document.querySelectorAll('img:not([alt])')]")


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut(browser: Browser, address: str, width: int) -> None:
    browser.open(address, width)
    script = """
        return [...document.querySelectorAll('body *')].filter(e =>
          e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1
        ).map(e => e.outerHTML.slice(0, 200))
    """
    assert browser.run(script) == []
    assert browser.run("return document.documentElement.scrollWidth") == width


def test_no_file_outside_is_served(address: str, files: Path, folder: Path) -> None:
    (folder / "secret.txt").write_text("no one's business")
    for path in (folder / "secret.txt", files / "cat.png", Path("secret.txt"), Path(__file__)):
        for route in ("gradio_api/file=", "file=", "file/", "gradio_api/file/"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{address.rstrip('/')}/{route}{path}")
            assert refused.value.code in (403, 404)
            refused.value.close()


def test_uploads_are_gone_at_once(
    browser: Browser, address: str, files: Path, folder: Path
) -> None:
    browser.open(address)
    open_cat(browser, files)
    assert not [path for path in (folder / "temporary").rglob("*") if path.is_file()]


def test_a_folder_is_gone_through_and_refined(
    browser: Browser, files: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes((files / "cat.png").read_bytes())
        np.save(
            tmp_path / f"{name}.npy", np.load(files / "cat.npy")[:, :: 1 if name == "a" else -1]
        )
    (tmp_path / "c.png").write_bytes((files / "torn.png").read_bytes())
    (tmp_path / "c.npy").write_bytes((files / "cat.npy").read_bytes())
    with served(tmp_path, ".", "-o", "out") as address:
        browser.open(address)
        browser.changes(lambda: browser.click_text("button", "Next photograph"))
        assert message(browser).startswith("b: 2 of 3")
        browser.click_text("button", "Next photograph")
        browser.until(lambda: "c.png: not a readable image" in message(browser), "what is wrong")
        browser.changes(lambda: browser.click_text("button", "Next photograph"))
        browser.changes(lambda: set_number(browser, "weight", "9"))
        browser.click_text("button", "Refine the whole folder")
        browser.until(lambda: "2 of 3 label maps are in out" in message(browser), "the folder")
        assert "c: c.png: not a readable image" in message(browser)
        labels = saved(browser, "labels.png")
    command = [sys.executable, "-m", "crfrnn", "refine", ".", ".", "-o", "cli"]
    (tmp_path / "c.png").unlink()
    subprocess.run([*command, "--bilateral-weight", "9"], cwd=tmp_path, check=True)
    for name in ("a", "b"):
        ours, theirs = (
            np.asarray(Image.open(tmp_path / d / f"{name}.png")) for d in ("out", "cli")
        )
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), labels)


@pytest.mark.parametrize("width", [1280, 390])
def test_screenshots(browser: Browser, width: int, tmp_path: Path) -> None:
    photo = photograph("astronaut")
    Image.fromarray(photo).save(tmp_path / "astronaut.png")
    np.save(tmp_path / "astronaut.npy", network_scores("astronaut", (512, 512)).values)
    output = Path(os.environ.get(SCREENSHOTS, tmp_path))
    output.mkdir(parents=True, exist_ok=True)
    with served(tmp_path, "astronaut.png", "astronaut.npy") as address:
        browser.open(address, width)
        browser.screenshot(output / f"page_{width}.jpg")
        if width > 1000:
            for view, name in (("What changed", "changed"), ("Who is alike", "alike")):
                browser.changes(lambda view=view: browser.click_text("label", view))
                browser.screenshot(output / f"{name}_{width}.jpg", "#board")
            browser.click_text("label", "Step by step")
            browser.until(lambda: "Free energy" in browser.text("#plots"), "the plots")
            browser.screenshot(output / f"steps_{width}.jpg", "#plots")
    for path in output.glob(f"*_{width}.jpg"):
        with Image.open(path) as picture:
            assert picture.width <= width
            colors = picture.convert("RGB").resize((64, 64)).getcolors(4096)
            assert colors is not None
            assert len(colors) > 20
