"""The rows of docs/compatibility.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path(__file__).parent.parent.parent / "docs" / "compatibility.md"
ROUTES = ("/v1/completions", "/v1/chat/completions")
_ROW = re.compile(r"^\| `(\w+)` \| `(.+)` \| (served|no effect|400) \|")


class Row(NamedTuple):
    route: str
    field: str
    value: Any
    outcome: str

    def __str__(self) -> str:
        return f"{self.route} {self.field}={json.dumps(self.value)}"


def rows() -> Iterator[Row]:
    """Each once for every route that it is about."""
    routes = ROUTES
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            routes = tuple(route for route in ROUTES if f"`{route}`" in line) or ROUTES
        if found := _ROW.match(line):
            yield from (Row(route, found[1], json.loads(found[2]), found[3]) for route in routes)
