"""`development-ca`: what pictures are signed with, for trying out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from flows.cli.terminal import out


def development_ca(
    folder: Annotated[Path, typer.Argument(help="Where key.pem, chain.pem and ca.pem go.")],
    organization: Annotated[str, typer.Option(help="Whose name the certificate has.")] = "Example",
) -> None:
    """Make a key, its certificate and an authority that nobody trusts, to try C2PA signatures."""
    from ace_tasks import development_ca as authority

    made = authority.make(folder, organization)
    out.print(escape(f"ACE_C2PA_KEY={made.key}\nACE_C2PA_CERTIFICATES={made.chain}"))
