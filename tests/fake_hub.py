"""As much of the hub's HTTP interface as huggingface_hub needs, on 127.0.0.1, from folders."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class FakeHub:
    """Serves `repos` (id → folder) and keeps in `served` what each answered GET sent of a file.

    served: [(repo id, file, bytes)]. Safetensors are redirected to another path, as the hub sends
    large files to its storage. Ids in `without_ranges` get whole files however little was asked.
    """

    def __init__(self, repos: dict[str, Path], without_ranges: frozenset[str] = frozenset()):
        self.repos, self.without_ranges = repos, without_ranges
        self.served: list[tuple[str, str, int]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def files(self, repo: str) -> dict[str, int]:
        """Bytes sent of each file of a repository."""
        total: dict[str, int] = {}
        for name, path, size in self.served:
            if name == repo:
                total[path] = total.get(path, 0) + size
        return total


def commit_of(repo: str) -> str:
    return hashlib.sha1(repo.encode()).hexdigest()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing on stderr."""

        def do_HEAD(self) -> None:
            self._route()

        def do_GET(self) -> None:
            self._route()

        def _route(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path):
                self._api(*found.groups())
            elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._resolve(*found.groups())
            elif found := re.fullmatch(r"/storage/([^/]+/[^/]+)/(.+)", path):
                self._content(*found.groups())
            else:
                self._send(404, {})

        def _known(self, repo: str, revision: str | None) -> bool:
            if repo not in hub.repos:
                self._send(404, {"X-Error-Code": "RepoNotFound"})
            elif revision not in (None, "main", commit_of(repo)):
                self._send(404, {"X-Error-Code": "RevisionNotFound"})
            else:
                return True
            return False

        def _api(self, repo: str, kind: str | None, revision: str | None) -> None:
            if not self._known(repo, revision):
                return
            root = hub.repos[repo]
            paths = sorted(path for path in root.rglob("*") if path.is_file())
            if kind == "tree":
                body = [self._entry(root, path) for path in paths]
            else:
                names = [{"rfilename": str(path.relative_to(root))} for path in paths]
                body = {"id": repo, "sha": commit_of(repo), "siblings": names}
            self._send(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

        def _entry(self, root: Path, path: Path) -> dict:
            size, digest = path.stat().st_size, _digest(path)
            entry = {"type": "file", "path": str(path.relative_to(root)), "size": size}
            if path.suffix == ".safetensors":
                entry["lfs"] = {"oid": digest, "size": size, "pointerSize": 130}
            return {**entry, "oid": digest[:40]}

        def _resolve(self, repo: str, revision: str, name: str) -> None:
            if not self._known(repo, revision):
                return
            path = hub.repos[repo] / name
            if not path.is_file():
                self._send(404, {"X-Error-Code": "EntryNotFound"})
            elif path.suffix == ".safetensors":
                headers = {
                    "X-Repo-Commit": commit_of(repo),
                    "X-Linked-Etag": f'"{_digest(path)}"',
                    "X-Linked-Size": str(path.stat().st_size),
                    "Location": f"{hub.url}/storage/{repo}/{name}",
                }
                self._send(302, headers)
            else:
                self._content(repo, name)

        def _content(self, repo: str, name: str) -> None:
            path = hub.repos[repo] / name
            body, status = path.read_bytes(), 200
            headers = {"X-Repo-Commit": commit_of(repo), "ETag": f'"{_digest(path)[:40]}"'}
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked and repo not in hub.without_ranges:
                start, end = int(asked[1]), int(asked[2] or len(body) - 1) + 1
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
                body, status = body[start:end], 206
            if self.command == "GET":
                hub.served.append((repo, name, len(body)))
            self._send(status, headers, body)

        def _send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                try:
                    self.wfile.write(body)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # a client may leave once it has seen enough

    return Handler
