"""A Hub on the loopback interface: what `huggingface_hub` and the libraries on it need of the Hub's HTTP API.

```python
with HubServer() as hub:
    token = hub.add_user("alice")
    hub.run_python(train_and_push, token=token)
    hub.files("alice/model")
```

Clients find it by `HF_ENDPOINT`, which they read when imported: run them in subprocesses ([`HubServer.run_python`]),
or give the endpoint by hand (`HfApi(endpoint=hub.url, token=token)`). `python tests/hub_server.py` serves one to try.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import inspect
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

import pytest
import yaml


LFS_PATTERNS = """
    *.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack *.npy *.npz
    *.onnx *.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors *.tar *.tflite *.tgz *.wasm *.xz
    *.zip *.zst
""".split()
GITATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS).encode()

LICENSES = set(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc
    cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0
    cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
    cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
    eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c
    ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa
    unlicense zlib pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3
    llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown other
    """.split()
)
PIPELINE_TAGS = set(
    """
    any-to-any audio-classification audio-text-to-text audio-to-audio automatic-speech-recognition
    depth-estimation document-question-answering feature-extraction fill-mask graph-ml image-classification
    image-feature-extraction image-segmentation image-text-to-text image-to-3d image-to-image image-to-text
    image-to-video keypoint-detection mask-generation multiple-choice object-detection other
    question-answering reinforcement-learning robotics sentence-similarity summarization
    table-question-answering table-to-text tabular-classification tabular-regression tabular-to-text
    text-classification text-generation text-ranking text-retrieval text-to-3d text-to-audio text-to-image
    text-to-speech text-to-video text2text-generation time-series-forecasting token-classification translation
    unconditional-image-generation video-classification video-text-to-text video-to-video
    visual-document-retrieval visual-question-answering voice-activity-detection zero-shot-classification
    zero-shot-image-classification zero-shot-object-detection
    """.split()
)
# Three letters may be any of the thousands of ISO 639-3.
TWO_LETTER_LANGUAGES = set(
    """
    aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz
    ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik
    io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml
    mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd
    se sg sh si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve
    vi vo wa wo xh yi yo za zh zu
    """.split()
)
FRONT_MATTER = re.compile(r"^\s*---[\r\n]+([\S\s]*?)[\r\n]+---(?:\r\n|\n|$)")

REVISION = r"(?P<revision>refs(?:/|%2F)(?:pr|convert)(?:/|%2F)[^/]+|[^/]+)"
API = r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+(?:/[^/]+)?)"
PAGES = r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+(?:/[^/]+)?)"
STORAGE = r"/lfs/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# What the Hub stores


@dataclass(frozen=True)
class User:
    """Who a token belongs to, and whether it may write."""

    name: str
    can_write: bool
    orgs: tuple[str, ...]

    def owns(self, namespace: str) -> bool:
        return namespace in (self.name, *self.orgs)


@dataclass(frozen=True)
class File:
    """A file of a commit, in git or (`lfs`) as a pointer to the large file storage."""

    data: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        version = "https://git-lfs.github.com/spec/v1"
        return f"version {version}\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @cached_property
    def git_oid(self) -> str:
        blob = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid


Tree = dict[str, File]


@dataclass(frozen=True, eq=False, repr=False)
class Commit:
    """All files at a moment, and how they came to be."""

    files: Tree
    title: str
    message: str
    author: str
    parent: Commit | None = None
    date: str = field(default_factory=now)

    @cached_property
    def id(self) -> str:
        parent = self.parent and self.parent.id
        files = {path: file.git_oid for path, file in self.files.items()}
        content = [files, self.title, self.message, self.author, parent, self.date]
        return hashlib.sha1(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def history(self) -> Iterator[Commit]:
        commit: Commit | None = self
        while commit is not None:
            yield commit
            commit = commit.parent

    def last_change(self, path: str) -> Commit:
        """The commit that made `path`, a file or a folder, what it is."""

        def content(commit: Commit) -> Tree:
            return {name: file for name, file in commit.files.items() if f"{name}/".startswith(f"{path}/")}

        newest, last = content(self), self
        for commit in self.history():
            if content(commit) != newest:
                break
            last = commit
        return last


@dataclass
class Discussion:
    """A discussion, or a pull request onto the branch `base`."""

    num: int
    title: str
    author: str
    status: str
    base: str | None
    fork: Commit | None
    events: list[dict[str, Any]] = field(default_factory=list)
    merge_commit: str | None = None
    date: str = field(default_factory=now)

    def add_event(self, author: str, type: str, **data: Any) -> dict[str, Any]:
        event = {"id": secrets.token_hex(12), "type": type, "createdAt": now(), "author": {"name": author}}
        self.events.append({**event, "data": data})
        return self.events[-1]

    def add_comment(self, author: str, text: str) -> dict[str, Any]:
        latest = {"raw": text, "html": text, "updatedAt": now(), "author": {"name": author}}
        return self.add_event(author, "comment", edited=False, hidden=False, latest=latest, history=[])


@dataclass
class Repo:
    """A repository, with the large files that were uploaded for it."""

    type: str
    id: str
    private: bool
    creator: str
    gated: bool | str = False
    date: str = field(default_factory=now)
    refs: dict[str, Commit] = field(default_factory=dict)
    discussions: list[Discussion] = field(default_factory=list)
    large_files: dict[str, File] = field(default_factory=dict)
    # Uploaded, but not yet verified. Parts are under (oid, part number).
    uploads: dict[str | tuple[str, int], bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        files = {".gitattributes": File(GITATTRIBUTES, lfs=False)}
        self.refs["refs/heads/main"] = Commit(files, "initial commit", "", self.creator)

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    @property
    def page(self) -> str:
        return f"/{self.id}" if self.type == "model" else f"/{self.type}s/{self.id}"

    def find_ref(self, revision: str) -> str | None:
        names = (f"refs/heads/{revision}", f"refs/tags/{revision}", revision)
        return next((name for name in names if name in self.refs), None)

    def commit_at(self, revision: str) -> Commit:
        """The commit of a branch, a tag, `refs/pr/N`, or a commit id of at least 7 characters."""
        ref = self.find_ref(revision)
        if ref is not None:
            return self.refs[ref]
        if re.fullmatch("[0-9a-f]{7,40}", revision):
            for head in self.refs.values():
                for commit in head.history():
                    if commit.id.startswith(revision):
                        return commit
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def discussion(self, num: str) -> Discussion:
        if not 0 < int(num) <= len(self.discussions):
            raise HubError(404, "Discussion not found")
        return self.discussions[int(num) - 1]

    def add_discussion(
        self, author: str, title: str, status: str, base: str | None, fork: Commit | None
    ) -> Discussion:
        discussion = Discussion(len(self.discussions) + 1, title, author, status, base, fork)
        self.discussions.append(discussion)
        if fork is not None:
            self.refs[f"refs/pr/{discussion.num}"] = fork
        return discussion

    def merge(self, discussion: Discussion) -> tuple[Tree, list[str]]:
        """The files of the base after a merge, and the paths that both sides have changed."""
        assert discussion.fork is not None
        fork, head = discussion.fork.files, self.refs[f"refs/heads/{discussion.base}"].files
        ours = self.refs[f"refs/pr/{discussion.num}"].files
        changed = [path for path in sorted({*fork, *ours}) if fork.get(path) != ours.get(path)]
        conflicts = [path for path in changed if head.get(path) not in (fork.get(path), ours.get(path))]
        kept = {path: file for path, file in head.items() if path not in changed}
        return {**kept, **{path: ours[path] for path in changed if path in ours}}, conflicts


# Requests and answers


@dataclass
class Answer:
    """An answer: `body` is sent as JSON unless it is text or bytes."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self) -> tuple[bytes, str]:
        if isinstance(self.body, bytes):
            return self.body, "application/octet-stream"
        if isinstance(self.body, str):
            return self.body.encode(), "text/plain; charset=utf-8"
        return json.dumps(self.body).encode(), "application/json; charset=utf-8"


class HubError(Exception):
    """An error as the Hub answers it: in the body, and in headers for `HEAD` requests."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if code is not None:
            headers["X-Error-Code"] = code
        headers["X-Error-Message"] = " ".join(message.encode("latin-1", "replace").decode("latin-1").split())
        self.answer = Answer({"error": message}, status, headers)


class ConnectionLost(Exception):
    """The connection is to be dropped without an answer."""


@dataclass(frozen=True)
class Request:
    """A request with the user it comes from."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    user: User | None = None

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query)

    def flag(self, name: str) -> bool:
        return self.query.get(name, ["false"])[0].lower() in ("1", "true")

    def json(self) -> Any:
        try:
            return json.loads(self.body or b"{}")
        except ValueError as error:
            raise HubError(400, f"Invalid JSON: {error}") from error

    def signed_in(self) -> User:
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        return self.user

    def writer(self, repo: Repo | None = None) -> User:
        """The user, who must have a token that may write, and to `repo` if given."""
        user = self.signed_in()
        if not user.can_write:
            raise HubError(403, "You must use a write token for this action")
        if repo is not None and not user.owns(repo.namespace):
            raise HubError(403, f"You don't have write access to {repo.id}")
        return user


class LoggedRequest(NamedTuple):
    """An answered request: `path` is unquoted and has the query, `status` is `None` if the connection was dropped."""

    method: str
    path: str
    status: int | None


@dataclass
class Fault:
    method: str
    path: re.Pattern[str]
    times: int
    answer: Answer | None


@dataclass
class CutOff:
    after_bytes: int
    times: int | None


Route = Callable[..., Answer]
ROUTES: list[tuple[str, re.Pattern[str], Route]] = []


def route(methods: str, pattern: str) -> Callable[[Route], Route]:
    """Serve `pattern` by the function, which is called with the server, the request and the groups of the pattern.

    With the group `name` it gets the `repo`, if the user may see it.
    """

    def register(function: Route) -> Route:
        ROUTES.extend((method, re.compile(pattern), function) for method in methods.split())
        return function

    return register


class HubServer:
    """A Hub at `url`, with a storage for large files at the other origin `cdn_url`, as on the Hub.

    Args:
        port (`int`, defaults to 0):
            Where it listens. 0 is any free port.
        page_size (`int`, defaults to 7):
            The number of entries of a page, of all listings in pages.
        lfs_size (`int`, defaults to 10 MB):
            Larger files go to the large file storage, whatever they are.
        multipart_size (`int`, *optional*):
            Large files above this size are uploaded in parts of this size.

    Attributes:
        requests (`list[LoggedRequest]`):
            All answered requests in order.
    """

    def __init__(
        self, port: int = 0, page_size: int = 7, lfs_size: int = 10_000_000, multipart_size: int | None = None
    ) -> None:
        self.page_size, self.lfs_size, self.multipart_size = page_size, lfs_size, multipart_size
        self.requests: list[LoggedRequest] = []
        self.users: dict[str, User] = {}
        self.repos: dict[tuple[str, str], Repo] = {}
        self._faults: list[Fault] = []
        self._cut_off: CutOff | None = None
        self._lock = threading.RLock()
        self._secret = secrets.token_bytes()
        self._folder = tempfile.TemporaryDirectory(prefix="hub-", ignore_cleanup_errors=True)
        self._servers = [_Server(("127.0.0.1", number), _Handler) for number in (port, 0)]
        self.url, self.cdn_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)
        for server in self._servers:
            server.hub = self
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def __enter__(self) -> HubServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._folder.cleanup()

    # For tests

    def add_user(self, name: str, token: str | None = None, can_write: bool = True, orgs: Iterable[str] = ()) -> str:
        """Add a token (`hf_<name>` by default) of a user, who may have several, and return it."""
        token = token or f"hf_{name}"
        self.users[token] = User(name, can_write, tuple(orgs))
        return token

    def repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        return self.repos[repo_type, repo_id]

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> dict[str, bytes]:
        """The contents of all files, but for the `.gitattributes` that each repository starts with."""
        files = self.repo(repo_id, repo_type).commit_at(revision).files
        return {path: file.data for path, file in sorted(files.items()) if path != ".gitattributes"}

    def fail(
        self,
        method: str,
        path: str,
        status: int,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> None:
        """Answer the next `times` requests whose unquoted path and query `path` is found in with an error.

        `body` is sent as JSON unless it is text or bytes.
        """
        answer = HubError(status, HTTPStatus(status).phrase).answer if body is None else Answer(body, status)
        answer.headers.update(headers or {})
        self._add_fault(method, path, times, answer)

    def lose_answer(self, method: str, path: str, times: int = 1) -> None:
        """Carry out the next `times` requests as in [`HubServer.fail`], but drop the connection then."""
        self._add_fault(method, path, times, None)

    def _add_fault(self, method: str, path: str, times: int, answer: Answer | None) -> None:
        with self._lock:
            self._faults.append(Fault(method, re.compile(path), times, answer))

    def cut_off(self, after_bytes: int, times: int | None = 1) -> None:
        """Drop the connection when `after_bytes` bytes of uploads (of large files and of commits) have come in.

        With more `times`, the next uploads are dropped at their first byte, all of them if `None`.
        """
        with self._lock:
            self._cut_off = CutOff(after_bytes, times)

    def clear_faults(self) -> None:
        with self._lock:
            self._faults.clear()
            self._cut_off = None

    def environment(
        self, token: str | None = None, home: str | os.PathLike[str] | None = None, **variables: str
    ) -> dict[str, str]:
        """The environment of a client of this Hub, with a cache in `home` (by default a new folder)."""
        unwanted = re.compile("(HF|HUGGING_?FACE|TRANSFORMERS|DATASETS|DIFFUSERS)_|.*_PROXY$", re.IGNORECASE)
        environment = {name: value for name, value in os.environ.items() if not unwanted.match(name)}
        tests = Path(__file__).parent
        search = [str(tests.parent), str(tests), *filter(None, [environment.get("PYTHONPATH")])]
        return {
            **environment,
            "PYTHONPATH": os.pathsep.join(search),
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home or tempfile.mkdtemp(dir=self._folder.name)),
            "HF_HUB_OFFLINE": "0",
            # Its protocol is not part of the Hub's API.
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            **({} if token is None else {"HF_TOKEN": token}),
            **variables,
        }

    def run(
        self,
        *command: str,
        token: str | None = None,
        home: str | os.PathLike[str] | None = None,
        timeout: float = 120,
        **variables: str,
    ) -> str:
        """Run a command in such an environment and return its output. Raises `RuntimeError` if it fails."""
        environment = self.environment(token, home, **variables)
        process = subprocess.run(
            command, env=environment, cwd=self._folder.name, timeout=timeout, capture_output=True, text=True
        )
        if process.returncode:
            raise RuntimeError(f"Exit status {process.returncode}\n{process.stdout}\n{process.stderr}")
        return process.stdout

    def run_python(self, code: str | Callable[..., object], *args: Any, **kwargs: Any) -> str:
        """As [`HubServer.run`], with Python code, or a function that is called with `args`.

        The function is run by its source: it imports all it needs, and `args` must be written by `repr`.
        """
        if callable(code):
            code = f"{textwrap.dedent(inspect.getsource(code))}\n{code.__name__}(*{args!r})"
        return self.run(sys.executable, "-c", code, **kwargs)

    # For the handler of the connections

    def handle(self, request: Request) -> Answer:
        with self._lock:
            fault = self._next_fault(request)
            if fault is not None and fault.answer is not None:
                return fault.answer
            try:
                answer = self._answer(request)
            except HubError as error:
                answer = error.answer
            if fault is not None:
                raise ConnectionLost
            return answer

    def log(self, request: Request, status: int | None) -> None:
        self.requests.append(LoggedRequest(request.method, unquote(request.target), status))

    def received(self, num_bytes: int) -> None:
        """Count bytes of an upload."""
        with self._lock:
            if self._cut_off is None:
                return
            self._cut_off.after_bytes -= num_bytes
            if self._cut_off.after_bytes > 0:
                return
            if self._cut_off.times is not None:
                self._cut_off.times -= 1
                if self._cut_off.times == 0:
                    self._cut_off = None
            raise ConnectionLost

    def _next_fault(self, request: Request) -> Fault | None:
        for fault in self._faults:
            if fault.times and fault.method == request.method and fault.path.search(unquote(request.target)):
                fault.times -= 1
                return fault
        return None

    def _answer(self, request: Request) -> Answer:
        for method, pattern, function in ROUTES:
            match = pattern.fullmatch(request.path)
            if match is None or method != request.method:
                continue
            groups = {name: value and unquote(value) for name, value in match.groupdict().items()}
            # The storage has signatures instead of tokens, and like others of its kind does not want both.
            if pattern.pattern.startswith(STORAGE):
                self._check_signature(request)
                repo = self.repos.get((groups.pop("kind")[:-1], groups.pop("name")))
                if repo is None:
                    raise HubError(404, "NoSuchBucket")
                return function(self, request, repo=repo, **groups)
            request = Request(request.method, request.target, request.headers, request.body, self._user(request))
            if "name" in groups:
                groups["repo"] = self._visible_repo(request, groups.pop("kind") or "models", groups.pop("name"))
            return function(self, request, **groups)
        raise HubError(404, "Sorry, we can't find the page you are looking for.")

    def _user(self, request: Request) -> User | None:
        authorization = request.headers.get("Authorization")
        if authorization is None:
            return None
        user = self.users.get(authorization.removeprefix("Bearer "))
        if user is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return user

    def _visible_repo(self, request: Request, kind: str, repo_id: str) -> Repo:
        repo = self.repos.get((kind[:-1], repo_id))
        if repo is None or (repo.private and not (request.user and request.user.owns(repo.namespace))):
            # Who is not signed in is not told what exists.
            if request.user is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repo

    def sign(self, method: str, path: str) -> str:
        """A URL of the storage that is good for one method."""
        return f"{self.cdn_url}{path}?{urlencode({'Signature': self._signature(method, path)})}"

    def _signature(self, method: str, path: str) -> str:
        return hmac.new(self._secret, f"{method} {path}".encode(), "sha256").hexdigest()

    def _check_signature(self, request: Request) -> None:
        if request.headers.get("Authorization") is not None:
            raise HubError(400, "Only one auth mechanism allowed")
        if request.query.get("Signature") != [self._signature(request.method.replace("HEAD", "GET"), request.path)]:
            raise HubError(403, "SignatureDoesNotMatch")

    def page(self, request: Request, items: list[Any]) -> Answer:
        """A page of a listing, with a link to the next one."""
        start = int(request.query.get("cursor", ["0"])[0])
        end = start + self.page_size
        headers = {}
        if end < len(items):
            query = urlencode({**request.query, "cursor": end}, doseq=True)
            headers["Link"] = f'<{self.url}{request.path}?{query}>; rel="next"'
        return Answer(items[start:end], headers=headers)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    hub: HubServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients may hang up at any time.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True
    wbufsize = -1

    def _serve(self) -> None:
        hub, request = self.server.hub, Request(self.command, self.path, self.headers, b"")
        try:
            request = Request(self.command, self.path, self.headers, self._read_body())
            answer = hub.handle(request)
        except ConnectionLost:
            hub.log(request, None)
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        # First, as a client that has the answer may look at the log.
        hub.log(request, answer.status)
        self._send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _read_body(self) -> bytes:
        upload = self.path.startswith("/lfs/") or "/commit/" in self.path
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self._read(int(self.headers.get("Content-Length", 0)), upload)
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self._read(size, upload)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _read(self, size: int, upload: bool) -> bytes:
        chunks = []
        while size:
            cut_off = self.server.hub._cut_off if upload else None
            limit = max(cut_off.after_bytes, 1) if cut_off else size
            chunk = self.rfile.read1(min(size, limit, 1 << 16))
            if not chunk:
                raise ConnectionLost
            if upload:
                self.server.hub.received(len(chunk))
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)

    def _send(self, answer: Answer) -> None:
        body, content_type = answer.encode()
        self.send_response(answer.status)
        for name, value in {
            "Content-Type": content_type,
            "Content-Length": str(len(body)),
            "X-Request-Id": f"Root=1-{uuid.uuid4()}",
            **answer.headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


# Users and repositories


@route("GET", "/api/whoami-v2")
def whoami(hub: HubServer, request: Request) -> Answer:
    user = request.signed_in()
    role = "write" if user.can_write else "read"
    token = {"displayName": role, "role": role, "createdAt": now()}
    orgs = [{"type": "org", "name": name, "fullname": name, "isEnterprise": False} for name in user.orgs]
    auth = {"type": "access_token", "accessToken": token}
    return Answer({"type": "user", "name": user.name, "fullname": user.name, "orgs": orgs, "auth": auth})


@route("POST", "/api/repos/create")
def create_repo(hub: HubServer, request: Request) -> Answer:
    fields, user = request.json(), request.writer()
    repo_type, namespace = fields.get("type") or "model", fields.get("organization") or user.name
    if not user.owns(namespace):
        raise HubError(403, f'You don\'t have the rights to create a {repo_type} under the namespace "{namespace}"')
    private = fields.get("visibility") == "private" or bool(fields.get("private"))
    repo = Repo(repo_type, f"{namespace}/{fields['name']}", private, user.name)
    answer = {"url": f"{hub.url}{repo.page}", "name": repo.id, "id": secrets.token_hex(12)}
    if (repo_type, repo.id) in hub.repos:
        message = f"You already created this {repo_type} repo"
        return Answer({**answer, "error": message}, 409, {"X-Error-Message": message})
    hub.repos[repo_type, repo.id] = repo
    return Answer(answer)


@route("DELETE", "/api/repos/delete")
def delete_repo(hub: HubServer, request: Request) -> Answer:
    fields = request.json()
    repo_id = f"{fields.get('organization') or request.signed_in().name}/{fields['name']}"
    repo = hub._visible_repo(request, f"{fields.get('type') or 'model'}s", repo_id)
    request.writer(repo)
    del hub.repos[repo.type, repo.id]
    return Answer("OK")


@route("PUT", f"{API}/settings")
def update_settings(hub: HubServer, request: Request, repo: Repo) -> Answer:
    request.writer(repo)
    fields = request.json()
    if "visibility" in fields:
        repo.private = fields["visibility"] == "private"
    repo.private = fields.get("private", repo.private)
    repo.gated = fields.get("gated", repo.gated)
    return Answer({"private": repo.private, "gated": repo.gated})


@route("GET", f"{API}/auth-check(?P<write>/write)?")
def check_access(hub: HubServer, request: Request, repo: Repo, write: str | None) -> Answer:
    if write:
        request.writer(repo)
    return Answer("OK")


@route("GET", API)
@route("GET", f"{API}/revision/{REVISION}")
def repo_info(hub: HubServer, request: Request, repo: Repo, revision: str = "main") -> Answer:
    commit = repo.commit_at(revision)
    card = read_card(commit)
    info: dict[str, Any] = {
        "_id": hashlib.sha1(f"{repo.type} {repo.id}".encode()).hexdigest()[:24],
        "id": repo.id,
        "author": repo.namespace,
        "sha": commit.id,
        "lastModified": commit.date,
        "createdAt": repo.date,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": list_tags(card),
        "cardData": card,
        "siblings": [sibling(path, file, request.flag("blobs")) for path, file in sorted(commit.files.items())],
        "usedStorage": sum(len(file.data) for file in {**repo.large_files, **commit.files}.values()),
    }
    if repo.type == "model":
        info["modelId"] = repo.id
        info |= {name: card[name] for name in ("pipeline_tag", "library_name", "model-index") if name in card}
    expand = request.query.get("expand") or request.query.get("expand[]")
    if expand:
        info = {name: value for name, value in info.items() if name in ("_id", "id", *expand)}
    return Answer(info)


def read_card(commit: Commit) -> dict[str, Any]:
    """The metadata of `README.md`, which is known to be valid."""
    readme = commit.files.get("README.md")
    match = readme and FRONT_MATTER.search(readme.data.decode(errors="replace"))
    # As JSON has it: dates are text.
    return json.loads(json.dumps(yaml.safe_load(match[1]) or {}, default=str)) if match else {}


def list_tags(card: dict[str, Any]) -> list[str]:
    tags = [card["library_name"]] if "library_name" in card else []
    tags += card.get("tags") or []
    for name in ("dataset", "license"):
        values = card.get(f"{name}s", card.get(name)) or []
        tags += [f"{name}:{value}" for value in ([values] if isinstance(values, str) else values)]
    return list(dict.fromkeys(tags))


def sibling(path: str, file: File, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    lfs = {"sha256": file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
    return {
        "rfilename": path,
        "blobId": file.git_oid,
        "size": len(file.data),
        **({"lfs": lfs} if file.lfs else {}),
    }


# Files


def tree_entries(commit: Commit, expand: bool) -> dict[str, dict[str, Any]]:
    """All files and folders of a commit by their paths."""
    entries: dict[str, dict[str, Any]] = {}
    for path, file in commit.files.items():
        entry = {"type": "file", "oid": file.git_oid, "size": len(file.data), "path": path}
        if file.lfs:
            entry["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
        entries[path] = entry
        for folder in {str(parent) for parent in Path(path).parents[:-1]} - entries.keys():
            inside = sorted((name, f.git_oid) for name, f in commit.files.items() if name.startswith(f"{folder}/"))
            oid = hashlib.sha1(repr(inside).encode()).hexdigest()
            entries[folder] = {"type": "directory", "oid": oid, "size": 0, "path": folder}
    if expand:
        for path, entry in entries.items():
            last = commit.last_change(path)
            entry["lastCommit"] = {"id": last.id, "title": last.title, "date": last.date}
    return dict(sorted(entries.items()))


@route("GET", f"{API}/tree/{REVISION}(?:/(?P<path>.*))?")
def list_tree(hub: HubServer, request: Request, repo: Repo, revision: str, path: str | None) -> Answer:
    commit = repo.commit_at(revision)
    entries = tree_entries(commit, request.flag("expand"))
    prefix = f"{path.strip('/')}/" if path else ""
    if prefix and entries.get(prefix[:-1], {}).get("type") != "directory":
        message = f'{path} does not exist on "{revision}"'
        raise HubError(404, message, "EntryNotFound", X_Repo_Commit=commit.id)
    inside = [entry for name, entry in entries.items() if name.startswith(prefix)]
    if not request.flag("recursive"):
        inside = [entry for entry in inside if "/" not in entry["path"][len(prefix) :]]
    return hub.page(request, inside)


@route("POST", f"{API}/paths-info/{REVISION}")
def paths_info(hub: HubServer, request: Request, repo: Repo, revision: str) -> Answer:
    if request.headers.get("Content-Type", "").startswith("application/json"):
        fields = request.json()
        paths, expand = fields["paths"], fields.get("expand", False)
    else:
        form = parse_qs(request.body.decode())
        paths, expand = form.get("paths", []), form.get("expand", ["false"])[0].lower() == "true"
    entries = tree_entries(repo.commit_at(revision), expand)
    return Answer([entries[path] for path in (path.strip("/") for path in paths) if path in entries])


@route("GET HEAD", f"{PAGES}/resolve/{REVISION}/(?P<path>.+)")
def resolve(hub: HubServer, request: Request, repo: Repo, revision: str, path: str) -> Answer:
    commit = repo.commit_at(revision)
    file = commit.files.get(path)
    if file is None:
        raise HubError(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.id)
    headers = {"X-Repo-Commit": commit.id, "ETag": f'"{file.etag}"'}
    if not file.lfs:
        return send_range(request, file.data, headers)
    headers["X-Linked-Etag"], headers["X-Linked-Size"] = f'"{file.sha256}"', str(len(file.data))
    headers["Location"] = hub.sign("GET", storage_path(repo, file.sha256))
    return Answer(f"Found. Redirecting to {headers['Location']}", 302, headers)


def send_range(request: Request, data: bytes, headers: dict[str, str]) -> Answer:
    """All of `data`, or what the request wants of it."""
    headers["Accept-Ranges"] = "bytes"
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", "").strip())
    if wanted is None or not any(wanted.groups()):
        return Answer(data, 200, headers)
    first, last = wanted.groups()
    start = int(first) if first else max(len(data) - int(last), 0)
    stop = min(int(last) + 1, len(data)) if first and last else len(data)
    if start >= stop:
        return Answer(b"", 416, {**headers, "Content-Range": f"bytes */{len(data)}"})
    return Answer(data[start:stop], 206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})


# Large files


def storage_path(repo: Repo, oid: str) -> str:
    return f"/lfs/{repo.type}s/{quote(repo.id)}/{oid}"


@route("POST", f"{PAGES}\\.git/info/lfs/objects/batch")
def lfs_batch(hub: HubServer, request: Request, repo: Repo) -> Answer:
    # Anyone may open pull requests.
    request.writer()
    objects = []
    for wanted in request.json()["objects"]:
        oid, size = wanted["oid"], wanted["size"]
        entry: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
        path = storage_path(repo, oid)
        if oid not in repo.large_files:
            upload: dict[str, Any] = {"href": hub.sign("PUT", path)}
            if hub.multipart_size is not None and size > hub.multipart_size:
                parts = range(1, -(-size // hub.multipart_size) + 1)
                urls = {str(part): hub.sign("PUT", f"{path}/parts/{part}") for part in parts}
                header = {"chunk_size": str(hub.multipart_size), **urls}
                upload = {"href": hub.sign("POST", f"{path}/complete"), "header": header}
            verify = {"href": f"{hub.url}{repo.page}.git/info/lfs/objects/verify"}
            entry["actions"] = {"upload": upload, "verify": verify}
        objects.append(entry)
    return Answer({"transfer": "basic" if hub.multipart_size is None else "multipart", "objects": objects})


@route("PUT", STORAGE)
def store(hub: HubServer, request: Request, repo: Repo, oid: str) -> Answer:
    repo.uploads[oid] = request.body
    return Answer(headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})


@route("PUT", f"{STORAGE}/parts/(?P<part>\\d+)")
def store_part(hub: HubServer, request: Request, repo: Repo, oid: str, part: str) -> Answer:
    repo.uploads[oid, int(part)] = request.body
    return Answer(headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})


@route("POST", f"{STORAGE}/complete")
def complete_parts(hub: HubServer, request: Request, repo: Repo, oid: str) -> Answer:
    parts = [(oid, part["partNumber"]) for part in request.json()["parts"]]
    tags = [part["etag"] for part in request.json()["parts"]]
    if tags != [f'"{hashlib.md5(repo.uploads.get(part, b"")).hexdigest()}"' for part in parts]:
        raise HubError(400, "InvalidPart")
    repo.uploads[oid] = b"".join(repo.uploads.pop(part) for part in parts)
    return Answer({"success": True})


@route("POST", f"{PAGES}\\.git/info/lfs/objects/verify")
def verify(hub: HubServer, request: Request, repo: Repo) -> Answer:
    request.writer()
    oid, size = request.json()["oid"], request.json()["size"]
    if oid not in repo.large_files:
        if oid not in repo.uploads:
            raise HubError(404, "Object does not exist")
        file = File(repo.uploads.pop(oid), lfs=True)
        if (file.sha256, len(file.data)) != (oid, size):
            raise HubError(400, f"Uploaded object does not have the oid {oid} and the size {size}")
        repo.large_files[oid] = file
    return Answer({"success": True})


@route("GET HEAD", STORAGE)
def fetch(hub: HubServer, request: Request, repo: Repo, oid: str) -> Answer:
    if oid not in repo.large_files:
        raise HubError(404, "NoSuchKey")
    return send_range(request, repo.large_files[oid].data, {"ETag": f'"{oid}"'})


# Commits


@route("POST", f"{API}/preupload/{REVISION}")
def preupload(hub: HubServer, request: Request, repo: Repo, revision: str) -> Answer:
    check_branch(request, repo, revision)
    commit = repo.commit_at(revision)
    files = []
    for file in request.json()["files"]:
        sample = base64.b64decode(file["sample"])
        large = is_large(hub, file["path"], file["size"]) or b"\0" in sample
        known = commit.files.get(file["path"])
        mode = "lfs" if large else "regular"
        oid = {"oid": known.etag} if known else {}
        files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **oid})
    return Answer({"files": files, "commitOid": commit.id})


def is_large(hub: HubServer, path: str, size: int) -> bool:
    return size > hub.lfs_size or any(fnmatch(path.rsplit("/", 1)[-1], pattern) for pattern in LFS_PATTERNS)


def check_branch(request: Request, repo: Repo, revision: str) -> User:
    """The user, who may commit to the branch, or is about to open a pull request onto it."""
    pull_request = re.fullmatch(r"refs/pr/(\d+)", revision)
    own = pull_request and request.user and repo.discussion(pull_request[1]).author == request.user.name
    user = request.writer(None if own or request.flag("create_pr") else repo)
    ref = repo.find_ref(revision)
    if ref is None or ref.startswith("refs/tags/"):
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return user


@route("POST", f"{API}/commit/{REVISION}")
def commit(hub: HubServer, request: Request, repo: Repo, revision: str) -> Answer:
    user = check_branch(request, repo, revision)
    try:
        lines = [json.loads(line) for line in request.body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
    except (ValueError, StopIteration) as error:
        raise HubError(400, "Invalid commit payload") from error
    head, parent = repo.commit_at(revision), header.get("parentCommit")
    if parent and request.flag("create_pr"):
        head = repo.commit_at(parent)
    elif parent and not head.id.startswith(parent):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")

    files = dict(head.files)
    for line in lines:
        change_tree(hub, repo, files, line["key"], line["value"])
    if "README.md" in files:
        errors, _ = validate_card(files["README.md"].data.decode(errors="replace"))
        if errors:
            raise HubError(400, "\n".join(errors))
    new = Commit(files, header["summary"], header.get("description", ""), user.name, head)
    # As with git, there are no empty commits.
    new = head if files == head.files else new

    answer = {"success": True, "commitOid": new.id, "hookOutput": ""}
    answer["commitUrl"] = f"{hub.url}{repo.page}/commit/{new.id}"
    discussion = None
    if request.flag("create_pr"):
        discussion = repo.add_discussion(user.name, header["summary"], "open", revision, head)
        discussion.add_comment(user.name, header.get("description", ""))
        answer["pullRequestUrl"] = f"{hub.url}{repo.page}/discussions/{discussion.num}"
        revision = f"refs/pr/{discussion.num}"
    elif revision.startswith("refs/pr/"):
        discussion = repo.discussion(revision.removeprefix("refs/pr/"))
    if discussion is not None:
        discussion.add_event(user.name, "commit", subject=new.title, oid=new.id)
    repo.refs[repo.find_ref(revision) or revision] = new
    return Answer(answer)


def change_tree(hub: HubServer, repo: Repo, files: Tree, key: str, value: dict[str, Any]) -> None:
    """Carry out an operation of a commit on `files`."""
    path = value.get("path", "")
    if key == "file":
        data = base64.b64decode(value["content"]) if value.get("encoding") == "base64" else value["content"].encode()
        if len(data) > hub.lfs_size:
            raise HubError(400, f"Files larger than {hub.lfs_size} bytes must use Git LFS: {path}")
        files[path] = File(data, lfs=False)
    elif key == "lfsFile":
        if value["oid"] not in repo.large_files:
            raise HubError(400, f"An LFS pointer pointed to a file that does not exist: {path}")
        files[path] = repo.large_files[value["oid"]]
    elif key == "deletedFile":
        if path not in files:
            raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        del files[path]
    elif key == "deletedFolder":
        inside = [name for name in files if name.startswith(f"{path.rstrip('/')}/")]
        if not inside:
            raise HubError(404, f"A folder with this name doesn't exist: {path}", "EntryNotFound")
        for name in inside:
            del files[name]
    elif key != "header":
        raise HubError(400, f"Invalid operation: {key}")


@route("GET", f"{API}/commits/{REVISION}")
def list_commits(hub: HubServer, request: Request, repo: Repo, revision: str) -> Answer:
    commits = [
        {
            "id": commit.id,
            "title": commit.title,
            "message": commit.message,
            "date": commit.date,
            "authors": [{"user": commit.author}],
        }
        for commit in repo.commit_at(revision).history()
    ]
    return hub.page(request, commits)


# Branches and tags


@route("GET", f"{API}/refs")
def list_refs(hub: HubServer, request: Request, repo: Repo) -> Answer:
    def refs(prefix: str, cut: str) -> list[dict[str, str]]:
        return [
            {"name": ref.removeprefix(cut), "ref": ref, "targetCommit": commit.id}
            for ref, commit in repo.refs.items()
            if ref.startswith(prefix)
        ]

    branches, tags = refs("refs/heads/", "refs/heads/"), refs("refs/tags/", "refs/tags/")
    return Answer({"branches": branches, "tags": tags, "converts": [], "pullRequests": refs("refs/pr/", "")})


@route("POST", f"{API}/branch/(?P<branch>.+)")
def create_branch(hub: HubServer, request: Request, repo: Repo, branch: str) -> Answer:
    request.writer(repo)
    if branch.startswith("refs/"):
        raise HubError(400, f"Invalid reference for a branch: {branch}")
    add_ref(repo, f"refs/heads/{branch}", request.json().get("startingPoint") or "main")
    return Answer("OK")


@route("POST", f"{API}/tag/{REVISION}")
def create_tag(hub: HubServer, request: Request, repo: Repo, revision: str) -> Answer:
    request.writer(repo)
    add_ref(repo, f"refs/tags/{request.json()['tag']}", revision)
    return Answer("OK")


def add_ref(repo: Repo, ref: str, revision: str) -> None:
    if ref in repo.refs:
        raise HubError(409, "Reference already exists")
    repo.refs[ref] = repo.commit_at(revision)


@route("DELETE", f"{API}/(?P<kind_of_ref>branch|tag)/(?P<ref>.+)")
def delete_ref(hub: HubServer, request: Request, repo: Repo, kind_of_ref: str, ref: str) -> Answer:
    request.writer(repo)
    name = f"refs/{'heads' if kind_of_ref == 'branch' else 'tags'}/{ref}"
    if name == "refs/heads/main":
        raise HubError(403, "The main branch cannot be deleted")
    if repo.refs.pop(name, None) is None:
        raise HubError(404, "Reference does not exist", "RevisionNotFound")
    return Answer("OK")


# Discussions and pull requests


def describe(repo: Repo, discussion: Discussion) -> dict[str, Any]:
    return {
        "num": discussion.num,
        "title": discussion.title,
        "author": {"name": discussion.author},
        "createdAt": discussion.date,
        "status": discussion.status,
        "isPullRequest": discussion.base is not None,
        "repo": {"name": repo.id, "type": repo.type},
    }


@route("GET", f"{API}/discussions")
def list_discussions(hub: HubServer, request: Request, repo: Repo) -> Answer:
    wanted = {name: request.query.get(name, ["all"])[0] for name in ("type", "status", "author")}
    discussions = [
        discussion
        for discussion in reversed(repo.discussions)
        if wanted["type"] in ("all", "discussion" if discussion.base is None else "pull_request")
        and wanted["status"] in ("all", "open" if discussion.status in ("draft", "open") else "closed")
        and wanted["author"] in ("all", discussion.author)
    ]
    start = int(request.query.get("p", ["0"])[0]) * hub.page_size
    page = [describe(repo, discussion) for discussion in discussions[start : start + hub.page_size]]
    return Answer({"discussions": page, "count": len(discussions), "start": start})


@route("POST", f"{API}/discussions")
def create_discussion(hub: HubServer, request: Request, repo: Repo) -> Answer:
    fields, user = request.json(), request.writer()
    base = "main" if fields.get("pullRequest") else None
    status, fork = ("draft", repo.commit_at(base)) if base else ("open", None)
    discussion = repo.add_discussion(user.name, fields["title"], status, base, fork)
    discussion.add_comment(user.name, fields.get("description", ""))
    return Answer({"num": discussion.num, "url": f"{hub.url}{repo.page}/discussions/{discussion.num}"})


@route("GET", f"{API}/discussions/(?P<num>\\d+)")
def discussion_details(hub: HubServer, request: Request, repo: Repo, num: str) -> Answer:
    discussion = repo.discussion(num)
    details = {**describe(repo, discussion), "events": discussion.events}
    if discussion.base is not None:
        conflicts = repo.merge(discussion)[1] if discussion.status != "merged" else []
        details["filesWithConflicts"] = conflicts
        details["changes"] = {"base": f"refs/heads/{discussion.base}", "mergeCommitId": discussion.merge_commit}
    return Answer(details)


@route("POST", f"{API}/discussions/(?P<num>\\d+)/comment")
def comment(hub: HubServer, request: Request, repo: Repo, num: str) -> Answer:
    return Answer({"newMessage": repo.discussion(num).add_comment(request.writer().name, request.json()["comment"])})


@route("POST", f"{API}/discussions/(?P<num>\\d+)/status")
def change_status(hub: HubServer, request: Request, repo: Repo, num: str) -> Answer:
    discussion = repo.discussion(num)
    user = request.writer(None if request.user and request.user.name == discussion.author else repo)
    discussion.status = request.json()["status"]
    return Answer({"newStatus": discussion.add_event(user.name, "status-change", status=discussion.status)})


@route("POST", f"{API}/discussions/(?P<num>\\d+)/merge")
def merge_pull_request(hub: HubServer, request: Request, repo: Repo, num: str) -> Answer:
    user, discussion = request.writer(repo), repo.discussion(num)
    if discussion.base is None or discussion.status not in ("draft", "open"):
        raise HubError(400, "This is not an open pull request")
    files, conflicts = repo.merge(discussion)
    if conflicts:
        raise HubError(409, f"There are conflicts in {', '.join(conflicts)}")
    ref = f"refs/heads/{discussion.base}"
    repo.refs[ref] = Commit(files, f"{discussion.title} (#{num})", "", user.name, repo.refs[ref])
    discussion.status, discussion.merge_commit = "merged", repo.refs[ref].id
    discussion.add_event(user.name, "status-change", status="merged")
    return Answer({"success": True})


# Cards


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: HubServer, request: Request) -> Answer:
    errors, warnings = validate_card(request.json()["content"])
    status = 400 if errors else 200
    if request.headers.get("Accept") == "text/plain":
        return Answer("\n".join(errors) or "OK", status)
    named = {"errors": errors, "warnings": warnings}
    return Answer({name: [{"message": text} for text in texts] for name, texts in named.items()}, status)


def validate_card(content: str) -> tuple[list[str], list[str]]:
    """The errors and warnings that the Hub is known to have about the metadata of a `README.md`."""
    match = FRONT_MATTER.search(content)
    if match is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        card = yaml.safe_load(match[1]) or {}
    except yaml.YAMLError as error:
        return [f"Invalid YAML: {error}"], []
    if not isinstance(card, dict):
        return ["YAML metadata must be an object"], []

    check = _CardCheck()
    for name in ("library_name", "pipeline_tag", "license_name", "license_link", "pretty_name", "thumbnail"):
        check.string(card.get(name, ""), name)
    for name, value in check.strings(card, "license"):
        if value not in LICENSES:
            check.errors.append(f'"{name}" must be one of [{", ".join(sorted(LICENSES))}]')
    for name, value in check.strings(card, "language"):
        check.language(value, name)
    for name in ("tags", "metrics", "task_categories", "task_ids", "size_categories"):
        if isinstance(card.get(name, []), str):
            check.errors.append(f'"{name}" must be an array')
        else:
            list(check.strings(card, name))
    for name, key in (("dataset", "datasets"), ("model", "base_model")):
        for path, value in check.strings(card, key):
            if not re.fullmatch(r"([\w.-]+/)?[\w.-]+", value):
                hint = f"use a {name} id from https://hf.co/{name}s."
                check.errors.append(f'"{path}" with value "{value}" is not valid. If possible, {hint}')
    check.model_index(card.get("model-index", []))
    for path, config in check.objects(card.get("configs", []), "configs"):
        check.required(config, path, "config_name")
    tags = [card.get("pipeline_tag"), *(card.get("task_categories") or [])]
    unknown = [tag for tag in tags if isinstance(tag, str) and tag not in PIPELINE_TAGS]
    return check.errors, [f'The pipeline tag "{tag}" is not in the official list' for tag in unknown]


class _CardCheck:
    """Checks of parts of a card, each at its path."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def string(self, value: Any, path: str) -> bool:
        if not isinstance(value, str):
            self.errors.append(f'"{path}" must be a string')
        return isinstance(value, str)

    def strings(self, card: dict[str, Any], name: str) -> Iterator[tuple[str, str]]:
        """The paths and values of a string or an array of them."""
        value = card.get(name, [])
        if isinstance(value, list):
            items = [(f"{name}[{index}]", item) for index, item in enumerate(value)]
        else:
            items = [(name, value)]
        return ((path, item) for path, item in items if self.string(item, path))

    def objects(self, value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if not isinstance(value, list):
            self.errors.append(f'"{path}" must be an array')
            return
        for index, item in enumerate(value):
            if isinstance(item, dict):
                yield f"{path}[{index}]", item
            else:
                self.errors.append(f'"{path}[{index}]" must be of type object')

    def required(self, value: dict[str, Any], path: str, *names: str) -> None:
        for name in names:
            if name not in value:
                self.errors.append(f'"{path}.{name}" is required')

    def language(self, value: str, path: str) -> None:
        if value != value.lower():
            self.errors.append(f'"{path}" must only contain lowercase characters')
        elif value not in TWO_LETTER_LANGUAGES | {"code", "multilingual"} and not re.fullmatch("[a-z]{3}", value):
            self.errors.append(
                f'"{path}" with value "{value}" is not valid. It must be an ISO 639-1, 639-2 or 639-3 code '
                '(two/three letters), or a special value like "code", "multilingual".'
            )

    def model_index(self, value: Any) -> None:
        for path, model in self.objects(value, "model-index"):
            self.required(model, path, "name", "results")
            for at, result in self.objects(model.get("results", []), f"{path}.results"):
                self.required(result, at, "task", "metrics")
                for name, fields in (("task", ["type"]), ("dataset", ["type", "name"]), ("source", ["url"])):
                    part = result.get(name)
                    if isinstance(part, dict):
                        self.required(part, f"{at}.{name}", *fields)
                        for key in {*fields} & {*part}:
                            self.string(part[key], f"{at}.{name}.{key}")
                    elif part is not None:
                        self.errors.append(f'"{at}.{name}" must be of type object')
                for metric_at, metric in self.objects(result.get("metrics", []), f"{at}.metrics"):
                    self.required(metric, metric_at, "type", "value")


@pytest.fixture(name="hub")
def hub_fixture() -> Iterator[HubServer]:
    """A Hub with the users `alice` and `bob`, whose tokens are `hf_alice`, `hf_bob` and, to read, `hf_alice_read`."""
    with HubServer() as hub:
        hub.add_user("alice")
        hub.add_user("alice", token="hf_alice_read", can_write=False)
        hub.add_user("bob")
        yield hub


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a Hub, with the token hf_alice of the user alice, to try.")
    parser.add_argument("--port", type=int, default=0)
    with HubServer(parser.parse_args().port) as hub:
        hub.add_user("alice")
        print(hub.url, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
