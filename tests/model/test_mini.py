"""The model that ships with the project: whole, small, and able to edit.

If these break, `make demo` shows a newcomer noise.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ace_tasks.errors import WeightsError
from ace_tasks.evaluation.scoring import score
from ace_tasks.model import places, sources
from ace_tasks.model.ace import AceModel
from ace_tasks.model.variants import VARIANTS
from ace_tasks.settings import WeightsSettings
from ace_tasks.training.preview import preview
from ace_tasks.training.world.world_tasks import draw_example

MINI = VARIANTS["mini"]
EXAMPLES = 8


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> WeightsSettings:
    return WeightsSettings(folder=tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def model(settings: WeightsSettings) -> AceModel:
    return AceModel.load(MINI, settings, "cpu")


def test_it_is_whole_small_and_used_where_it_lies(settings: WeightsSettings) -> None:
    folder = MINI.shipped_folder
    assert folder is not None
    assert places.unlisted(places.Folder(folder).manifest(), places.hash_folder(folder)) is None
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 40e6
    assert sources.node_folder(MINI, settings) == folder
    found = sources.open_variant("mini", settings)
    assert found.home is None  # no path of this machine gets into a record
    assert not list(settings.folder.iterdir())


def test_a_mirror_for_other_variants_does_not_hide_it(settings: WeightsSettings) -> None:
    mirrored = settings.model_copy(update={"mirror": "s3://nowhere/at-all"})
    assert sources.identify(MINI, mirrored) == sources.identify(MINI, settings)


def test_no_variant_from_elsewhere_may_claim_that_it_ships(
    tmp_path: Path, settings: WeightsSettings
) -> None:
    (tmp_path / "variant.json").write_text(MINI.model_dump_json(exclude_defaults=True))
    with pytest.raises(
        WeightsError, match="shipped: not accepted, since the files are beside this one"
    ):
        sources.open_variant(str(tmp_path), settings)


@pytest.mark.parametrize(("task", "least"), [("recolour", 6), ("background", 6), ("remove", 6)])
def test_it_edits_what_it_has_not_seen(model: AceModel, task: str, least: int) -> None:
    """The model does far better on average (training/RESULTS.md); noise would get none right."""
    right = 0
    for number in range(EXAMPLES):
        example = draw_example(11, number, MINI.width_px, split="test", tasks=[task])
        right += score(example, preview(model, example, seed=number)).success
    assert right >= least
