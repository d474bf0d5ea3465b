"""The image has what Ray's processes and the manifests take for granted."""

from __future__ import annotations

import os
import re
import tomllib
from fnmatch import fnmatch
from pathlib import PurePosixPath

from deployments.serve_environment import CLUSTER_ENVIRONMENT
from tests.k8s.manifests import K8S, KUSTOMIZATIONS, ROOT, build, pods
from tests.k8s.service_rules import OWN_IMAGE

DOCKERFILE = re.sub(r"\\\n", " ", (K8S / "Dockerfile").read_text())
"""A line for each instruction."""
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} +(.*)$", DOCKERFILE, re.MULTILINE)


def environment() -> dict[str, str]:
    words = " ".join(instructions("ENV")).split()
    return dict(tuple(word.split("=", 1)) for word in words)  # type: ignore[misc]


def test_its_environment_is_what_the_service_asks_of_whoever_starts_ray() -> None:
    found = environment()
    assert found.keys() == CLUSTER_ENVIRONMENT.keys()
    for name, asked in CLUSTER_ENVIRONMENT.items():
        if asked.startswith("/"):  # installed elsewhere here; the build compares the whole
            assert PurePosixPath(found[name]).parts[-2:] == PurePosixPath(asked).parts[-2:]
        else:
            assert found[name] == asked


def test_its_paths_are_those_of_its_python() -> None:
    (base,) = instructions("FROM")
    version = re.fullmatch(r"python:(3\.\d+)-slim-bookworm", base).group(1)  # type: ignore[union-attr]
    assert f"Python :: {version}" in " ".join(PYPROJECT["project"]["classifiers"])
    paths = [value for value in environment().values() if value.startswith("/")]
    assert len(paths) == 2 and all(path.startswith(f"/usr/local/lib/python{version}/site-packages/") for path in paths)


def test_it_has_what_kuberay_calls_and_is_installed_from_tested_versions() -> None:
    apt, pip = (next(line for line in instructions("RUN") if word in line) for word in ("apt-get install", "pip install"))
    assert {"bash", "wget"} <= set(apt.split())
    assert "-c constraints.txt" in pip
    assert "gpu" in PYPROJECT["project"]["optional-dependencies"]


def test_its_user_is_the_one_the_manifests_run_it_as() -> None:
    user, _, user_group = instructions("USER")[-1].partition(":")
    assert any(f"--uid {user} " in line for line in instructions("RUN"))
    run_as = {
        (pod.spec["securityContext"]["runAsUser"], pod.spec["securityContext"]["runAsGroup"])
        for kustomization in KUSTOMIZATIONS
        for pod in pods(build(kustomization))
        if pod.containers[0]["image"].startswith(OWN_IMAGE)
    }
    assert run_as == {(int(user), int(user_group))}


def test_the_build_sees_all_that_the_wheel_is_made_of() -> None:
    let_in = {line.removeprefix("!") for line in (K8S / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = {pattern.removesuffix("*") for pattern in PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    project = PYPROJECT["project"]
    assert let_in == {*packages, "pyproject.toml", "constraints.txt", project["readme"], *project["license-files"]}


def test_the_wheel_has_the_embedded_pair_and_a_wrapper_that_can_be_run() -> None:
    (patterns,) = PYPROJECT["tool"]["setuptools"]["package-data"].values()
    data = [path for path in (ROOT / "ssd_core/pretrained").rglob("*") if path.is_file()]
    wrapper = ROOT / "deployments/haproxy-no-splice.sh"
    assert len([path for path in data if path.suffix == ".safetensors"]) == 2
    for path in (*data, wrapper):
        assert any(fnmatch(path.name, pattern) for pattern in patterns), path
    assert os.access(wrapper, os.X_OK)
