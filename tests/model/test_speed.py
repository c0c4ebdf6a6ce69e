"""The compiled transformer. If these break, a catalog of many sizes or adapters compiles anew for
each and costs hours, a picture changes by more than rounding, or a machine that cannot compile
makes none at all."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    dispatch_attention_fn,
)
from torch._dynamo.utils import counters

from ace_tasks.model import keymap, speed, toy, weights
from ace_tasks.model.ace import AceModel, ModelJob
from ace_tasks.model.adapters import Mode
from ace_tasks.model.fit import RESIDENT, Fit, MemoryMode
from ace_tasks.model.variants import find_variant
from ace_tasks.settings import WeightsSettings
from tests.model.test_model import make_unit
from tests.support.processes import run_python

pytestmark = pytest.mark.thorough

LORA = find_variant("toy-lora")
RANKS = {"portrait": 8, "subject": 4, "local_editing": 4, "fourth": 2, "fifth": 16}
LEVELS = 2  # of 255: how far apart two roundings of one picture may be, in float32


@pytest.fixture(autouse=True)
def _compiled_for_this_test_alone() -> Iterator[None]:
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a compiler is asked is asked; what it answers runs as traced, so that no minute goes
    to C++. Recompiling is decided before that.
    """
    blocks = partial(speed.compile_blocks, backend="eager")
    monkeypatch.setattr("ace_tasks.model.ace.compile_blocks", blocks)


def load(weights_dir: Path, mode: Mode, speed: speed.Speed, fit: Fit = RESIDENT) -> AceModel:
    """`toy-lora` with five adapters."""
    folder = weights.ensure(LORA, WeightsSettings(folder=weights_dir))
    parts = weights.load(LORA, folder, "cpu")
    generator = torch.Generator().manual_seed(3)
    adapters = {
        name: keymap.lora_from_comfy(
            toy.random_lora(parts.transformer, rank, generator), parts.transformer.config
        )
        for name, rank in RANKS.items()
    }
    parts = replace(parts, adapters=adapters, fit=fit)
    return AceModel(LORA, parts, "cpu", LORA.identity(), mode, speed)


def edit(model: AceModel, adapter: str | None, memory: MemoryMode | None = None) -> np.ndarray:
    unit = make_unit(LORA)
    job = ModelJob(unit, "a red cup", seed=1, steps=2, guidance=50.0, adapter=adapter)
    return model.generate([job], memory=memory)[0]


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@torch.inference_mode()
def one_step(model: AceModel, adapter: str | None, width: int, height: int) -> None:
    """Only what is compiled: neither the encoders nor the VAE."""
    channels = model.parts.transformer.config.in_channels - 64
    model.adapters.select(adapter)
    x = torch.zeros(1, 16, height // 8, width // 8)
    condition = torch.zeros(1, width * height // 256, channels)
    model.velocity(x, condition, model.text.encode("a red cup"), 0.7, 50.0)


@pytest.mark.parametrize("mode", ["resident", "fused"])
@pytest.mark.usefixtures("traced")
def test_sizes_and_adapters_compile_nothing_anew_and_change_only_rounding(
    weights_dir: Path, mode: Mode
) -> None:
    """Fifty canvases, one with as many tokens as the text has, and five adapters among them."""
    exact, compiled = load(weights_dir, mode, "exact"), load(weights_dir, mode, "compiled")
    assert compiled.speed == "compiled"
    warm = graphs()
    assert warm
    sizes = [(16 * w, 16 * h) for w in range(2, 12) for h in range(2, 7)] + [(128, 128)]
    names = [None, *RANKS]
    for number, (width, height) in enumerate(sizes):
        one_step(compiled, names[number % len(names)], width, height)
    for name in ("fifth", None, "fourth", "portrait", "subject", "local_editing", None):
        one, other = edit(exact, name).astype(int), edit(compiled, name).astype(int)
        assert np.abs(one - other).max() <= LEVELS, name
    assert graphs() == warm
    assert not counters["graph_break"]
    assert np.abs(edit(exact, "fifth").astype(int) - edit(exact, None)).max() > 10 * LEVELS


@pytest.mark.usefixtures("traced")
def test_blocks_that_come_and_go_are_compiled_once(weights_dir: Path) -> None:
    whole = load(weights_dir, "fused", "exact")
    model = load(weights_dir, "fused", "compiled", Fit("blocks", None))
    warm = graphs()
    modes: tuple[MemoryMode, ...] = ("blocks", "resident", "offload")
    for mode, name in zip(modes, (None, "fifth", "portrait"), strict=True):
        one, other = edit(whole, name).astype(int), edit(model, name, mode).astype(int)
        assert np.abs(one - other).max() <= LEVELS, (mode, name)
    assert graphs() == warm
    assert not counters["graph_break"]


def test_a_second_replica_on_a_node_compiles_nothing_and_pictures_change_only_by_rounding(
    tmp_path: Path,
) -> None:
    """With the compiler that runs use, for C++ here."""
    first, second = (
        json.loads(run_python("-c", REPLICA, str(tmp_path / "weights")).stdout.splitlines()[-1])
        for _ in range(2)
    )
    assert first["speed"] == second["speed"] == "compiled"
    assert first["compiled"] == first["graphs"] == second["graphs"] == second["found"] > 0
    assert (second["compiled"], first["found"]) == (0, 0)
    assert second["pictures"] == first["pictures"]
    assert max(first["differences"]) <= LEVELS


REPLICA = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
from torch._dynamo.utils import counters
from ace_tasks.model.ace import AceModel
from ace_tasks.settings import WeightsSettings
from tests.model.test_speed import LORA, edit
settings = WeightsSettings(folder=Path(sys.argv[1]))
exact, compiled = (
    AceModel.load(LORA, settings, "cpu", adapter_mode="fused", speed=each)
    for each in ("exact", "compiled")
)
pairs = [(edit(exact, name), edit(compiled, name)) for name in (None, "portrait")]
print(json.dumps({
    "speed": compiled.speed,
    "graphs": counters["stats"]["unique_graphs"],
    "compiled": counters["inductor"]["fxgraph_cache_miss"],
    "found": counters["inductor"]["fxgraph_cache_hit"],
    "pictures": [hashlib.sha256(each.tobytes()).hexdigest() for _, each in pairs],
    "differences": [int(np.abs(one.astype(int) - other).max()) for one, other in pairs],
}))
"""


def test_without_a_compiler_pictures_are_exact_and_a_warning_says_why(
    weights_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    with caplog.at_level(logging.WARNING):
        model = load(weights_dir, "resident", "compiled")
    assert "not compiled, so pictures take longer: " in caplog.text
    assert model.speed == "exact"
    exact = load(weights_dir, "resident", "exact")
    for name in (None, "portrait", "fifth", None):
        assert np.array_equal(edit(model, name), edit(exact, name)), name


def test_attention_that_only_works_eagerly_is_passed_over(
    weights_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def eager_only(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    backend = AttentionBackendName.SAGE
    monkeypatch.setitem(_AttentionBackendRegistry._backends, backend, eager_only)
    monkeypatch.setitem(
        _AttentionBackendRegistry._supported_arg_names, backend, {"query", "key", "value"}
    )
    monkeypatch.setattr("diffusers.models.attention_dispatch._CAN_USE_SAGE_ATTN", True)
    transformer = load(weights_dir, "resident", "exact").parts.transformer
    transformer.set_attention_backend("sage")
    q = torch.zeros(1, 8, 2, transformer.config.attention_head_dim)
    dispatch_attention_fn(q, q, q, backend=backend)  # it works
    with caplog.at_level(logging.INFO):
        speed.use_first_attention(transformer, ("sage", "native"))
    assert speed.attention_of(transformer) == "native"
    assert "attention backend sage does not work here: " in caplog.text
