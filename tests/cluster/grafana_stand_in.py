"""A Grafana in memory that answers what a push asks, and nothing else: paths, methods, the token and every payload's shape are checked."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

TOKEN = "glsa_secret"
UID = r"^[A-Za-z0-9_-]{1,40}$"
DURATION = r"^\d+[smh]$"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NewFolder(Strict):
    uid: str = Field(pattern=UID)
    title: str = Field(min_length=1)


class Source(Strict):
    uid: str = Field(pattern=UID)
    name: str
    type: Literal["prometheus"]
    access: Literal["proxy", "direct"]
    url: str = Field(pattern=r"^https?://[^/]+")
    jsonData: dict[str, Any]


class SourceRef(Strict):
    type: Literal["prometheus"]
    uid: str


class Place(Strict):
    h: int = Field(ge=1)
    w: int = Field(ge=1, le=24)
    x: int = Field(ge=0, le=23)
    y: int = Field(ge=0)

    @property
    def cells(self) -> set[tuple[int, int]]:
        return {(x, y) for x in range(self.x, self.x + self.w) for y in range(self.y, self.y + self.h)}


class Query(Strict):
    refId: str
    datasource: SourceRef
    expr: str = Field(min_length=1)
    legendFormat: str


class Panel(Strict):
    id: int = Field(ge=1)
    type: Literal["timeseries", "stat"]
    title: str = Field(min_length=1)
    description: str
    gridPos: Place
    datasource: SourceRef
    targets: list[Query] = Field(min_length=1)
    fieldConfig: dict[str, Any]


class Board(Strict):
    uid: str = Field(pattern=UID)
    title: str = Field(min_length=1)
    tags: list[str]
    timezone: str
    schemaVersion: int = Field(ge=36)
    refresh: str = Field(pattern=DURATION)
    time: dict[str, str]
    panels: list[Panel] = Field(min_length=1)

    @model_validator(mode="after")
    def _panels_lie_apart(self) -> Board:
        cells: set[tuple[int, int]] = set()
        for panel in self.panels:
            assert not cells & panel.gridPos.cells and panel.gridPos.x + panel.gridPos.w <= 24, panel.title
            cells |= panel.gridPos.cells
            assert len({query.refId for query in panel.targets}) == len(panel.targets), panel.title
        assert len({panel.id for panel in self.panels}) == len(self.panels)
        return self


class SavedBoard(Strict):
    dashboard: Board
    folderUid: str
    overwrite: Literal[True]


class Times(Strict):
    from_: int = Field(alias="from", ge=1)
    to: int = Field(ge=0)


class Step(Strict):
    refId: str
    relativeTimeRange: Times
    datasourceUid: str
    model: dict[str, Any]

    @model_validator(mode="after")
    def _model_is_for_its_source(self) -> Step:
        needed = {"refId", "type", "expression", "conditions"} if self.datasourceUid == "__expr__" else {"refId", "expr", "instant"}
        assert needed <= set(self.model) and self.model["refId"] == self.refId
        return self


class Rule(Strict):
    uid: str = Field(pattern=UID)
    title: str = Field(min_length=1, max_length=190)
    condition: str
    data: list[Step] = Field(min_length=1)
    noDataState: Literal["OK", "NoData", "Alerting", "KeepLast"]
    execErrState: Literal["OK", "Error", "Alerting", "KeepLast"]
    for_: str = Field(alias="for", pattern=DURATION)
    labels: dict[str, str]
    annotations: dict[str, str]
    folderUID: str
    ruleGroup: str
    orgID: int

    @model_validator(mode="after")
    def _condition_is_a_step(self) -> Rule:
        assert self.condition in {step.refId for step in self.data}
        return self


class RuleGroup(Strict):
    title: str
    folderUid: str
    interval: int = Field(ge=10, multiple_of=10)
    rules: list[Rule]


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class StandIn:
    def __init__(self) -> None:
        self.folders: dict[str, Any] = {}
        self.sources: dict[str, Any] = {}
        self.boards: dict[str, Any] = {}
        self.groups: dict[tuple[str, str], Any] = {}
        self.url = ""

    @property
    def state(self) -> str:
        return json.dumps([self.folders, self.sources, self.boards, {"/".join(key): group for key, group in self.groups.items()}])

    def answer(self, method: str, path: str, headers: Any, body: Any) -> Any:
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refused(401, "Invalid API key")
        match method, path.removeprefix("/api").strip("/").split("/"):
            case "GET", ["folders", uid]:
                return _found(self.folders, uid)
            case "POST", ["folders"]:
                return _created(self.folders, NewFolder.model_validate(body).uid, body)
            case "GET", ["datasources", "uid", uid]:
                return _found(self.sources, uid)
            case "POST", ["datasources"]:
                return _created(self.sources, Source.model_validate(body).uid, body)
            case "PUT", ["datasources", "uid", uid]:
                _found(self.sources, uid)
                assert Source.model_validate(body).uid == uid
                self.sources[uid] = body
                return body
            case "POST", ["dashboards", "db"]:
                board = SavedBoard.model_validate(body)
                _found(self.folders, board.folderUid)
                for query in (query for panel in board.dashboard.panels for query in panel.targets):
                    _found(self.sources, query.datasource.uid)
                self.boards[board.dashboard.uid] = body
                return {"status": "success", "uid": board.dashboard.uid}
            case "PUT", ["v1", "provisioning", "folder", folder, "rule-groups", name]:
                group = RuleGroup.model_validate(body)
                assert headers.get("X-Disable-Provenance") == "true", "the rules could not be changed in Grafana"
                assert (group.folderUid, group.title) == (folder, name)
                _found(self.folders, folder)
                for rule in group.rules:
                    assert (rule.folderUID, rule.ruleGroup) == (folder, name)
                    for step in rule.data:
                        _found({**self.sources, "__expr__": {}}, step.datasourceUid)
                self.groups[folder, name] = body
                return body
        raise Refused(404, f"no route {method} {path}")


def _found(things: dict[str, Any], uid: str) -> Any:
    if uid not in things:
        raise Refused(404, f"{uid} not found")
    return things[uid]


def _created(things: dict[str, Any], uid: str, body: Any) -> Any:
    if uid in things:
        raise Refused(409, f"{uid} exists")
    things[uid] = body
    return body


@contextmanager
def stand_in() -> Iterator[StandIn]:
    grafana = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._serve()

        do_POST = do_PUT = do_GET

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            try:
                status, answer = 200, grafana.answer(self.command, self.path, self.headers, body)
            except Refused as error:
                status, answer = error.status, {"message": str(error)}
            except (ValidationError, AssertionError) as error:
                status, answer = 400, {"message": re.sub(r"\s+", " ", str(error))}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    grafana.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield grafana
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
