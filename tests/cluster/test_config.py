from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config import CONFIGS, RootConfig, load_config
from ssd_core.errors import ConfigError


def load(tmp_path: Path, text: str) -> RootConfig:
    (tmp_path / "ssd.yaml").write_text(text)
    return load_config(tmp_path / "ssd.yaml")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_examples_are_valid(path: Path) -> None:
    assert load_config(path).service.model_name == "ssd-embedded"


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    assert load(tmp_path, "") == RootConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("service: {target: {engine: {kv_budget_bytes: -1}}}", "service.target.engine.kv_budget_bytes = -1: Input should be greater than"),
        ("service: {targt: {}}", "service.targt: unknown key; did you mean target?"),
        ("xyz: 1", "xyz: unknown key; known here: service, http, ray"),
        ("http: {port: eight}", "http.port = 'eight': Input should be a valid integer"),
        ("service: {request_timeout_s: .nan}", "service.request_timeout_s = nan: "),
        ("service: {speculation: {preset: sssd}}", "service.speculation.preset = 'sssd': Input should be 'ar', 'sd'"),
        (
            "service: {target: {num_replicas: 9, autoscaling: {guard: {min_size: 1, max_size: 8}}}}",
            "target.num_replicas = 9: not from 1 to 8, as its autoscaling asks",
        ),
        ("service: {draft: {autoscaling: {guard: {min_size: 2}}}}", "draft.num_actors = 1: not from 2 to 8, as its autoscaling asks"),
        ("service: [1]", "service = [1]: Input should be a valid dictionary"),
        ("[1, 2]", "a mapping is expected at the top"),
        ("http: {port: 1, port: 2}", ":1:17: not YAML: the key 'port' is there twice"),
        ("http: {port: 1", "not YAML: "),
        ("http: !!python/object/apply:os.getcwd []", "not YAML: could not determine a constructor"),
    ],
)
def test_a_mistake_names_file_field_and_value(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "ssd.yaml"))
    assert message in str(caught.value)


def test_every_mistake_gets_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "http: {port: -1, hst: a}\nray: {num_cpus: 0}")
    assert len(str(caught.value).splitlines()) == 3


def test_secrets_are_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "service: {api_keys: [{a: hunter2}]}")
    assert "hunter2" not in str(caught.value)


def test_a_missing_file_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config("/nowhere/ssd.yaml")


def test_other_text_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "ssd.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "ssd.yaml")


def test_a_local_ray_has_cpus_for_all_there_may_be() -> None:
    config = {"service": {"target": {"num_cpus": 2}, "draft": {"autoscaling": {"guard": {"max_size": 3}}}}}
    assert RootConfig.model_validate(config).num_logical_cpus == 2 + 3 + 1
