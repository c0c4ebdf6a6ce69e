"""Where parts of a model lie. If these break, a part is half on the GPU after memory ran out, and
every later item fails; or saving memory changes pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.hooks import HookRegistry
from diffusers.hooks.group_offloading import ModuleGroup

from ace_tasks.lcu.canvas import LCU
from ace_tasks.model import weights
from ace_tasks.model.ace import AceModel, ModelJob
from ace_tasks.model.adapters import Mode
from ace_tasks.model.fit import MEMORY_MODES, RESIDENT, Fit
from ace_tasks.model.residence import Residence
from ace_tasks.model.variants import find_variant
from ace_tasks.replica.ladder import Ladder
from ace_tasks.settings import WeightsSettings
from tests.model.test_model import make_job

SETTINGS = {"blocks": 3, "single_blocks": 4}
DEEP = find_variant("toy-lora").model_copy(
    update={"recipe": find_variant("toy-lora").recipe.model_copy(update=SETTINGS)}  # type: ignore[union-attr]
)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AceModel]:
    """`toy-lora` with three blocks and four single ones."""
    folder = weights.ensure(DEEP, WeightsSettings(folder=tmp_path_factory.mktemp("deep")))

    def load_deep(fit: Fit = RESIDENT, adapter_mode: Mode = "resident") -> AceModel:
        parts = replace(weights.load(DEEP, folder, "cpu"), fit=fit)
        return AceModel(DEEP, parts, "cpu", DEEP.identity(), adapter_mode)

    return load_deep


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Each coming and going of a group of modules, which on a CPU moves nothing."""
    noted: list[tuple[str, Any]] = []

    def note(name: str) -> None:
        move = getattr(ModuleGroup, name)

        def noting(group: Any) -> None:
            noted.append((name, group))
            move(group)

        monkeypatch.setattr(ModuleGroup, name, noting)

    note("onload_")
    note("offload_")
    return noted


def blocks_of(model: AceModel) -> list[torch.nn.Module]:
    transformer: Any = model.parts.transformer
    return [*transformer.transformer_blocks, *transformer.single_transformer_blocks]


def nbytes(module: torch.nn.Module) -> int:
    return sum(value.nbytes for value in module.parameters())


def come_and_go(model: AceModel) -> list[bool]:
    """For each block, whether it comes to the device only to work."""
    return [
        HookRegistry.check_if_exists_or_initialize(each).get_hook("group_offloading") is not None
        for each in blocks_of(model)
    ]


@pytest.mark.parametrize("adapter_mode", ["resident", "fused"])
def test_a_mode_changes_no_bit(deep: Callable[..., AceModel], adapter_mode: Mode) -> None:
    model = deep(adapter_mode=adapter_mode)
    jobs = [
        make_job(model, seed, prompt=f"a cup {seed // 2}", seed=seed, adapter=adapter)
        for seed, adapter in enumerate(["subject", "portrait", None])
    ]
    plain = [model.generate([job])[0] for job in jobs]
    for mode in (*MEMORY_MODES, *reversed(MEMORY_MODES)):
        model.text._texts.clear()
        for job, picture in zip(jobs, plain, strict=True):
            assert np.array_equal(model.generate([job], memory=mode)[0], picture), mode


def test_only_as_many_blocks_come_and_go_as_do_not_fit(deep: Callable[..., AceModel]) -> None:
    model = deep()
    sizes = [nbytes(each) for each in blocks_of(model)]
    everything, largest = nbytes(model.parts.transformer), max(sizes)
    for missing in (0, 1, sizes[0], 3 * sizes[-1], everything):
        fit = Fit("blocks", everything - missing)
        residence = Residence((), model.parts.transformer, "cpu", fit)
        residence.settle("blocks")
        gone = sum(size for size, goes in zip(sizes, come_and_go(model), strict=True) if goes)
        # Of those that come and go two are there at once.
        least = min(sum(sizes), missing + 2 * largest) if missing else 0
        assert least <= gone < least + largest, missing
        residence.let_go()
        assert not any(come_and_go(model))


def test_blocks_come_before_they_work_and_go_after(
    deep: Callable[..., AceModel], moves: list[tuple[str, Any]]
) -> None:
    model = deep(Fit("blocks", None))
    moves.clear()
    order: list[tuple[str, Any]] = []
    for each in blocks_of(model):
        each.register_forward_pre_hook(lambda module, _: order.append(("works", module)))
    model.generate([make_job(model, steps=2)])
    blocks = set(blocks_of(model))
    seen = [(name, group.modules[0]) for name, group in moves if group.modules]
    of_blocks = [each for each in seen if each[1] in blocks]
    assert of_blocks == [
        (name, each)
        for _ in range(2)
        for each in blocks_of(model)
        for name in ("onload_", "offload_")
    ]
    assert [module for _, module in order] == 2 * blocks_of(model)


def test_the_rest_of_the_transformer_is_not_moved_at_each_step(
    deep: Callable[..., AceModel], moves: list[tuple[str, Any]]
) -> None:
    """diffusers alone would copy the embedders and the last layers to and fro: 130 MB of FLUX."""
    model = deep(Fit("blocks", None))
    moves.clear()
    model.parts.transformer.requires_grad_(False)
    model.adapters.select(None)
    model.generate([make_job(model, steps=1)], memory="blocks")
    blocks, text = set(blocks_of(model)), {*model.parts.t5.modules(), *model.parts.clip.modules()}
    others = [
        module
        for _, group in moves
        for module in group.modules
        if module not in blocks and module not in text and [*module.parameters()]
    ]
    assert others == []


def test_prompts_that_are_known_bring_no_text_encoder(
    deep: Callable[..., AceModel], moves: list[tuple[str, Any]]
) -> None:
    model = deep(Fit("text_offload", None))
    moves.clear()
    model.generate([make_job(model, prompt="a cup")])
    assert moves
    assert not any(come_and_go(model))
    moves.clear()
    model.generate([make_job(model, 1, prompt="a cup", seed=5)])
    assert moves == []


def test_after_a_failure_everything_is_put_in_place_anew(
    deep: Callable[..., AceModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory while a block comes: it may lie on the device, and its copy in the host's
    memory has another adapter by the next item.
    """
    model = deep(Fit("blocks", None))
    job = make_job(model, adapter="portrait")
    expected = deep().generate([job])[0]
    broken = blocks_of(model)[3]

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = broken.register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        model.generate([job])
    hook.remove()
    streamed: list[bool] = []
    stream = Residence._stream_blocks
    monkeypatch.setattr(
        Residence, "_stream_blocks", lambda *args: (streamed.append(True), stream(*args))
    )
    assert np.array_equal(model.generate([job])[0], expected)
    assert np.array_equal(model.generate([job])[0], expected)
    assert streamed == [True]


def test_what_is_on_the_device_again_has_no_hooks(deep: Callable[..., AceModel]) -> None:
    model = deep()
    model.generate([make_job(model, steps=1)], memory="offload")
    assert all(come_and_go(model))
    model.generate([make_job(model, steps=1)], memory="resident")
    assert not any(come_and_go(model))
    transformer = model.parts.transformer
    assert not any("forward" in vars(each) for each in transformer.modules())
    assert [name for name, _ in transformer.named_children()] == [
        name for name, _ in deep().parts.transformer.named_children()
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_each_mode_needs_less_and_changes_no_bit(weights_dir: Path) -> None:
    settings = WeightsSettings(folder=weights_dir)
    model = AceModel.load(find_variant("toy-lora"), settings, "cuda")
    job = make_job(model, prompt="a cup", adapter="subject")
    pictures, left = [], []
    for mode in MEMORY_MODES:
        pictures.append(model.generate([job], memory=mode)[0])
        left.append(torch.cuda.memory_allocated())
    assert left == sorted(left, reverse=True)
    assert left[0] > left[1] > left[-1]
    assert all(np.array_equal(each, pictures[0]) for each in pictures)


# ---------------------------------------------------------------- the ladder


def job(side: int) -> ModelJob:
    unit = LCU(torch.zeros(3, side, side), torch.zeros(1, side, side), None)
    return ModelJob(unit, "", seed=0, steps=1, guidance=1.0)


def test_a_ladder_goes_down_rung_by_rung() -> None:
    ladder, large = Ladder(8), job(64)
    seen = []
    while True:
        rung = ladder.rung(large)
        seen.append((rung.batch_size, rung.mode))
        if not ladder.descend(large, rung.batch_size):
            break
    assert seen == [
        (8, "resident"),
        (4, "resident"),
        (2, "resident"),
        (1, "resident"),
        (1, "text_offload"),
        (1, "blocks"),
        (1, "offload"),
    ]
    assert ladder.rung(job(32)).batch_size == 8  # another canvas
    assert Ladder(8, "blocks").rung(large).mode == "blocks"  # where a replica has started so
    assert "64×64 px, 16 tokens; tried: 8 together; 4 together" in ladder.story(large)
