"""The house stands as drawn: imports point one way, configuration is light, importing does nothing, only the command line prints."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("ssd_core", "autoscale", "deployments", "cluster")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))

MAY_NOT_IMPORT = {
    "ssd_core": {"ray", "fastapi", "starlette", "autoscale", "deployments", "cluster"},
    "autoscale": {"deployments", "cluster"},
    "deployments": {"cluster"},
    "cluster": set(),
}
"""`ssd_core <- autoscale <- deployments <- cluster`."""

MAY_PRINT = ("cluster/cli.py", "cluster/commands/", "ssd_core/training/")
CONFIG_MODULES = ("ssd_core.config", "autoscale.config", "deployments.config", "cluster.config")

MAIN_ONLY = ("ssd_core/training/",)
"""Scripts run once, by hand: nothing of the service imports them."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_roots(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Top-level package and line of every import, wherever in the file it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0], node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    wrong = [
        f"{path.name}:{line} imports {name}" for name, line in imported_roots(ast.parse(path.read_text())) if name in MAY_NOT_IMPORT[room]
    ]
    assert not wrong, wrong


def test_nothing_imports_the_training_scripts() -> None:
    for path in FILES:
        if not str(path.relative_to(ROOT)).startswith(MAIN_ONLY):
            assert "ssd_core.training" not in path.read_text(), path


@pytest.mark.parametrize("module", CONFIG_MODULES)
def test_config_modules_are_light(module: str) -> None:
    """Reading a configuration must not cost the seconds that torch and Ray take to import."""
    code = f"import sys, {module}; print([heavy for heavy in ('torch', 'ray', 'transformers') if heavy in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_the_command_line_prints() -> None:
    for path in FILES:
        if str(path.relative_to(ROOT)).startswith(MAY_PRINT):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            assert not is_print, f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', '?')} prints"


IMPORT_ALL = """
import importlib, multiprocessing, sys, threading
for name in sys.argv[1:]:
    importlib.import_module(name)
import ray
started = [t.name for t in threading.enumerate() if t.name.startswith(("ssd", "target", "draft"))]
assert not ray.is_initialized(), "importing started Ray"
assert not multiprocessing.active_children(), "importing started a process"
assert not started, started
"""


def test_importing_starts_nothing() -> None:
    names = [module_name(path) for path in FILES if not str(path.relative_to(ROOT)).startswith(MAIN_ONLY)]
    names = [name for name in names if not name.endswith("__main__")]
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_no_room_is_forgotten() -> None:
    """A new top-level package must be given its place in the arrows."""
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == set(ROOMS)
