"""The steps of an evaluation, which measures only what earlier runs have not measured.

    <output>/evaluation.json, evaluation.md, samples.png
    <output>/chunks/<contender>-<mark>/<task>-<first>-<count>.json   scores; they come last
    <output>/chunks/<contender>-<mark>/<task>-<number>.png           pictures for the sheet

A mark is a hash of all that decides a picture and its scores. So a run that was cut short
continues, one with more examples makes only the new ones, and variants share a place's baselines.

The model runs in this process, on its GPU if it has one. A few hundred pictures of one model, one
after another, need no pool of replicas, whose unit of work is a row of a catalog.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, product
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from ace_tasks import __version__
from ace_tasks.errors import Cancelled, SettingsError
from ace_tasks.evaluation import baselines, report
from ace_tasks.evaluation.answer_sheet import sheet
from ace_tasks.evaluation.measure import (
    Answer,
    Answered,
    Chunk,
    Measured,
    chunks,
    evaluate_model,
    parse_tasks,
)
from ace_tasks.evaluation.place import EvaluationPlace
from ace_tasks.evaluation.report import Kind, Report
from ace_tasks.evaluation.scoring import SCORES_VERSION
from ace_tasks.model.sources import check_license, for_replicas, identify, open_variant
from ace_tasks.model.variants import Variant
from ace_tasks.settings import Environment, WeightsSettings, read_environment
from ace_tasks.specs import PIXELS_VERSION, ModelIdentity, canonical_json
from ace_tasks.store import Store, is_s3
from ace_tasks.training.world.world_tasks import Example
from flows.options.models import MeasureOptions
from flows.ui.artifacts import RunArtifact, decoration
from flows.ui.forms import step
from flows.ui.tables import plain, plain_row
from flows.ui.watch import StageView, linked_picture, png

if TYPE_CHECKING:
    from ace_tasks.model.ace import AceModel

_CHUNK = 16  # pictures per task run; a run that is cut short makes at most these again
_SAMPLES = 2  # of each task, on the sheet; no more than a chunk
_TOKEN_PX = 16
_MIN_SIZE_PX = 64  # below this, the world's patterns are too fine to be told apart
_MARK_LETTERS = 12
_PACKAGES = ("torch", "diffusers", "transformers", "opencv-python-headless")


@dataclass(frozen=True, eq=False)
class Contender:
    """A model or baseline that is measured."""

    name: str
    kind: Kind
    fingerprint: str
    variant: Variant | None = None  # None for a baseline that needs no model
    weights: WeightsSettings | None = None


@dataclass(eq=False)
class Evaluation:
    """The state of one evaluation: settings, contenders, place and results."""

    flow_name: str
    variant_name: str  # a name or a place
    model: ModelIdentity
    contenders: list[Contender]
    tasks: tuple[str, ...]
    examples: int
    seed: int
    size_px: int
    device: str
    environment: Environment
    place: EvaluationPlace
    results: dict[tuple[Contender, Chunk], Measured] = field(default_factory=dict)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _loaded: dict[Contender, AceModel] = field(default_factory=dict)

    @property
    def chunks(self) -> list[Chunk]:
        return chunks(self.tasks, self.examples, _CHUNK)

    def to_do(self) -> Iterator[tuple[Contender, Chunk]]:
        """Yield what is not measured yet, and show the progress after each."""
        parts = list(product(self.contenders, self.chunks))
        missing = [part for part in parts if not self._find(*part)]
        total = len(self.contenders) * len(self.tasks) * self.examples
        store, uri = self.place.store, self.place.uri
        view = StageView(self.flow_name, "measure", "picture", total, store, uri)
        view.show(self._done, [])
        for part in missing:
            yield part
            view.show(self._done, [])

    @property
    def _done(self) -> int:
        return sum(len(each.scores) for each in self.results.values())

    def _find(self, contender: Contender, chunk: Chunk) -> bool:
        data = self.place.read(self.scores_key(contender, chunk))
        if data is not None:
            self.results[contender, chunk] = Measured.model_validate_json(data)
        return data is not None

    def folder(self, contender: Contender) -> str:
        """Return the folder of a contender's chunks, named after all that decides scores."""
        decides = [contender.fingerprint, self.seed, self.size_px, SCORES_VERSION, PIXELS_VERSION]
        mark = hashlib.sha256(canonical_json(decides)).hexdigest()[:_MARK_LETTERS]
        return f"chunks/{contender.name}-{mark}"

    def scores_key(self, contender: Contender, chunk: Chunk) -> str:
        return f"{self.folder(contender)}/{chunk.name}.json"

    def picture_key(self, contender: Contender, task_name: str, number: int) -> str:
        return f"{self.folder(contender)}/{task_name}-{number:05}.png"

    def answer(self, contender: Contender) -> Answer:
        """Return the function by which a contender answers an example. Load its model, if any."""
        from ace_tasks.training.preview import answer

        if contender.variant is None:
            baseline = baselines.BASELINES[contender.name]

            def answered(example: Example, number: int) -> np.ndarray:
                self._check_stopped()
                return baseline(example)

        else:
            model = self._load(contender, contender.variant)

            def answered(example: Example, number: int) -> np.ndarray:
                return answer(model, example, number, self._check_stopped)

        return answered

    def stop(self) -> None:
        """Stop for good, between two denoising steps. Any thread may call this."""
        self._stopping.set()

    def _check_stopped(self) -> None:
        if self._stopping.is_set():
            raise Cancelled("the evaluation was cancelled")

    def _load(self, contender: Contender, variant: Variant) -> AceModel:
        from ace_tasks.model.ace import AceModel

        if contender not in self._loaded:
            assert contender.weights is not None
            self._loaded.clear()  # keep one model in memory
            mode, planned = self.environment.adapter_mode, contender.fingerprint
            self._loaded[contender] = AceModel.load(
                variant, contender.weights, self.device, adapter_mode=mode, planned=planned
            )
        return self._loaded[contender]


@contextmanager
def open_evaluation(
    variant: str, output: str, wanted: MeasureOptions, *, accept_license: bool
) -> Iterator[Evaluation]:
    """Check everything an evaluation needs before any work. Raises FatalError."""
    from ace_tasks.replica.runtime_info import best_device  # loads torch

    names = parse_tasks(wanted.tasks)
    environment = read_environment()
    weights = environment.weights(accept_license=accept_license)
    found = open_variant(variant, weights)
    side = wanted.size_px or found.width_px
    if side % _TOKEN_PX or side < _MIN_SIZE_PX:
        raise SettingsError(
            f"size_px: accepted: a multiple of {_TOKEN_PX}, at least {_MIN_SIZE_PX}; given {side}"
        )
    contender = _with_model(found, "model", weights)
    place = EvaluationPlace(output.rstrip("/"), Store(environment.output_store))
    place.check()
    evaluation = Evaluation(
        flow_name=flow_run.flow_name or "evaluate",
        variant_name=found.home or found.name,
        model=identify(found, weights),
        contenders=[contender, *(_baselines(contender, weights) if wanted.baselines else ())],
        tasks=names,
        examples=wanted.examples,
        seed=wanted.seed,
        size_px=side,
        device=environment.device or best_device(),
        environment=environment,
        place=place,
    )
    try:
        yield evaluation
    finally:
        evaluation.stop()


def _with_model(variant: Variant, kind: Kind, weights: WeightsSettings) -> Contender:
    check_license(variant, weights)
    weights = for_replicas(variant, weights)
    fingerprint = identify(variant, weights).fingerprint
    return Contender(variant.name, kind, fingerprint, variant, weights)


def _baselines(model: Contender, weights: WeightsSettings) -> list[Contender]:
    """Return the baselines: random weights, unless those are measured, and some without a model."""
    toy = _with_model(open_variant("toy", weights), "baseline", weights)
    random = [toy] if toy.fingerprint != model.fingerprint else []
    return [*random, *(Contender(name, "baseline", name) for name in baselines.BASELINES)]


@step("measure", "{contender.name} {chunk.name}")
def measure(evaluation: Evaluation, contender: Contender, chunk: Chunk) -> None:
    """Make and measure one contender's pictures of one chunk."""
    answer = evaluation.answer(contender)
    started = time.monotonic()
    examples = chunk.draw(evaluation.seed, evaluation.size_px)
    answered = evaluate_model(answer, examples)
    if contender.kind == "model":
        for number, each in zip(examples, answered, strict=True):
            if number < _SAMPLES:
                key = evaluation.picture_key(contender, chunk.task, number)
                evaluation.place.write(key, png(Image.fromarray(each.picture)), "image/png")
    measured = Measured(
        scores=[each.scores for each in answered], seconds=round(time.monotonic() - started, 3)
    )
    key = evaluation.scores_key(contender, chunk)
    evaluation.place.write(key, measured.model_dump_json().encode(), "application/json")
    evaluation.results[contender, chunk] = measured


def finished(evaluation: Evaluation) -> State[Any]:
    """Write the report, table and sheet, show them, and return the run's final state."""
    place, found = evaluation.place, _report(evaluation)
    rows = report.table(found)
    samples = place.write("samples.png", png(_sheet(evaluation)), "image/png")
    text = _markdown(found, rows)
    place.write("evaluation.md", f"{text}\n![samples](samples.png)\n".encode(), "text/markdown")
    uri = place.write(
        "evaluation.json", found.model_dump_json(indent=1).encode(), "application/json"
    )
    _show(evaluation, found, rows, text)
    get_run_logger().info("%s; %s", found.verdict, uri)
    data = {"evaluation": uri, "samples": samples, "table": rows}
    return Completed(message=found.verdict, data=data)


def _report(evaluation: Evaluation) -> Report:
    lines, contenders = [], []
    for each in evaluation.contenders:
        parts = [evaluation.results[each, chunk] for chunk in evaluation.chunks]
        scores = {
            name: [score for part in parts for score in part.scores if score.task == name]
            for name in evaluation.tasks
        }
        lines += report.lines(each.name, each.kind, scores)
        contenders.append(
            report.ContenderReport(
                name=each.name,
                kind=each.kind,
                fingerprint=each.fingerprint,
                scores=evaluation.folder(each),
                seconds=round(sum(part.seconds for part in parts), 3),
            )
        )
    return Report(
        variant=evaluation.variant_name,
        model=evaluation.model,
        tasks=evaluation.tasks,
        examples=evaluation.examples,
        seed=evaluation.seed,
        size_px=evaluation.size_px,
        device=evaluation.device,
        contenders=contenders,
        versions=_versions(),
        lines=lines,
    )


def _versions() -> dict[str, str]:
    ours = {
        "ace-catalog": __version__, "pixels": str(PIXELS_VERSION), "scores": str(SCORES_VERSION)
    }  # fmt: skip
    installed = {each.name: each.version for each in importlib.metadata.distributions()}
    return ours | {name: installed[name] for name in _PACKAGES if name in installed}


def _sheet(evaluation: Evaluation) -> Image.Image:
    """Draw the first examples of each task with the model's answers."""
    model, shown = evaluation.contenders[0], []
    for chunk in evaluation.chunks:
        if chunk.first:
            continue
        scores = evaluation.results[model, chunk].scores
        examples = chunk.draw(evaluation.seed, evaluation.size_px)
        for (number, example), each in islice(zip(examples.items(), scores, strict=True), _SAMPLES):
            data = evaluation.place.read(evaluation.picture_key(model, chunk.task, number))
            assert data is not None, "written before its scores"
            picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            shown.append(Answered(example, picture, each))
    return sheet(shown)


def _markdown(found: Report, rows: list[dict[str, str]]) -> str:
    """Return the report as Markdown, in which a variant's name has no effect."""
    cells = [
        list(rows[0]),
        ["---"] * len(rows[0]),
        *(list(plain_row(row).values()) for row in rows),
    ]
    table = "\n".join(f"| {' | '.join(each)} |" for each in cells)
    mark = found.contenders[0].fingerprint[:_MARK_LETTERS]
    return (
        f"# Evaluation of {plain(found.variant)}\n\n{plain(found.verdict)}.\n\n"
        f"{found.examples} held-out examples of each task at {found.size_px} px, seed "
        f"{found.seed}, on {found.device}; model {mark}. ± is a standard error, PSNR is in dB, "
        f"errors are in grey levels; parts: how many of 100 are right.\n\n{table}\n"
    )


def _show(evaluation: Evaluation, found: Report, rows: list[dict[str, str]], text: str) -> None:
    line, place = plain(found.verdict), evaluation.place
    RunArtifact("table", f"{evaluation.flow_name}-scores").show(
        [plain_row(row) for row in rows], line
    )
    with decoration("report"):  # making its link may fail
        if is_s3(place.uri):
            link = place.store.presign(place.join("samples.png"))
            text += f"\n{linked_picture('samples', link)}\n"
        RunArtifact("markdown", f"{evaluation.flow_name}-report").show(text, line)
