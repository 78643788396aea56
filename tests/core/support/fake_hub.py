"""A hub on this machine with one repository, which counts what is fetched from it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "a" * 40


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        path = self.path.partition("?")[0].strip("/")
        server = self.server
        if path.startswith(f"api/models/{server.repo_id}"):
            files = [p for p in sorted(server.folder.rglob("*")) if p.is_file()]
            names = [str(p.relative_to(server.folder)) for p in files]
            siblings = [
                {"rfilename": n, "size": p.stat().st_size}
                for n, p in zip(names, files, strict=True)
            ]
            if f"{server.repo_id}/tree/" in path:
                tree = [
                    {"type": "file", "path": s["rfilename"], "size": s["size"], "oid": COMMIT}
                    for s in siblings
                ]
                return self._send(200, json.dumps(tree).encode(), body)
            info = {"id": server.repo_id, "sha": COMMIT, "siblings": siblings, "private": False}
            return self._send(200, json.dumps(info).encode(), body)
        prefix = f"{server.repo_id}/resolve/"
        file = server.folder / path.removeprefix(prefix).partition("/")[2]
        if not path.startswith(prefix) or not file.is_file():
            return self._send(404, b"{}", body, {"X-Error-Code": "EntryNotFound"})
        data = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        span = self.headers.get("Range")
        if span and body:
            first, _, last = span.removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1 if last else None]
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
            server.fetched.append((file.name, len(part)))
            return self._send(206, part, body, headers)
        if body:
            server.fetched.append((file.name, len(data)))
        return self._send(200, data, body, headers)

    def _send(self, status, data, body, headers=()):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **dict(headers)}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def fake_hub(folder: Path, repo_id: str):
    """Serve a folder as a repository; yields the endpoint and the list of what was fetched."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.folder, server.repo_id, server.fetched = folder, repo_id, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.fetched
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
