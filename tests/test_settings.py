"""Test settings and the environment. If these break, a typo in a variable goes unseen, or an unset
one in a compose file points the run somewhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from ace_tasks.errors import SettingsError
from ace_tasks.settings import (
    Environment,
    ImageLimits,
    PoolSettings,
    ReplicaSettings,
    StoreSettings,
    WeightsSettings,
    cpu_count,
    read_environment,
)

VARIABLES = {
    "RAY_ADDRESS" if name == "ray_address" else f"ACE_{name.upper()}": name
    for name in Environment.model_fields
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("one", ("one",), id="one"),
        pytest.param("one,two", ("one", "two"), id="two"),
        pytest.param(" one , two ,, ", ("one", "two"), id="spaces and empty names"),
        pytest.param(" , ", None, id="empty names only"),
        pytest.param("", None, id="empty"),
    ],
)
def test_allowed_buckets_are_separated_by_commas(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[str, ...] | None
) -> None:
    monkeypatch.setenv("ACE_ALLOWED_BUCKETS", text)
    assert read_environment().allowed_buckets == expected


def test_the_variables_are_those_the_docs_name(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "ACE_WEIGHTS_DIR": "/weights",
        "ACE_DEVICE": "cuda",
        "ACE_DEPTH_MODEL": "s3://models/depth",
        "ACE_CONTOUR_MODEL": "hf://owner/lines",
        "ACE_SEGMENTER": "/models/segmenter",
        "ACE_CLIP_MODEL": "/models/clip",
        "ACE_SOURCE_ENDPOINT_URL": "http://in",
        "ACE_SOURCE_PROFILE": "reader",
        "ACE_OUTPUT_ENDPOINT_URL": "http://out",
        "ACE_OUTPUT_PROFILE": "writer",
        "RAY_ADDRESS": "ray://head:10001",
    }
    for variable, value in values.items():
        monkeypatch.setenv(variable, value)
    environment = read_environment()
    assert environment.weights_dir == Path("/weights")
    assert (environment.device, environment.ray_address) == ("cuda", "ray://head:10001")
    assert environment.vision_places == {
        "depth": "s3://models/depth",
        "contour": "hf://owner/lines",
        "segmenter": "/models/segmenter",
        "clip": "/models/clip",
    }
    assert environment.source_store == StoreSettings(endpoint_url="http://in", profile="reader")
    assert environment.output_store == StoreSettings(endpoint_url="http://out", profile="writer")


def test_rays_address_has_no_second_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACE_RAY_ADDRESS", "ray://head:10001")
    assert read_environment().ray_address is None


def test_local_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a GPU that never comes is waited for, and Ray listens beyond the loopback."""
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert read_environment().ray_address is None


def test_an_empty_variable_counts_as_unset() -> None:
    """Compose files and Kubernetes pass unset variables as empty texts."""
    default = read_environment()
    for variable in VARIABLES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(variable, "")
            assert read_environment() == default, variable


def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACE_DEVICE", "tpu")
    with pytest.raises(SettingsError, match=r"ACE_DEVICE: .*'cpu' or 'cuda'"):
        read_environment()


def test_foreign_variables_are_none_of_our_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACE_SOMETHING_ELSE", "x")
    assert read_environment() is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_replicas", 0),
        ("max_replicas", 0),
        ("min_replicas", 2),
        ("items_in_flight", 0),
        ("item_timeout_s", 0),
        ("cancel_grace_s", -1),
        ("max_start_failures", 0),
        ("replcas", 1),
    ],
)
def test_a_pool_that_could_not_work_is_refused(name: str, value: int) -> None:
    with pytest.raises(ValidationError, match=name):
        PoolSettings(**{name: value})


FROZEN: list[BaseModel] = [
    StoreSettings(),
    ImageLimits(),
    PoolSettings(),
    ReplicaSettings(
        variant="toy", weights=WeightsSettings(folder=Path("/w")), output_uri="s3://b/out"
    ),
    Environment(),
]


@pytest.mark.parametrize("settings", FROZEN, ids=[type(each).__name__ for each in FROZEN])
def test_settings_are_frozen(settings: BaseModel) -> None:
    for name in type(settings).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(settings, name, getattr(settings, name))


def test_cores_are_those_we_may_use() -> None:
    assert cpu_count() >= 1


def test_a_public_address_is_one_of_the_web(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACE_PUBLIC_BASE_URL", "s3://shop")
    with pytest.raises(SettingsError, match=r"ACE_PUBLIC_BASE_URL: .*https://"):
        read_environment()
