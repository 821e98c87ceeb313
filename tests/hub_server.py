# Copyright 2026 The TokMat authors. Licensed under the Apache License, Version 2.0.
"""A server on localhost that speaks the Hub's endpoints, as far as pushing and loading need them. For tests only.

What it answers follows huggingface_hub's client: repositories with branches, pull requests and commits, preupload, LFS
batches and uploads, commits as lines of JSON, HEAD and GET of files with the Hub's headers, and errors by their codes.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".safetensors", ".png", ".gif", ".model")
TYPES = "models|datasets|spaces"


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Repository:
    def __init__(self, private: bool):
        self.private, self.commits, self.branches = private, {}, {}
        self.commit("main", {})

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(f"{branch} {len(self.commits)} {sorted(files)}".encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        return oid

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


class Hub:
    """
    The state behind the server.

    Args:
        tokens: whose they are. uploads: LFS contents by sha256. log: "METHOD path" of every request.
        dies_at: (pattern of "METHOD path", how often): the connection is closed in the middle of such a request.
    """

    def __init__(self):
        self.tokens = {"hf_" + "w" * 34: "me", "hf_" + "r" * 34: "reader"}
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.uploads: dict[str, bytes] = {}
        self.log: list[str] = []
        self.dies_at: dict[str, int] = {}
        self.lock = threading.Lock()

    def files(self, repo_id: str, kind: str = "models", revision: str = "main") -> dict[str, bytes]:
        repository = self.repositories[kind, repo_id]
        return repository.commits[repository.resolve(revision)]


class Problem(Exception):
    def __init__(self, status: int, code: str = "", message: str = ""):
        super().__init__(message)
        self.status, self.code, self.message = status, code, message or code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args):
        pass

    # -- requests and answers -----------------------------------------------------------------------------------------

    def handle_any(self):
        address = urlsplit(self.path)
        self.query, path = parse_qs(address.query), address.path
        with self.hub.lock:
            self.hub.log.append(f"{self.command} {path}")
            dying = next(
                (key for key, left in self.hub.dies_at.items() if left and re.search(key, self.hub.log[-1])), 0
            )
            if dying:
                self.hub.dies_at[dying] -= 1
        length = int(self.headers.get("Content-Length") or 0)
        if dying:
            self.rfile.read(length // 2)
            self.close_connection = True
            self.connection.close()
            return
        self.body = self.rfile.read(length)
        try:
            for method, pattern, answer in ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in method:
                    return answer(self, **{key: unquote(value or "") for key, value in found.groupdict().items()})
            raise Problem(404, "EntryNotFound", f"no such page: {path}")
        except Problem as problem:
            headers = {"X-Error-Code": problem.code, "X-Error-Message": problem.message}
            self.answer(json.dumps({"error": problem.message}).encode(), problem.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def answer(self, content: bytes = b"", status: int = 200, headers: dict | None = None, kind="application/json"):
        self.send_response(status)
        fields = {"Content-Type": kind, "Content-Length": str(len(content))} | (headers or {})
        for name, value in fields.items():
            if value != "":
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, value, **kwargs):
        self.answer(json.dumps(value).encode(), **kwargs)

    # -- who, and what ------------------------------------------------------------------------------------------------

    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise Problem(401, "", "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token)

    def repository(self, kind: str, repo_id: str, write: bool = False) -> Repository:
        found, user = self.hub.repositories.get((kind, repo_id)), self.user()
        owner = repo_id.split("/")[0]
        if found is None or (found.private and user != owner):
            raise Problem(404 if user else 401, "RepoNotFound", "Repository not found")
        if write and user is None:
            raise Problem(401, "", "Invalid username or password.")
        if write and user != owner and "create_pr" not in self.query:
            raise Problem(403, "", "You don't have the rights to write")
        return found

    def revision(self, repository: Repository, name: str) -> tuple[str, dict[str, bytes]]:
        oid = repository.resolve(name or "main")
        if oid is None:
            raise Problem(404, "RevisionNotFound", f"Invalid rev id: {name}")
        return oid, repository.commits[oid]

    # -- writing ------------------------------------------------------------------------------------------------------

    def create(self):
        asked, user = json.loads(self.body), self.user()
        if user is None:
            raise Problem(401, "", "Invalid username or password.")
        owner, kind = asked.get("organization") or user, f"{asked.get('type') or 'model'}s"
        if owner != user:
            raise Problem(403, "", f"You don't have the rights to create a model under the namespace {owner}")
        repo_id = f"{owner}/{asked['name']}"
        url = f"http://{self.headers['Host']}/{'' if kind == 'models' else kind + '/'}{repo_id}"
        if (kind, repo_id) in self.hub.repositories:
            return self.answer_json({"error": "You already created this repo", "url": url}, status=409)
        self.hub.repositories[kind, repo_id] = Repository(asked.get("visibility") == "private")
        self.answer_json({"url": url, "name": repo_id})

    def branch(self, kind, repo_id, name):
        repository = self.repository(kind, repo_id, write=True)
        if name in repository.branches:
            raise Problem(409, "", "Reference already exists")
        _, files = self.revision(repository, json.loads(self.body or b"{}").get("startingPoint", "main"))
        repository.commit(name, dict(files))
        self.answer_json({})

    def validate(self):
        card = json.loads(self.body)["content"]
        found = re.match(r"---\n(.*?)\n---", card, re.DOTALL)
        if found is None:
            return self.answer_json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata"}]})
        matter = yaml.safe_load(found[1])
        wrong = [key for key in ("tags", "datasets") if not isinstance(matter.get(key, []), list)]
        for entry in matter.get("model-index", []):
            for result in entry["results"]:
                wrong += [] if {"task", "dataset", "metrics"} <= result.keys() else ["model-index"]
                wrong += [] if result["dataset"].keys() >= {"name", "type"} else ["dataset"]
        errors = [{"message": f'"{key}" is wrong'} for key in wrong]
        self.answer_json({"errors": errors, "warnings": []}, status=400 if errors else 200)

    def preupload(self, kind, repo_id, revision):
        repository = self.repository(kind, repo_id, write=True)
        _, files = self.revision(repository, revision)
        found = []
        for file in json.loads(self.body)["files"]:
            lfs, old = file["path"].endswith(LFS_SUFFIXES), files.get(file["path"])
            oid = None if old is None else hashlib.sha256(old).hexdigest() if lfs else git_oid(old)
            mode = {"uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            found.append({"path": file["path"], **mode, **({"oid": oid} if oid else {})})
        self.answer_json({"files": found})

    def lfs_batch(self, repo_id, kind):
        if self.user() is None:
            raise Problem(401, "", "Invalid username or password.")
        objects = []
        for asked in json.loads(self.body)["objects"]:
            href = f"http://{self.headers['Host']}/lfs/{asked['oid']}"
            upload = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            objects.append(asked | ({} if asked["oid"] in self.hub.uploads else {"actions": upload}))
        self.answer_json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Problem(400, "", "the content has another sha256")
        self.hub.uploads[oid] = self.body
        self.answer()

    def lfs_verify(self, oid):
        if len(self.hub.uploads.get(oid, b"")) != json.loads(self.body)["size"]:
            raise Problem(404, "", "the object was not uploaded")
        self.answer_json({})

    def commit(self, kind, repo_id, revision):
        repository = self.repository(kind, repo_id, write=True)
        _, old = self.revision(repository, revision)
        files, lines = dict(old), [json.loads(line) for line in self.body.splitlines()]
        if lines[0]["key"] != "header" or not lines[0]["value"]["summary"]:
            raise Problem(400, "", "a commit begins with its header")
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.uploads:
                    raise Problem(400, "", f"the LFS object of {value['path']} was not uploaded")
                files[value["path"]] = self.hub.uploads[value["oid"]]
            else:
                del files[value["path"]]
        number = sum(name.startswith("refs/pr/") for name in repository.branches) + 1
        branch = f"refs/pr/{number}" if "create_pr" in self.query else revision
        oid, here = repository.commit(branch, files), f"http://{self.headers['Host']}/{repo_id}"
        pull = {"pullRequestUrl": f"{here}/discussions/{number}"} if "create_pr" in self.query else {}
        self.answer_json({"commitUrl": f"{here}/commit/{oid}", "commitOid": oid, **pull})

    # -- reading ------------------------------------------------------------------------------------------------------

    def info(self, kind, repo_id, revision=""):
        repository = self.repository(kind, repo_id)
        oid, files = self.revision(repository, revision)
        siblings = [{"rfilename": name} for name in sorted(files)]
        self.answer_json({"id": repo_id, "sha": oid, "private": repository.private, "siblings": siblings, "tags": []})

    def tree(self, kind, repo_id, revision, path=""):
        oid, files = self.revision(self.repository(kind, repo_id), revision)
        found = []
        for name, content in sorted(files.items()):
            rest = name.removeprefix(f"{path}/") if path else name
            if (
                path
                and rest == name
                or ("/" in rest and "true" not in map(str.lower, self.query.get("recursive", [])))
            ):
                continue
            entry = {"type": "file", "path": name, "size": len(content), "oid": git_oid(content)}
            if name.endswith(LFS_SUFFIXES):
                entry["lfs"] = {"size": len(content), "oid": hashlib.sha256(content).hexdigest(), "pointerSize": 130}
            found.append(entry)
        if path and not found:
            raise Problem(404, "EntryNotFound", f"{path} does not exist on {revision}")
        self.answer_json(found)

    def resolve(self, repo_id, revision, path, kind=""):
        oid, files = self.revision(self.repository((kind or "models").strip("/"), repo_id), revision)
        if path not in files:
            self.answer(status=404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": oid})
            return
        content, headers = files[path], {"X-Repo-Commit": oid}
        if not path.endswith(LFS_SUFFIXES):
            self.answer(content, headers=headers | {"ETag": f'"{git_oid(content)}"'}, kind="text/plain")
            return
        sha256 = hashlib.sha256(content).hexdigest()
        headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
        # Another host, as on the Hub: this answer says what the file is, and the client goes there without its token.
        elsewhere = f"http://localhost:{self.server.server_port}/cdn/{sha256}"
        self.answer(status=302, headers=headers | {"Location": elsewhere})

    def cdn(self, oid):
        if "Authorization" in self.headers:
            raise Problem(400, "", "a token was told to another host")
        content = self.hub.uploads[oid]
        self.answer(content, headers={"ETag": f'"{oid}"'}, kind="application/octet-stream")


_REPO = rf"/api/(?P<kind>{TYPES})/(?P<repo_id>[^/]+/[^/]+)"
_FILE = rf"/(?P<kind>(?:{TYPES})/)?(?P<repo_id>[^/]+/[^/]+)"
ROUTES = [
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("POST", rf"{_REPO}/branch/(?P<name>[^/]+)", Handler.branch),
    ("POST", rf"{_REPO}/preupload/(?P<revision>[^/]+)", Handler.preupload),
    ("POST", rf"{_REPO}/commit/(?P<revision>[^/]+)", Handler.commit),
    ("POST", rf"{_FILE}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]+)", Handler.lfs_put),
    ("POST", "/lfs/(?P<oid>[0-9a-f]+)/verify", Handler.lfs_verify),
    ("GET", rf"{_REPO}(?:/revision/(?P<revision>[^/]+))?", Handler.info),
    ("GET", rf"{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", Handler.tree),
    ("GET HEAD", rf"{_FILE}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
    ("GET HEAD", "/cdn/(?P<oid>[0-9a-f]+)", Handler.cdn),
]


@contextmanager
def running_hub():
    """(the state, its address) of a server that runs meanwhile."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
