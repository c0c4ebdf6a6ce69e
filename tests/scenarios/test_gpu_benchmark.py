"""The command for one GPU. If these break, the first minutes on a rented GPU go to a typo, or its
figures are of another amount of work than they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from infra.services import ROOT
from tests.benchmarks import scale
from tests.benchmarks.gpu import rungs
from tests.benchmarks.gpu.flops import step_flop
from tests.benchmarks.gpu.random_parts import GEOMETRIES
from tests.benchmarks.gpu.results import Measurement, RungResult, SizeResult, read_measured
from tests.support.processes import run_python

# A rented GPU's machine has neither: `None` in their place, and an import of them fails.
WITHOUT = "import sys; sys.modules.update(ray=None, prefect=None); "
# All that a compiler is asked is asked; what it answers runs as traced, so that no minutes go to C++.
TRACED = "from ace_tasks.model import speed; speed.compile_blocks.__defaults__ = ('eager',); "


@pytest.mark.parametrize(("image_tokens", "text_tokens"), [(16, 64), (40, 512), (1, 1)])
def test_a_step_is_counted_as_torch_counts_it(image_tokens: int, text_tokens: int) -> None:
    config = GEOMETRIES["tiny"].config
    with torch.device("meta"):
        model = FluxTransformer2DModel(**config)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(
                hidden_states=torch.empty(1, image_tokens, config["in_channels"]),
                encoder_hidden_states=torch.empty(1, text_tokens, config["joint_attention_dim"]),
                pooled_projections=torch.empty(1, config["pooled_projection_dim"]),
                timestep=torch.empty(1),
                img_ids=torch.empty(image_tokens, 3),
                txt_ids=torch.empty(text_tokens, 3),
                guidance=torch.empty(1),
            )
    assert step_flop(config, image_tokens, text_tokens) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("tokens", "tflop"), [(1024, 21.50461341696), (4096, 74.392706482176), (8192, 165.474467315712)]
)
def test_a_step_at_full_size_is_what_torch_counted_once(tokens: int, tflop: float) -> None:
    """By FlopCounterMode over the full geometry on the meta device, which takes 20 s."""
    assert step_flop(GEOMETRIES["full"].config, tokens, 512) / 1e12 == pytest.approx(tflop, 1e-9)


def measurement() -> Measurement:
    eager = RungResult(
        name="eager", what="eager", seconds=[7.0, 8.0], step_ms=260.0, tflops=286.0, peak_gb=36.04,
        levels_max=0, levels_mean=0.0, velocity_error=0.0,
    )  # fmt: skip
    size = SizeResult(what="512×512", tokens=1024, seconds=1.0, step_ms=31.0, tflops=694.0)
    return Measurement(
        gpu="NVIDIA H200", versions={"torch": "2.11.0"}, commit="abc", geometry="full",
        dtype="bfloat16", tokens=4096, text_tokens=512, steps=28, minutes=6,
        rungs=[
            eager,
            RungResult(
                name="compiled", what="compiled", seconds=[4.5], step_ms=150.0, tflops=496.0,
                levels_max=3, levels_mean=0.25, velocity_error=0.004, sizes=[size],
            ),
            RungResult(name="fp8", what="fp8 rows", lossy=True, skipped="needs torchao"),
            RungResult(
                name="fast", what="fast", lossy=True, seconds=[1.5], step_ms=50.0, tflops=585.0,
            ),
        ],
    )  # fmt: skip


def test_the_table_says_what_was_measured_and_why_not() -> None:
    table = measurement().table()
    assert "| eager | 7.50 | 260.0 | 286 | 1.00 | 36.0 | 0 (0.00) | 0.0e+00 |" in table
    assert "| compiled | 4.50 | 150.0 | 496 | 0.60 | – | 3 (0.25) | 4.0e-03 |" in table
    assert "| fp8 rows (lossy) | – | – | – | – | – | – | needs torchao |" in table
    assert "| compiled: 512×512 | 1024 | 1.00 | 31.0 | 694 |" in table
    assert "ACE_SECONDS_PER_MILLION_TOKEN_STEPS=39.2" in table  # 4.5 s, 4096 tokens, 28 steps
    assert "`--speed fast`: `ACE_SECONDS_PER_MILLION_TOKEN_STEPS=13.1`" in table  # 1.5 s


def test_what_is_written_is_read_again_and_the_best_lossless_rung_is_found(tmp_path: Path) -> None:
    found = measurement()
    assert read_measured(tmp_path) == []
    found.write(tmp_path)
    found.model_copy(update={"geometry": "tiny", "gpu": "other"}).write(tmp_path)
    (read,) = read_measured(tmp_path)
    assert read == found
    assert (tmp_path / "nvidia-h200.md").read_text() == found.table() + "\n"
    assert read.best_lossless is not None
    assert read.best_lossless.name == "compiled"


def test_the_scale_model_goes_by_the_measured_file(tmp_path: Path) -> None:
    assert scale.item_rate(read_measured(tmp_path)).origin == "not measured"
    measurement().write(tmp_path)
    rate = scale.item_rate(read_measured(tmp_path))
    assert (rate.value, rate.origin) == (4.5, "measured")
    assert rate.of == "an item on NVIDIA H200, compiled, at 4096 tokens and 28 steps"


def test_the_pages_tell_of_every_gpu_that_was_measured_and_of_no_other() -> None:
    measured = read_measured()
    results = (ROOT / "tests" / "benchmarks" / "RESULTS.md").read_text()
    assert all(each.table() in results for each in measured)
    assert ("Not measured on a GPU yet" in results) == (not measured)
    assert ("**there is none yet**" in (ROOT / "docs" / "operations" / "scale.md").read_text()) == (
        not measured
    )


def command(*arguments: str, out: Path) -> Measurement:
    """Run it in a clean interpreter, on a CPU, as on a machine without Ray and Prefect."""
    given = ["--geometry", "tiny", "--device", "cpu", "--out", str(out), *arguments]
    code = f"{WITHOUT}{TRACED}from tests.benchmarks.gpu.__main__ import main; main({given!r})"
    run_python("-c", code, env={"OMP_NUM_THREADS": "1"})
    (path,) = out.glob("*.json")
    return Measurement.model_validate_json(path.read_bytes())


@pytest.mark.thorough
def test_without_ray_and_without_time_each_rung_says_so(tmp_path: Path) -> None:
    found = command("--minutes", "0", out=tmp_path)
    assert [each.name for each in found.rungs] == [each.name for each in rungs.RUNGS]
    assert {each.skipped for each in found.rungs} == {"0 s were left, about 0 s are needed"}


@pytest.mark.thorough
def test_every_rung_that_a_cpu_has_is_rehearsed(tmp_path: Path) -> None:
    """Also that sizes beyond the first compile nothing anew: two kinds of block, a graph each, and
    one more for the first block of a kind.
    """
    measured = command("--minutes", "60", "--items", "1", out=tmp_path)
    found = {each.name: each for each in measured.rungs}
    skipped = {name for name, each in found.items() if each.skipped}
    assert skipped == {
        "compiled-cudnn", "fp8", "compiled-flash3", "compiled-flash3-hub",
    }, [each.skipped for each in found.values()]  # fmt: skip
    extrapolated = {"fast", "step-cache"}
    for name in found.keys() - skipped - extrapolated:
        assert found[name].levels_max <= 1, name  # type: ignore[operator]
        assert found[name].velocity_error < 1e-5, name  # type: ignore[operator]
    assert all(found[name].levels_max > 1 for name in extrapolated)  # type: ignore[operator]
    assert [each.tokens for each in found["compiled"].sizes] == [4, 32]
    assert {found[name].graphs for name in found if name.startswith("compiled")} <= {None, 2, 3}
    assert found["product"].attention == "native"
