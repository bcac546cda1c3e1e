"""The Hugging Face hub in one process, as far as huggingface_hub speaks to it about repositories: create, list, upload (regular,
LFS in one part or several), commit, tags, and files with ranges. Everything is in memory; every request is counted.
"""

import base64
import hashlib
import json
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_writer"
PAGE = 1000
Tree = dict[str, tuple[str, str]]  # file -> ("lfs" or "regular", the key of its content)


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: dict[str, Tree] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, tree: Tree) -> str:
        sha = hashlib.sha1(f"{len(self.commits)}{json.dumps(tree, sort_keys=True)}".encode()).hexdigest()
        self.commits[sha] = tree
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        known = self.branches.get(revision) or self.tags.get(revision)
        return known or (revision if revision in self.commits else None)


class HubServer:
    """Runs from construction to :meth:`stop`. What is done with requests can be changed between them."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}  # "datasets/USER/NAME" or "models/USER/NAME"
        self.contents: dict[str, bytes] = {}  # by sha256 of large files, by git's sha1 of small ones
        self.parts: dict[str, dict[int, bytes]] = {}
        self.requests: list[tuple[str, str]] = []  # method, path
        self.uploaded: list[tuple[str, int]] = []  # sha256, bytes of each PUT
        self.downloaded: list[tuple[str, int]] = []  # file, bytes of each GET
        self.part_bytes = 1 << 40  # larger files are sent in parts of this size
        self.answer: int | None = None  # a status for every request
        self.pause = 0.0  # seconds before each file is sent or received
        self.falsify: set[str] = set()  # files that are sent with a wrong byte
        outer = self

        class Handler(_Handler):
            hub = outer

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        """Name -> content of what a revision holds."""
        there = self.repositories[repository]
        tree = there.commits[there.resolve(revision) or ""]
        return {name: self.contents[key] for name, (_, key) in sorted(tree.items())}

    def counted(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, f"{method} {path}")) for method, path in self.requests)


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_GET

    def _handle(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.hub.requests.append((self.command, self.path))
        if self.hub.answer:
            return self._send(self.hub.answer, {"error": "so it is"})
        for method, pattern, answer in _ROUTES:
            if method == self.command and (match := re.fullmatch(pattern, url.path)):
                return answer(self, *(group and unquote(group) for group in match.groups()))
        return self._send(404, {"error": f"the test's hub has no {self.command} {url.path}"})

    def _send(self, status: int, body: object = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _repository(self, name: str, *, writing: bool = False) -> Repository | None:
        """A repository that this token may use; else the answer has been given."""
        known, writer = self.hub.repositories.get(name), self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if known is None or (known.private and not writer):
            self._send(404 if writer else 401, {"error": "not found"}, X_Error_Code="RepoNotFound")
        elif known.gated and not writer:
            self._send(403, {"error": "gated"}, X_Error_Code="GatedRepo")
        elif writing and not writer:
            self._send(403, {"error": "read only token"})
        else:
            return known
        return None

    def _tree(self, name: str, revision: str) -> tuple[str, Tree] | None:
        if (known := self._repository(name)) is None:
            return None
        if (sha := known.resolve(revision)) is None:
            self._send(404, {"error": "no revision"}, X_Error_Code="RevisionNotFound")
            return None
        return sha, known.commits[sha]

    # What it answers

    def create(self) -> None:
        asked = json.loads(self.body)
        kind, owner = asked.get("type", "model"), asked.get("organization") or "user"
        name = f"{kind}s/{owner}/{asked['name']}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "log in"})
        if name in self.hub.repositories:
            return self._send(409, {"error": "exists", "url": f"{self.hub.url}/{name}"})
        made = self.hub.repositories[name] = Repository(private=bool(asked.get("private")))
        content = b"*.parquet filter=lfs\n"
        self.hub.contents[git_sha1(content)] = content
        made.commit("main", {".gitattributes": ("regular", git_sha1(content))})
        return self._send(200, {"url": f"{self.hub.url}/{name.removeprefix('models/')}", "name": asked["name"]})

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        if found := self._tree(f"{kind}/{name}", revision):
            known = self.hub.repositories[f"{kind}/{name}"]
            files = [{"rfilename": file} for file in found[1]]
            facts = {"_id": "0", "id": name, "sha": found[0], "private": known.private, "siblings": files, "tags": []}
            self._send(200, {**facts, "downloads": 0, "likes": 0})

    def tree(self, kind: str, name: str, revision: str, folder: str = "") -> None:
        found = self._tree(f"{kind}/{name}", revision)
        if found is None:
            return None
        prefix, recursive = f"{folder}/" if folder else "", self.query.get("recursive", [""])[0].lower() == "true"
        entries: dict[str, dict[str, object]] = {}
        for file, (mode, key) in sorted(found[1].items()):
            if not file.startswith(prefix):
                continue
            above = file.split("/")
            for depth in range(1, len(above)):
                path = "/".join(above[:depth])
                if path.startswith(prefix):
                    entries[path] = {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
            size = len(self.hub.contents[key])
            lfs = {"lfs": {"oid": key, "size": size, "pointerSize": 130}} if mode == "lfs" else {}
            oid = key if mode == "regular" else git_sha1(key.encode())
            entries[file] = {"type": "file", "path": file, "oid": oid, "size": size, **lfs}
        listed = [entry for path, entry in entries.items() if recursive or "/" not in path.removeprefix(prefix)]
        if not listed and folder:
            return self._send(404, {"error": "no entry"}, X_Error_Code="EntryNotFound")
        start = int(self.query.get("cursor", ["0"])[0])
        more = {}
        if start + PAGE < len(listed):
            query = f"recursive={str(recursive).lower()}&cursor={start + PAGE}"
            more = {"Link": f'<{self.hub.url}{urlsplit(self.path).path}?{query}>; rel="next"'}
        return self._send(200, listed[start : start + PAGE], **more)

    def refs(self, kind: str, name: str) -> None:
        if known := self._repository(f"{kind}/{name}"):
            self._send(
                200,
                {
                    "branches": [
                        {"name": n, "ref": f"refs/heads/{n}", "targetCommit": s} for n, s in known.branches.items()
                    ],
                    "tags": [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": s} for n, s in known.tags.items()],
                    "converts": [],
                },
            )

    def preupload(self, kind: str, name: str, revision: str) -> None:
        if (known := self._repository(f"{kind}/{name}", writing=True)) is None:
            return
        tree = known.commits[known.branches[revision]]
        self._send(
            200,
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "regular" if file["path"].endswith((".json", ".md")) else "lfs",
                        "shouldIgnore": False,
                        "oid": tree.get(file["path"], ("", None))[1],
                    }
                    for file in json.loads(self.body)["files"]
                ]
            },
        )

    def batch(self, name: str) -> None:
        name = name if name.startswith("datasets/") else f"models/{name}"
        if self._repository(name, writing=True) is None:
            return
        objects: list[dict[str, object]] = []
        for asked in json.loads(self.body)["objects"]:
            oid, size = asked["oid"], asked["size"]
            if oid in self.hub.contents:
                objects.append({"oid": oid, "size": size})
                continue
            upload: dict[str, object] = {"href": f"{self.hub.url}/lfs/{oid}"}
            if size > self.hub.part_bytes:
                count = -(-size // self.hub.part_bytes)
                parts = {str(n): f"{self.hub.url}/lfs/{oid}/{n}" for n in range(1, count + 1)}
                header = {"chunk_size": str(self.hub.part_bytes), **parts}
                upload = {"href": f"{self.hub.url}/lfs/{oid}/complete", "header": header}
            verify = {"href": f"{self.hub.url}/lfs/{oid}/verify"}
            objects.append({"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}})
        transfer = "multipart" if any("complete" in json.dumps(o) for o in objects) else "basic"
        self._send(200, {"transfer": transfer, "objects": objects})

    def put(self, oid: str, part: str | None = None) -> None:
        time.sleep(self.hub.pause)
        if part is None:
            if hashlib.sha256(self.body).hexdigest() != oid:
                return self._send(400, {"error": "another content"})
            self.hub.contents[oid] = self.body
        else:
            self.hub.parts.setdefault(oid, {})[int(part)] = self.body
        self.hub.uploaded.append((oid, len(self.body)))
        return self._send(200, ETag=f'"{hashlib.md5(self.body).hexdigest()}"')

    def complete(self, oid: str) -> None:
        parts = self.hub.parts.pop(oid)
        content = b"".join(parts[number["partNumber"]] for number in json.loads(self.body)["parts"])
        if hashlib.sha256(content).hexdigest() != oid:
            return self._send(400, {"error": "another content"})
        self.hub.contents[oid] = content
        return self._send(200, {})

    def verify(self, oid: str) -> None:
        self._send(200 if oid in self.hub.contents else 404, {})

    def commit(self, kind: str, name: str, revision: str) -> None:
        if (known := self._repository(f"{kind}/{name}", writing=True)) is None:
            return None
        tree, head = dict(known.commits[known.branches[revision]]), known.branches[revision]
        for line in self.body.splitlines():
            value = json.loads(line)["value"]
            match json.loads(line)["key"]:
                case "header":
                    if value.get("parentCommit", head) != head:
                        return self._send(412, {"error": "not the head"})
                case "file":
                    content = base64.b64decode(value["content"])
                    self.hub.contents[git_sha1(content)] = content
                    tree[value["path"]] = ("regular", git_sha1(content))
                case "lfsFile":
                    assert value["oid"] in self.hub.contents, value
                    tree[value["path"]] = ("lfs", value["oid"])
                case "deletedFile":
                    del tree[value["path"]]
        sha = known.commit(revision, tree)
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{name}/commit/{sha}"
        return self._send(200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def tag(self, kind: str, name: str, revision: str) -> None:
        if known := self._repository(f"{kind}/{name}", writing=True):
            tag = json.loads(self.body)["tag"]
            known.tags.setdefault(tag, known.resolve(revision) or "")
            self._send(200, {})

    def branch(self, kind: str, name: str, branch: str) -> None:
        if known := self._repository(f"{kind}/{name}", writing=True):
            known.branches.setdefault(branch, known.branches["main"])
            self._send(200, {})

    def validate(self) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def file(self, prefix: str | None, name: str, revision: str, file: str) -> None:
        found = self._tree(f"{prefix or 'models/'}{name}", revision)
        if found is None:
            return None
        if file not in found[1]:
            return self._send(404, {"error": "no entry"}, X_Error_Code="EntryNotFound")
        key = found[1][file][1]
        content, status, headers = self.hub.contents[key], 200, {"ETag": f'"{key}"', "X_Repo_Commit": found[0]}
        if file in self.hub.falsify:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, stop, size = int(wanted[1]), int(wanted[2] or len(content) - 1) + 1, len(content)
            content, status = content[start:stop], 206
            headers["Content_Range"] = f"bytes {start}-{start + len(content) - 1}/{size}"
        if self.command == "GET":
            time.sleep(self.hub.pause)
            self.hub.downloaded.append((file, len(content)))
        return self._send(status, content, **headers)


_REPOSITORY = r"/api/(datasets|models)/([^/]+/[^/]+)"
_ROUTES = [
    ("HEAD", "/", _Handler._send),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("GET", f"{_REPOSITORY}/refs", _Handler.refs),
    ("GET", f"{_REPOSITORY}/revision/([^/]+)", _Handler.info),
    ("GET", _REPOSITORY, _Handler.info),
    ("GET", f"{_REPOSITORY}/tree/([^/]+)", _Handler.tree),
    ("GET", f"{_REPOSITORY}/tree/([^/]+)/(.*)", _Handler.tree),
    ("POST", f"{_REPOSITORY}/preupload/([^/]+)", _Handler.preupload),
    ("POST", f"{_REPOSITORY}/commit/([^/]+)", _Handler.commit),
    ("POST", f"{_REPOSITORY}/tag/([^/]+)", _Handler.tag),
    ("POST", f"{_REPOSITORY}/branch/([^/]+)", _Handler.branch),
    ("POST", r"/(.+)\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/lfs/([0-9a-f]+)", _Handler.put),
    ("PUT", "/lfs/([0-9a-f]+)/([0-9]+)", _Handler.put),
    ("POST", "/lfs/([0-9a-f]+)/complete", _Handler.complete),
    ("POST", "/lfs/([0-9a-f]+)/verify", _Handler.verify),
    ("GET", r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", _Handler.file),
    ("HEAD", r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", _Handler.file),
]
