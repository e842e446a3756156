"""Models on a hub, against a stand-in that speaks the few calls of its interface; and cards."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from crfrnn import CRFRNN, Bilateral, Gaussian, ModelCard
from crfrnn.io import hub
from crfrnn.models.checkpoint import Checkpoint, load_checkpoint

TOKEN = "hf_stand_in"


class StandIn(BaseHTTPRequestHandler):
    """Keeps repositories in memory: {id: {file: bytes}}, with the interface that clients use."""

    repositories: dict[str, dict[str, bytes]]
    asked: list[str]

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append(f"POST {self.path}")
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "no token"}, 401)
        if self.path == "/api/repos/create":
            given = json.loads(body)
            owner = given.get("organization") or "me"
            name = f"{owner}/{given['name']}"
            self.repositories.setdefault(name, {})
            return self.answer({"url": f"{self.root}/{name}", "name": name, "id": name})
        parts = self.path.partition("?")[0].split("/")
        name, what = "/".join(parts[3:5]), parts[5]
        if what == "preupload":
            files = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]
            return self.answer({"files": modes})
        assert what == "commit"
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                content = base64.b64decode(entry["value"]["content"])
                self.repositories[name][entry["value"]["path"]] = content
        sha = self.sha(name)
        return self.answer({
            "success": True, "commitOid": sha, "commitUrl": f"{self.root}/{name}/commit/{sha}",
            "hookOutput": "",
        })  # fmt: skip

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/"):
            parts = path.split("/")
            name = "/".join(parts[3:5])
            if name not in self.repositories:
                return self.missing("RepoNotFound")
            files = self.repositories[name]
            if len(parts) > 5 and parts[5] == "tree":
                return self.answer([
                    {"type": "file", "path": file, "size": len(content), "oid": self.oid(content)}
                    for file, content in files.items()
                ])  # fmt: skip
            siblings = [{"rfilename": file} for file in files]
            return self.answer({
                "id": name, "modelId": name, "sha": self.sha(name), "siblings": siblings,
                "private": False, "tags": [], "downloads": 0, "likes": 0,
            })  # fmt: skip
        owner, name, _, _, file = path.lstrip("/").split("/", 4)
        name = f"{owner}/{name}"
        if file not in self.repositories.get(name, {}):
            return self.missing("EntryNotFound")
        content = self.repositories[name][file]
        self.send_response(200)
        self.send_header("X-Repo-Commit", self.sha(name))
        self.send_header("ETag", f'"{self.oid(content)}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
        return None

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def sha(self, name: str) -> str:
        files = sorted(self.repositories[name].items())
        return hashlib.sha1(b"".join(a.encode() + b for a, b in files)).hexdigest()

    def oid(self, content: bytes) -> str:
        return hashlib.sha1(content).hexdigest()

    def missing(self, code: str) -> None:
        self.answer({"error": "not found"}, 404, {"X-Error-Code": code})

    def answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@pytest.fixture
def stand_in() -> Iterator[tuple[str, type[StandIn]]]:
    """The address of a hub, and what it holds."""
    pytest.importorskip("huggingface_hub")
    handler = type("Hub", (StandIn,), {"repositories": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def with_hub(address: str, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own: the client reads the address when it is imported."""
    environment = {
        **os.environ, "HF_ENDPOINT": address, "HF_HOME": str(folder / "home"), "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_a_layer_and_a_model_go_to_a_hub_and_come_back(
    stand_in: tuple[str, type[StandIn]], tmp_path: Path
) -> None:
    address, handler = stand_in
    script = """
        import torch
        from crfrnn import CRFRNN, Gaussian, ModelCard
        from crfrnn.models.checkpoint import Checkpoint, load_checkpoint

        layer = CRFRNN(3, [Gaussian(2, weight=0.7)], weights="matrix", iterations=4).eval()
        layer.kernel_weights.data += torch.randn_like(layer.kernel_weights)
        card = ModelCard(license="mit", data="shapes, made by a program",
                         scores={"mean IoU, percent": 51.25}, command="crfrnn train shapes.yaml")
        url = layer.push_to_hub("someone/a-crf", card=card, commit_message="First")
        assert "/someone/a-crf/" in url, url
        z, image = torch.randn(1, 3, 6, 7), torch.rand(1, 3, 6, 7) * 255
        again = CRFRNN.from_pretrained("someone/a-crf")
        assert torch.equal(again(z, image), layer(z, image))
        offline = CRFRNN.from_pretrained("someone/a-crf", local_files_only=True)
        assert torch.equal(offline.kernel_weights, layer.kernel_weights)

        model = Checkpoint("light", 3, {"width": 2}, crf=layer, classes=("a", "b", "c")).eval()
        model.push_to_hub("a-model", card=card)
        read = load_checkpoint("me/a-model")
        photo = torch.rand(1, 3, 20, 30) * 255
        for ours, theirs in zip(read.logits(photo), model.logits(photo)):
            assert torch.equal(ours, theirs)
        assert CRFRNN.from_pretrained("me/a-model").iterations == 4

        offline = {"local_files_only": True}
        for name, options in (("someone/nothing", {}), ("someone/other", offline)):
            try:
                CRFRNN.from_pretrained(name, **options)
            except FileNotFoundError as error:
                assert "no such directory, and no such model on the hub" in str(error), error
                assert "\\n" not in str(error), error
            else:
                raise AssertionError(name)
        print("done")
    """
    done = with_hub(address, script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
    assert set(handler.repositories) == {"someone/a-crf", "me/a-model"}
    for name, files in handler.repositories.items():
        assert set(files) == {"README.md", "config.json", "model.safetensors"}
        head = yaml.safe_load(files["README.md"].decode().split("---")[1])
        assert head["license"] == "mit"
        assert head["library_name"] == "crfrnn"
        assert f'"{"someone" if "crf" in name else "a-model"}' in files["README.md"].decode()
        assert b"51.25" in files["README.md"]
    assert not any("README" in line for line in handler.asked if line.startswith("GET"))


def test_a_push_without_a_token_says_what_the_hub_says(
    stand_in: tuple[str, type[StandIn]], tmp_path: Path
) -> None:
    script = """
        from crfrnn import CRFRNN
        CRFRNN(2).push_to_hub("someone/a-crf", token="hf_wrong")
    """
    done = with_hub(stand_in[0], script, tmp_path)
    assert done.returncode == 1
    assert "401" in done.stderr
    assert not stand_in[1].repositories


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        FileNotFoundError, match=r"someone/a-crf: no such directory. For a model of"
    ):
        CRFRNN.from_pretrained("someone/a-crf")
    with pytest.raises(
        ImportError, match=r"push_to_hub needs huggingface_hub; install it with pip"
    ):
        CRFRNN(2).push_to_hub("someone/a-crf")


def test_what_is_here_is_not_looked_for_on_a_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    CRFRNN(2, iterations=3).save_pretrained("someone/a-crf")
    assert not hub.is_id("someone/a-crf")
    assert CRFRNN.from_pretrained("someone/a-crf").iterations == 3
    for path in (tmp_path / "owner" / "name", "/owner/name", "a/b/c", "name", "../a/b", "a/"):
        assert not hub.is_id(path)
    assert hub.is_id("someone/else")
    with pytest.raises(ValueError, match="expected the name of a model on a hub"):
        CRFRNN(2).push_to_hub("a/b/c")


def test_a_card_says_what_is_known_and_no_more(tmp_path: Path) -> None:
    layer = CRFRNN(2, [Bilateral(67, 3, weight=4), Gaussian(1, weight=3)], weights="scalar")
    layer.kernel_weights.data[0] = 2.5
    card = ModelCard(
        title="A CRF | for CamVid", license="cc-by-nc-4.0", data="CamVid, train",
        scores={"mean IoU | test": 48.91}, command="crfrnn train a.yaml\n", notes="More.",
    )  # fmt: skip
    layer.save_pretrained(tmp_path / "a", card=card)
    text = (tmp_path / "a" / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head == {
        "library_name": "crfrnn", "pipeline_tag": "image-segmentation", "license": "cc-by-nc-4.0",
        "tags": ["conditional-random-field", "crf-rnn"],
    }  # fmt: skip
    for part in (
        "# A CRF | for CamVid", "## Data\n\nCamVid, train\n", "| mean IoU \\| test | 48.91 |",
        "```sh\ncrfrnn train a.yaml\n```", "Bilateral(position=67, color=3, weight=4)", "(2.5,)",
        "More.", "| classes | 2 |", 'from_pretrained("',
    ):  # fmt: skip
        assert part in text
    assert CRFRNN.from_pretrained(tmp_path / "a").kernel_weights[0] == 2.5
    bare = ModelCard().text("CRFRNN", {})
    assert bare.count("Not stated.") == 4
    assert "license" not in yaml.safe_load(bare.split("---")[1])
    Checkpoint("light", 2, {"width": 2}).save(tmp_path / "b", card=ModelCard())
    assert "| network | light |" in (tmp_path / "b" / "README.md").read_text()
    assert load_checkpoint(tmp_path / "b").num_classes == 2
    plain = tmp_path / "c"
    layer.save_pretrained(plain)
    assert not (plain / "README.md").exists()


@pytest.mark.unchecked
def test_a_card_that_a_hub_would_refuse() -> None:
    with pytest.raises(TypeError, match="scores must be numbers"):
        ModelCard(scores={"mean IoU": "48"})
    with pytest.raises(TypeError, match="license must be a text"):
        ModelCard(license=" ")


def test_a_weight_of_many_classes_is_cut_in_the_card() -> None:
    from crfrnn.layer import pretrained

    facts = pretrained.facts(CRFRNN(40, weights="matrix"))
    (name,) = (name for name in facts if name.startswith("kernel weights"))
    assert name == "kernel weights, matrix (the first 21 of 1600)"
    assert torch.is_tensor(CRFRNN(2).kernel_weights)
