"""A stand-in for the W&B server, on loopback: it answers the client's requests and keeps what the client sends.

The answers are those that wandb 0.31 needs for login, a run, its resumption, its files, artifacts and ``wandb sync``.
"""

import contextlib
import gzip
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass
class StoredRun:
    """What the server knows of a run.

    Attributes:
        given: what the client said when it opened the run: name, group, kind, tags.
        opened: how often the client opened the run.
        config: the last configuration, by key.
        history: the logged rows, in order.
        summary: the last summary.
        exit_code: how the run ended; None before its end.
        files: the content of each uploaded file, by name.
    """

    given: dict[str, Any] = field(default_factory=dict)
    opened: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class StoredArtifact:
    """An artifact: its type, the content of its files by name, and whether the client has completed it."""

    type: str
    files: dict[str, bytes] = field(default_factory=dict)
    manifest: bytes = b""
    committed: bool = False


class WandbServer:
    """Context in which the server listens.

    Attributes:
        runs: the runs, by id.
        artifacts: the artifacts, by name.
        views: the saved reports and workspaces, as the client sent them.
        unknown: the requests that the server had no answer to.
        delay: seconds before every answer.
        refusal: HTTP status of every answer; None: the server answers.
    """

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self.artifacts: dict[str, StoredArtifact] = {}
        self.views: list[dict[str, Any]] = []
        self.unknown: list[str] = []
        self.delay = 0.0
        self.refusal: int | None = None
        self.requests = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "WandbServer":
        self._listening = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self._listening.daemon_threads = True
        self.port = self._listening.server_port
        threading.Thread(target=self._listening.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.die()

    def die(self) -> None:
        """Stop listening; open connections get no further answer either."""
        self.refusal = 0
        self._listening.shutdown()
        self._listening.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that send a client here."""
        return {"WANDB_BASE_URL": f"http://127.0.0.1:{self.port}", "WANDB_API_KEY": "0" * 40}

    def url(self, path: str) -> str:
        """Return the address to which the client uploads a file."""
        return f"http://127.0.0.1:{self.port}/storage/{path}"

    def stream(self, run: str, body: dict[str, Any]) -> dict[str, Any]:
        """Take rows of history, summaries and the end of a run."""
        with self._lock:
            stored = self.runs[run]
            for name, part in body.get("files", {}).items():
                if name == "wandb-history.jsonl":
                    del stored.history[part["offset"] :]  # rows that are sent again replace the former
                    stored.history += [json.loads(row) for row in part["content"]]
                elif name == "wandb-summary.json":
                    stored.summary = json.loads(part["content"][-1])
            if body.get("complete"):
                stored.exit_code = body["exitcode"]
        return {"exitcode": None, "limits": {}}

    def upload(self, path: str, data: bytes) -> None:
        """Take a file of a run, a file of an artifact, or an artifact's manifest."""
        kind, owner, name = path.removeprefix("/storage/").split("/", 2)
        with self._lock:
            if kind == "run":
                self.runs[owner].files[name] = data
            elif name == "manifest":
                self.artifacts[owner].manifest = data
            else:
                self.artifacts[owner].files[name.removeprefix("files/")] = data

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any] | None:
        """Return the data that answer a GraphQL operation; None if the server does not know it."""
        known: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "Viewer": self._viewer,
            "OrganizationCoreWeaveOrganizationID": lambda _: {"entity": {"organization": None}},
            "ServerFeaturesQuery": lambda _: {"serverInfo": {"features": []}},
            "RunResumeStatus": self._resume_status,
            "UpsertBucket": self._open_run,
            "RunStoppedStatus": lambda _: {"project": {"run": {"stopped": False}}},
            "CreateRunFiles": self._run_files,
            "MarkRunFilesUploaded": lambda _: {"markRunFilesUploaded": {"success": True}},
            "ArtifactType": lambda _: {"project": {"artifact": None}},  # there is none with another type
            "CreateArtifact": self._create_artifact,
            "CreateArtifactManifest": self._manifest,
            "UpdateArtifactManifest": self._manifest,
            "CreateArtifactFiles": self._artifact_files,
            "CommitArtifact": self._commit,
            "GetDefaultEntity": self._viewer,
            "GetProjects": self._projects,
            "ProjectInternalId": lambda _: {"project": {"internalId": "project"}},
            "upsertView": self._save_view,
            "UpsertView2": self._save_view,
        }
        with self._lock:
            if operation not in known:
                self.unknown.append(operation)
                return None
            return known[operation](given)

    def _viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "user", "entity": "tester", "username": "tester", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer, "serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": None}}

    def _projects(self, given: dict[str, Any]) -> dict[str, Any]:
        """Every project that a run was sent to is there."""
        names = sorted({run.given["project"] for run in self.runs.values()})
        shared = {"entityName": given["entity"], "createdAt": "", "isBenchmark": False, "user": None}
        edges = [{"node": {"id": name, "name": name, **shared}} for name in names]
        return {"models": {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    def _open_run(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given.get("name") or given["id"].removeprefix("id-")
        new = name not in self.runs
        run = self.runs.setdefault(name, StoredRun())
        if given.get("displayName"):
            run.opened += 1
            run.exit_code = None
        run.given |= {key: value for key, value in given.items() if value is not None}
        if given.get("config"):
            run.config = {key: entry["value"] for key, entry in json.loads(given["config"]).items()}
        bucket = self._bucket(name) | {
            "description": None,
            "sweepName": None,
            "project": self._project(run.given["project"]),
        }
        return {"upsertBucket": {"inserted": new, "bucket": bucket}}

    def _bucket(self, name: str) -> dict[str, Any]:
        run = self.runs[name]
        config = json.dumps({key: {"value": value} for key, value in run.config.items()})
        return {
            "id": f"id-{name}",
            "name": name,
            "displayName": run.given.get("displayName"),
            "config": config,
            "historyLineCount": len(run.history),
        }

    @staticmethod
    def _project(name: str) -> dict[str, Any]:
        return {"id": "project", "name": name, "entity": {"id": "entity", "name": "tester"}}

    def _resume_status(self, given: dict[str, Any]) -> dict[str, Any]:
        name, bucket = given["name"], None
        if name in self.runs:
            run = self.runs[name]
            tail = json.dumps([json.dumps(run.history[-1])] if run.history else [])
            bucket = self._bucket(name) | {
                "eventsLineCount": 0,
                "logLineCount": 0,
                "historyTail": tail,
                "eventsTail": "[]",
                "summaryMetrics": json.dumps(run.summary),
                "tags": run.given.get("tags", []),
                "wandbConfig": '{"t": 1}',
            }
        return {"model": self._project(given["project"]) | {"bucket": bucket}}

    def _run_files(self, given: dict[str, Any]) -> dict[str, Any]:
        run = given["run"]
        files = [{"name": name, "uploadUrl": self.url(f"run/{run}/{name}")} for name in given["files"]]
        return {"createRunFiles": {"runID": f"id-{run}", "uploadHeaders": [], "files": files}}

    def _create_artifact(self, given: dict[str, Any]) -> dict[str, Any]:
        wanted = given["input"]
        name = wanted["artifactCollectionName"]
        self.artifacts[name] = StoredArtifact(wanted["artifactTypeName"])
        artifact = {
            "id": name,
            "state": "PENDING",
            "artifactSequence": {"id": f"sequence-{name}", "latestArtifact": None},
        }
        return {"createArtifact": {"artifact": artifact}}

    def _manifest(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given.get("artifactID") or given["artifactManifestID"].removeprefix("manifest-")
        file = {"id": "file", "uploadUrl": self.url(f"artifact/{name}/manifest"), "uploadHeaders": []}
        manifest = {"artifactManifest": {"id": f"manifest-{name}", "file": file}}
        return {"createArtifactManifest": manifest, "updateArtifactManifest": manifest}

    def _artifact_files(self, given: dict[str, Any]) -> dict[str, Any]:
        def node(wanted: dict[str, Any]) -> dict[str, Any]:
            artifact, name = wanted["artifactID"], wanted["name"]
            return {
                "id": name,
                "name": name,
                "displayName": name,
                "storagePath": f"{artifact}/{name}",
                "uploadUrl": self.url(f"artifact/{artifact}/files/{name}"),
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": artifact},
            }

        edges = [{"node": node(wanted)} for wanted in given["input"]["artifactFiles"]]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _commit(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["artifactID"]
        self.artifacts[name].committed = True
        return {"commitArtifact": {"artifact": {"id": name, "digest": "digest"}}}

    def _save_view(self, given: dict[str, Any]) -> dict[str, Any]:
        self.views.append(given)
        view = {"id": f"view-{len(self.views)}", "name": given["name"], "type": given["type"], "spec": given["spec"]}
        view |= {
            "displayName": given["displayName"],
            "description": given["description"],
            "project": self._project(given["projectName"]),
        }
        return {"upsertView": {"view": view, "inserted": True}}


def handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    """Return the class that answers the requests to ``server``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve(lambda _: {})

        def do_PUT(self) -> None:
            self._serve(lambda data: server.upload(self.path, data) or {})  # type: ignore[func-returns-value]

        def do_POST(self) -> None:
            if self.path == "/die":  # for a test whose client knows the moment
                server.die()
            self._serve(self._post)

        def _post(self, data: bytes) -> dict[str, Any]:
            if self.path.endswith("/file_stream"):
                return server.stream(self.path.split("/")[-2], json.loads(data))
            if self.path != "/graphql":  # the client's measurements of itself
                return {}
            body = json.loads(data)
            named = re.search(r"(?:query|mutation)\s+(\w+)", body["query"])
            found = server.answer(named[1] if named else "?", body.get("variables") or {})
            return {"data": found} if found is not None else {"data": None, "errors": [{"message": "unknown"}]}

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # the client was killed
                super().handle()

        def _serve(self, answer: Callable[[bytes], dict[str, Any]]) -> None:
            server.requests += 1
            data = self._body()
            time.sleep(server.delay)
            if server.refusal == 0:
                self.close_connection = True
                return
            content, status = b"{}", server.refusal
            if status is None:
                content, status = json.dumps(answer(data)).encode(), 200
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                data = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
