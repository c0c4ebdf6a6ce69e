"""The steps of a training, each of which skips what is done, on this machine or on S3.

Here and on S3 a training has its own place, named after its recipe's fingerprint, so that another
recipe never uses its files:

    <weights dir>/training/<name>-<fingerprint>/     this machine's work folder
    <output>/<name>/                                 the variant; sha256.json comes last
    <output>/<name>/training-<fingerprint>/          checkpoints, metrics, curves, samples

Torch is loaded by the steps that need it, so that the flow can be deployed without it.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from ace_tasks.catalog.files import open_catalog
from ace_tasks.engine.session import check_device, gpus_in_cluster, ray_session
from ace_tasks.errors import NotFound, SettingsError
from ace_tasks.model.places import hash_file
from ace_tasks.settings import Environment, cpu_count, read_environment
from ace_tasks.store import Store, is_s3, join_uri
from ace_tasks.store_check import check_output
from ace_tasks.wording import counted
from flows.options.models import TrainingInputs, TrainingWork
from flows.ui.forms import step
from flows.ui.watch import Metrics, StageView, show_sheet, upload_picture, watching

if TYPE_CHECKING:
    from ace_tasks.model.variants import Variant
    from ace_tasks.settings import WeightsSettings
    from ace_tasks.training.keeping import Stage, TrainingFiles
    from ace_tasks.training.recipe import Recipe
    from ace_tasks.training.start import Start

NOT_DONE = "NotDoneYet"
_SAMPLES_A_TASK = 2
_SAMPLE_SEED = 20
_FINGERPRINT_LETTERS = 12


@dataclass(eq=False)
class Training:
    """The state of one training: recipe, start, stores and time limit."""

    flow_name: str
    recipe: Recipe
    start: Start | None
    weights: WeightsSettings
    kept: TrainingFiles
    variant_uri: str
    environment: Environment
    outputs: Store
    workers: int
    threads: int
    photos: Path | None
    stop_after_s: float | None
    gpu: bool = False
    ends_at: float | None = None

    @property
    def work(self) -> Path:
        return self.kept.work

    @property
    def uri(self) -> str:
        assert self.kept.uri
        return self.kept.uri

    @property
    def rejects_uri(self) -> str:
        return join_uri(self.uri, "rejects.jsonl")

    @contextmanager
    def cluster(self) -> Iterator[None]:
        """Hold a Ray session while the body trains."""
        check_device(self.environment.device, self.environment.ray_address)
        cpus = max(cpu_count(), self.workers * self.threads)
        with ray_session(self.environment.ray_address, cpus=cpus):
            wanted = self.environment.device
            self.gpu = wanted == "cuda" or (wanted is None and gpus_in_cluster() > 0)
            yield

    def left_s(self) -> float | None:
        """Return the seconds left, or None without a limit. The first stage starts the clock."""
        if self.stop_after_s is None:
            return None
        if self.ends_at is None:
            self.ends_at = time.monotonic() + self.stop_after_s
        return self.ends_at - time.monotonic()

    def over(self) -> bool:
        left = self.left_s()
        return left is not None and left <= 0

    def steps(self, stage: Stage) -> int:
        return (self.recipe.vae.loop if stage == "vae" else self.recipe.loop).steps

    def fit(self, stage: Stage) -> bool:
        """Run one stage and show it in the UI. Return whether it is done."""
        from ace_tasks.training.distributed import FitSettings, fit
        from ace_tasks.training.keeping import read_metrics

        left_s = self.left_s()
        if self.over():
            return False
        alone = stage == "vae"  # one process, which takes the threads of all workers
        settings = FitSettings(
            recipe=self.recipe,
            stage=stage,
            work=self.work,
            uri=self.uri,
            store=self.environment.output_store,
            photos=self.photos,
            workers=1 if alone else self.workers,
            threads=self.workers * self.threads if alone else self.threads,
            gpu=self.gpu,
            stop_after_s=left_s,
        )

        def look() -> tuple[int, Metrics]:
            metrics = read_metrics(self.kept.metrics(stage))
            return int(metrics[-1]["step"]) if metrics else 0, metrics

        with watching(self.view(stage, "step", self.steps(stage)), look):
            return fit(settings)

    def view(self, stage: str, unit: str, total: int) -> StageView:
        # These pictures are for people: if the store is away, waiting is not worth it.
        store = Store(self.environment.output_store.model_copy(update={"patience_s": 0}))
        return StageView(self.flow_name, stage, unit, total, store, self.uri)


@contextmanager
def open_training(
    recipe: str, output: str, inputs: TrainingInputs, work: TrainingWork
) -> Iterator[Training]:
    """Check everything a training needs before any work. Raises FatalError."""
    try:
        from ace_tasks.training import distributed  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"training needs {error.name}: install ace-catalog with its extra `train`"
        ) from None
    from ace_tasks.training.keeping import TrainingFiles
    from ace_tasks.training.recipe import Recipe, check, open_start
    from ace_tasks.training.stages import LATENTS

    found = Recipe.read(recipe).given(inputs.start_from, inputs.catalog)
    check(found, work.workers)
    if not is_s3(output):
        raise SettingsError(f"output: accepted: s3://bucket/prefix; given {output!r}")
    if inputs.photos and not Path(inputs.photos).is_dir():
        raise SettingsError(f"photos: accepted: a folder on this machine; given {inputs.photos!r}")
    environment = read_environment()
    weights = environment.weights(accept_license=inputs.accept_license)
    outputs = Store(environment.output_store)
    check_output(outputs, output.rstrip("/"), unguarded=True)  # no two runs write one key
    start = open_start(found, weights)
    with ExitStack() as held:
        with _catalog_of(found, environment) as catalog_file:
            given = [start.base, start.encoders] if start else []
            given += [hash_file(catalog_file)] if catalog_file else []
            mark = found.fingerprint_from(*given)[:_FINGERPRINT_LETTERS]
            folder = environment.weights_dir.resolve() / "training" / f"{found.name}-{mark}"
            held.enter_context(_locked(folder))
            if catalog_file:
                _plan_rows(found, catalog_file, environment, folder / LATENTS)
        variant_uri = join_uri(output, found.name)
        yield Training(
            flow_name=flow_run.flow_name or "train",
            recipe=found,
            start=start,
            weights=weights,
            kept=TrainingFiles(
                folder, join_uri(variant_uri, f"training-{mark}"), environment.output_store
            ),
            variant_uri=variant_uri,
            environment=environment,
            outputs=outputs,
            workers=work.workers,
            threads=work.threads or max(1, cpu_count() // work.workers),
            photos=Path(inputs.photos).resolve() if inputs.photos else None,
            stop_after_s=60 * work.stop_after_minutes or None,
        )


@contextmanager
def _catalog_of(recipe: Recipe, environment: Environment) -> Iterator[Path | None]:
    """Fetch the catalog to learn from, if there is one. Raises CatalogError and SettingsError."""
    from ace_tasks.training.rows import CatalogData

    if not isinstance(recipe.data, CatalogData):
        yield None
        return
    if not recipe.data.catalog:
        raise SettingsError(f"recipe {recipe.name!r} learns from a catalog: name it in `catalog`")
    with open_catalog(recipe.data.catalog, Store(environment.source_store)) as path:
        yield path


def _plan_rows(recipe: Recipe, catalog: Path, environment: Environment, folder: Path) -> None:
    from ace_tasks.training import rows

    assert isinstance(recipe.data, rows.CatalogData)
    assert recipe.data.catalog
    planned = rows.plan(catalog, recipe.data.catalog, environment.allowed_buckets, folder)
    if recipe.objective.stage_1_share and not planned.without_references:
        raise SettingsError(
            f"recipe {recipe.name!r}: its first stage learns without references, but every row of "
            "the catalog has one; accepted: objective.stage_1_share 0"
        )


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Let one run at a time use a work folder. Raises SettingsError."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(
                f"another run trains this recipe on this machine ({work})"
            ) from None
        yield


@step("vae")
def fit_vae(training: Training) -> bool:
    """Get the small VAE, or all files of the variant to start from. Return whether it is done."""
    from ace_tasks.training.stages import take_vae

    if training.start:
        training.start.begin(training.work, training.weights)
        return True
    has_vae, recipe = training.kept.has_vae, training.recipe
    return (has_vae() or take_vae(recipe, training.work) or training.fit("vae")) and has_vae()


@step("encode")
def encode_latents(training: Training) -> bool:
    """Encode the training set. Return whether all chunks of latents are there."""
    from ace_tasks.training import latents
    from ace_tasks.training.distributed import encode
    from ace_tasks.training.stages import LATENTS

    if training.kept.steps_done("denoise") >= training.steps("denoise"):
        return True  # nothing reads them any more
    recipe, folder = training.recipe, training.work / LATENTS
    total = latents.chunks(folder, recipe.data)

    def look() -> tuple[int, Metrics]:
        return total - len(latents.missing(folder, recipe.data)), []

    done = not latents.missing(folder, recipe.data)
    if not done:
        sources = training.environment.source_store
        with watching(training.view("encode", "chunk", total), look):
            done = encode(recipe, training.work, training.over, sources, gpu=training.gpu)
    if done:
        _report_rejects(training)
    return done


def _report_rejects(training: Training) -> None:
    """Report the rows of a catalog that cannot be learnt from.

    The log names the first. A file beside the checkpoints has the line, column and reason of each.
    """
    from ace_tasks.training import rows
    from ace_tasks.training.stages import LATENTS

    if found := rows.rejects(training.work / LATENTS):
        content = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in found)
        training.outputs.put(training.rejects_uri, content.encode(), "application/x-ndjson")
        first = found[0]
        get_run_logger().warning(
            "left out of the catalog: %s, the first in line %s (%s: %s); all: %s",
            counted(len(found), "row"), first["line"], first["field"], first["reason"], training.rejects_uri,
        )  # fmt: skip


@step("denoise")
def fit_denoiser(training: Training) -> bool:
    """Train both stages of the paper. Return whether they are done."""
    if training.kept.steps_done("denoise") >= training.steps("denoise"):
        training.kept.fetch("denoise")
        return True
    return training.fit("denoise")


@step("export")
def export_variant(training: Training) -> Variant:
    """Write the variant's folder on this machine and on S3."""
    from ace_tasks.model.places import MANIFEST
    from ace_tasks.training.export import export
    from ace_tasks.training.keeping import send_folder

    folder = training.work / "variant"
    variant = export(training.recipe, training.work, folder)
    try:
        there = training.outputs.get(join_uri(training.variant_uri, MANIFEST))
    except NotFound:
        there = b""
    if there != (folder / MANIFEST).read_bytes():
        send_folder(training.outputs, folder, training.variant_uri, MANIFEST)
    return variant


@step("samples")
def show_samples(training: Training, variant: Variant) -> str:
    """Show the variant's answers to held-out examples of the world. Return the sheet's URI.

    Nothing of a catalog is held out, so a training on one has no sheet, and the URI is empty.
    """
    from ace_tasks.evaluation.answer_sheet import sheet
    from ace_tasks.evaluation.measure import evaluate_model
    from ace_tasks.model.ace import AceModel
    from ace_tasks.model.sources import open_variant
    from ace_tasks.training.preview import preview
    from ace_tasks.training.rows import CatalogData
    from ace_tasks.training.world.world_tasks import ALL_TASKS, draw_example

    if isinstance(training.recipe.data, CatalogData):
        return ""
    lora = training.recipe.lora
    weights = training.environment.weights()
    model = AceModel.load(open_variant(str(training.work / "variant"), weights), weights, "cpu")
    examples = [
        draw_example(_SAMPLE_SEED, number, variant.width_px, split="test", tasks=(name,))
        for name in ALL_TASKS
        for number in range(_SAMPLES_A_TASK)
    ]
    adapter = lora.name if lora else None
    rows = evaluate_model(
        lambda example, _: preview(model, example, adapter=adapter), dict(enumerate(examples))
    )
    uri = join_uri(training.uri, "samples.png")
    link = upload_picture(training.outputs, uri, sheet(rows))
    show_sheet(training.flow_name, link, uri)
    return uri


def stopped(training: Training) -> State[Any]:
    """End a training that reached its time limit before it was done."""
    stages: tuple[Stage, ...] = ("denoise",) if training.start else ("vae", "denoise")
    steps_done = {stage: training.kept.steps_done(stage) for stage in stages}
    where = ", ".join(
        f"{stage} at step {done} of {training.steps(stage)}" for stage, done in steps_done.items()
    )
    line = f"stopped at the time limit, not done yet: {where}; start the same run again to continue"
    get_run_logger().info(line)
    return Completed(name=NOT_DONE, message=line, data={"steps": steps_done})


def finished(training: Training, variant: Variant, samples: str) -> State[Any]:
    line = f"{variant.name} is trained: {training.variant_uri}"
    get_run_logger().info(line)
    data = {"variant": training.variant_uri, "samples": samples}
    with suppress(NotFound):
        training.outputs.head(training.rejects_uri)
        data["rejects"] = training.rejects_uri
    return Completed(message=line, data=data)
