"""`audit`, `development-ca`: what a run left is proved; and what proves it, for trying out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from flows.cli.terminal import out, run_flow
from flows.parameters import Json, Output, RunId, SampleItems


def audit(output: Output, run: RunId, sample: SampleItems = 1000, as_json: Json = False) -> None:
    """Re-read a run: every row accounted for, every picture with its proof. Exit code 1: not so."""
    from flows.audit_run import audit_run

    run_flow(audit_run, "auditing", as_json=as_json, output=output, run=run, sample=sample)


def development_ca(
    folder: Annotated[Path, typer.Argument(help="Where key.pem, chain.pem and ca.pem go.")],
    organization: Annotated[str, typer.Option(help="Whose name the certificate has.")] = "Example",
) -> None:
    """Make a key, its certificate and an authority that nobody trusts, to try C2PA signatures."""
    from ace_tasks import development_ca as authority

    made = authority.make(folder, organization)
    out.print(escape(f"ACE_C2PA_KEY={made.key}\nACE_C2PA_CERTIFICATES={made.chain}"))
