"""The optimisation loop. If these break, a training that was cut goes on as another one, or a crash
while saving loses both the new and the old checkpoint."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ace_tasks.training.loop import Loop, LoopSettings
from infra.services import ROOT

SETTINGS = LoopSettings(steps=40, lr=0.05, warmup_steps=5, ema_decay=0.9, log_every_steps=10)


def make(path: Path, settings: LoopSettings = SETTINGS) -> Loop:
    torch.manual_seed(0)
    return Loop(nn.Linear(4, 4), settings, path)


def losses(loop: Loop, seen: list[int]) -> object:
    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        seen.append(step)
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        value = (loop.model(x) - 0.5 * x).square().mean()
        return value, {"seen": float(step)}

    return loss


def run(loop: Loop, stop_at: int | None = None) -> list[dict[str, float]]:
    logged: list[dict[str, float]] = []
    loop.run(
        losses(loop, []),  # type: ignore[arg-type]
        lambda step, numbers: logged.append({"step": step, **numbers}),
        until=lambda: loop.step == stop_at,
    )
    return logged


def test_it_descends(tmp_path: Path) -> None:
    logged = run(make(tmp_path / "a.pt"))
    assert [each["step"] for each in logged] == [10, 20, 30, 40]
    assert logged[-1]["loss"] < 0.5 * logged[0]["loss"]


@pytest.mark.parametrize("stop_at", [1, 17, 39])
def test_a_cut_training_goes_on_as_if_it_had_not_been(tmp_path: Path, stop_at: int) -> None:
    whole = make(tmp_path / "whole.pt")
    logged = run(whole)
    run(make(tmp_path / "cut.pt"), stop_at)
    resumed = make(tmp_path / "cut.pt")
    assert resumed.resume()
    assert resumed.step == stop_at
    assert run(resumed) == [each for each in logged if each["step"] > stop_at]
    for one, other in ((whole.model, resumed.model), (whole.averaged, resumed.averaged)):
        pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_the_average_lies_between_and_is_kept_apart(tmp_path: Path) -> None:
    loop = make(tmp_path / "a.pt")
    run(loop)
    now, average = loop.model.weight, loop.averaged.module.weight
    assert not torch.equal(now, average)
    assert (now - average).abs().max() < 0.2


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    rates = [SETTINGS.lr_at(step) for step in range(SETTINGS.steps + 1)]
    assert rates[:5] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])
    assert all(a >= b for a, b in pairwise(rates[5:]))
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert rates[5 + 35 // 2] == pytest.approx(0.05 * 0.5 * (1 + math.cos(math.pi * 17 / 35)))


_SAVES_FOR_EVER = """
import sys
from pathlib import Path
from tests.training.test_training_loop import make
loop = make(Path(sys.argv[1]))
while True:
    loop.step += 1
    loop.save()
    print(loop.step, flush=True)
"""


def test_killed_while_saving_a_whole_checkpoint_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    command = [sys.executable, "-c", _SAVES_FOR_EVER, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(50):
            step = int(process.stdout.readline())
        process.kill()
    loop = make(path)
    assert loop.resume()
    assert loop.step >= step


def test_only_one_of_several_writes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    loop = Loop(nn.Linear(4, 4), SETTINGS, tmp_path / "a.pt", main=False)
    assert run(loop) == []
    assert not (tmp_path / "a.pt").exists()
