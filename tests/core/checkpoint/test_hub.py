"""Fetching from a hub: a server that speaks its protocol, and how little is asked of it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

COMMIT = "d" * 40
ONE = save({"w": torch.ones(2)})
TWO = save({"v": torch.ones(2)})
INDEX = json.dumps(
    {"weight_map": {"w": "model-1.safetensors", "v": "part[2]-of-2.safetensors"}}
).encode()

REPOSITORIES = {
    "owner/full": {
        "README.md": b"#",
        "config.json": b'{"model_type": "tiny"}',
        "tokenizer.json": b"{}",
        "vocab.txt": b"a",
        "tokenizer.model": b"x0",
        "chat_template.jinja": b"x1",
        "additional_chat_templates/t.jinja": b"x2",
        "model.safetensors": ONE,
        "model.fp16.safetensors": TWO,
        "pytorch_model.bin": b"x3",
        "modeling.py": b"x4",
        "consolidated.safetensors": b"x5",
        "onnx/config.json": b"{}",
        "original/tokenizer.model": b"x6",
        "sub/config.json": b"{}",
        "sub/model.safetensors": TWO,
        "extra.npz": b"x7",
    },
    "owner/sharded": {
        "config.json": b"{}",
        "model.safetensors.index.json": INDEX,
        "model-1.safetensors": ONE,
        "part[2]-of-2.safetensors": TWO,
        "part2-of-2.safetensors": b"x",
        "model-9.safetensors": b"x",
    },
    "owner/pickled": {"config.json": b"{}", "pytorch_model.bin": b"x"},
    "owner/broken": {
        "config.json": b"{}",
        "model.safetensors.index.json": b'{"weight_map": {"a": "../x"}}',
    },
}


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        from urllib.parse import unquote, urlsplit

        path = unquote(urlsplit(self.path).path).strip("/")
        if path.startswith("api/models/"):
            parts = path.split("/")
            name, rest = "/".join(parts[2:4]), parts[4:]
            if name == "owner/gated":
                self.answer(403, X_Error_Code="GatedRepo")
            elif name == "owner/failing":
                self.answer(500)
            elif name not in REPOSITORIES:
                self.answer(404, X_Error_Code="RepoNotFound")
            elif rest[1:] and rest[1] not in ("main", COMMIT):
                self.answer(404, X_Error_Code="RevisionNotFound")
            else:
                self.answer(200, json.dumps(self.info(name, rest)).encode())
            return
        name, _, file = path.partition("/resolve/")
        data = REPOSITORIES.get(name, {}).get(file.partition("/")[2])
        if data is None:
            self.answer(404, X_Error_Code="EntryNotFound")
            return
        if self.command == "GET":
            self.server.fetched.append(file.partition("/")[2])  # type: ignore[attr-defined]
        self.answer(200, data, X_Repo_Commit=COMMIT, ETag=f'"{hashlib.sha1(data).hexdigest()}"')

    do_HEAD = do_GET  # noqa: N815  the name that http.server looks for

    def info(self, name: str, rest: list[str]) -> object:
        files = REPOSITORIES[name]
        if rest[:1] == ["tree"]:
            return [
                {"type": "file", "path": p, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                for p, d in files.items()
            ]
        return {"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]}


@pytest.fixture(scope="module")
def hub() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.fetched = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


_CLIENT = """
import json, sys
from quantload.checkpoint import open_checkpoint, resolve_source
from quantload.errors import CheckpointError
answers = []
for number, (name, options, opening) in enumerate(json.loads(sys.argv[1])):
    cache = sys.argv[2] if sys.argv[3] == "together" else f"{sys.argv[2]}/{number}"
    try:
        found = resolve_source(name, cache_dir=cache, **options)
        paths = [path for path in found.rglob("*") if path.is_file()]
        answer = {"files": sorted(str(path.relative_to(found)) for path in paths)}
        if opening is not None:
            with open_checkpoint(found, **opening) as opened:
                answer["tensors"] = sorted(opened)
    except CheckpointError as error:
        answer = {"error": str(error), "cause": type(error.__cause__).__name__}
    answers.append(answer)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def ask(hub, tmp_path_factory):
    """Runs requests in a process that is online and knows this hub; one cache each."""

    def run(
        *requests: tuple[str, dict[str, object], dict[str, object] | None],
        cache: Path | None = None,
    ):
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HOME": str(tmp_path_factory.mktemp("home")),
        }
        hub.fetched.clear()
        place, how = cache or tmp_path_factory.mktemp("cache"), "together" if cache else "apart"
        done = subprocess.run(
            [sys.executable, "-c", _CLIENT, json.dumps(requests), place, how],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


BESIDE = [
    "additional_chat_templates/t.jinja",
    "chat_template.jinja",
    "config.json",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
]


def test_only_what_is_needed_is_fetched_and_only_once(ask, hub, tmp_path):
    requests = [("owner/full", {}, {}), ("owner/full", {}, {})]
    first, second = ask(*requests, cache=tmp_path)
    assert first == second == {"files": sorted([*BESIDE, "model.safetensors"]), "tensors": ["w"]}
    assert sorted(hub.fetched) == first["files"]
    (offline,) = ask(("owner/full", {"local_files_only": True}, {}), cache=tmp_path)
    assert offline == first
    assert hub.fetched == []


def test_the_options_choose_what_is_fetched(ask):
    more = {"weights": False, "code": True, "allow_patterns": ["*.npz"]}
    variant, only, code, sub, files = ask(
        ("owner/full", {"variant": "fp16"}, {"variant": "fp16"}),
        ("owner/full", {"weights": False}, None),
        ("owner/full", more, None),
        ("owner/full", {"subfolder": "sub", "revision": COMMIT}, {}),
        ("owner/full", {"files": ["model.fp16.safetensors"]}, {"variant": "fp16"}),
    )
    assert variant == {"files": sorted([*BESIDE, "model.fp16.safetensors"]), "tensors": ["v"]}
    assert only == {"files": BESIDE}
    assert code == {"files": sorted([*BESIDE, "modeling.py", "extra.npz"])}
    assert sub == {"files": ["config.json", "model.safetensors"], "tensors": ["v"]}
    assert files == variant


def test_of_a_sharded_model_the_shards_of_the_index_are_fetched(ask):
    (answer,) = ask(("owner/sharded", {}, {}))
    assert answer["tensors"] == ["v", "w"]
    assert answer["files"] == sorted(
        [
            "config.json",
            "model-1.safetensors",
            "model.safetensors.index.json",
            "part[2]-of-2.safetensors",
        ]
    )


def test_errors_say_what_is_the_matter_and_fetch_no_weights(ask, hub):
    answers = ask(
        ("owner/absent", {}, None),
        ("owner/gated", {}, None),
        ("owner/full", {"revision": "v9"}, None),
        ("owner/full", {"variant": "int3"}, None),
        ("owner/full", {"files": ["nothing.safetensors"]}, None),
        ("owner/pickled", {}, None),
        ("owner/broken", {}, None),
        ("owner/failing", {}, None),
    )
    said = [
        "no such repository",
        "gated",
        "no revision 'v9'",
        "model.int3.safetensors",
        "no file nothing",
        "torch.load(",
        "leave the folder|.safetensors files",
        "could not be fetched",
    ]
    for answer, expected in zip(answers, said, strict=True):
        assert any(part in answer["error"] for part in expected.split("|")), answer
        assert len(answer["error"]) < 600
    assert [answer["cause"] for answer in answers[:3]] == [
        "RepositoryNotFoundError",
        "GatedRepoError",
        "RevisionNotFoundError",
    ]
    assert set(hub.fetched) <= {"model.safetensors.index.json"}


def test_where_the_hub_does_not_answer_the_cache_does(ask, hub, tmp_path):
    (online,) = ask(("owner/full", {}, {}), cache=tmp_path)
    (tmp_path / "models--owner--full").rename(tmp_path / "models--owner--failing")
    (fallen,) = ask(("owner/failing", {}, {}), cache=tmp_path)
    assert fallen == online
