"""`train`, `evaluate`: models are made and measured."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.terminal import run_flow
from flows.options import AcceptLicense


def train(
    recipe: Annotated[str, typer.Argument(help="Such as mini, or a file that ends in .json.")],
    output: Annotated[str, typer.Argument(help="Where the variant goes: s3://bucket/prefix.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes that share each step.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of each; 0: a share.")] = 0,
    stop_after_minutes: Annotated[
        float, typer.Option(min=0, help="Then stop; the same command goes on. 0: until done.")
    ] = 0,
    photos: Annotated[str, typer.Option(help="A folder of photographs for the VAE.")] = "",
    start_from: Annotated[
        str, typer.Option(help="A variant to start from: a name, a folder or s3://….")
    ] = "",
    catalog: Annotated[
        str, typer.Option(help="Learn from this catalog, whose column `target` has the answers.")
    ] = "",
    accept_license: AcceptLicense = False,
) -> None:
    """Train a variant by a recipe: from nothing, or from another variant."""
    from flows.train_ace import train_ace

    run_flow(
        train_ace,
        "training",
        recipe=recipe,
        output=output,
        workers=workers,
        threads=threads,
        stop_after_minutes=stop_after_minutes,
        photos=photos,
        start_from=start_from,
        catalog=catalog,
        accept_license=accept_license,
    )


def evaluate(
    variant: Annotated[str, typer.Argument(help="Such as toy, or the place of a variant.json.")],
    output: Annotated[str, typer.Argument(help="Where tables go: s3://bucket/prefix or a folder.")],
    examples: Annotated[int, typer.Option(min=1, max=10_000, help="Of each task.")] = 64,
    tasks: Annotated[
        str, typer.Option(help="Comma-separated, as in add,recolour. Empty: all.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Which examples.")] = 1,
    size_px: Annotated[int, typer.Option(min=0, help="Side; 0: the variant's.")] = 0,
    baselines: Annotated[bool, typer.Option(help="Also measure what needs no training.")] = True,
    accept_license: AcceptLicense = False,
) -> None:
    """Measure a variant on held-back examples with exact answers, beside baselines."""
    from flows.evaluate import evaluate as evaluate_flow

    run_flow(
        evaluate_flow,
        "measuring",
        variant=variant,
        output=output,
        examples=examples,
        tasks=tasks,
        seed=seed,
        size_px=size_px,
        baselines=baselines,
        accept_license=accept_license,
    )
