"""The key that signs pictures, where it lies in a Prefect block: read in the replica's own process,
so that it crosses neither Ray nor the flow.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from ace_tasks.errors import SettingsError
from ace_tasks.settings import ReplicaSettings

if TYPE_CHECKING:
    from ace_tasks.provenance.c2pa_marks import Signer
    from ace_tasks.replica.replica import Replica


def make_signing_replica(settings: ReplicaSettings, run_id: str, name: str) -> Replica:
    """As `engine.make_replica`, with the key of the block that the settings name."""
    from ace_tasks.replica.replica import Replica  # loads torch: inside the actor only

    assert settings.marks.block is not None
    return Replica(
        settings, run_id, name, load_signer(settings.marks.block, settings.marks.timestamp_url)
    )


def load_signer(block: str, timestamp_url: str | None) -> Signer:
    """From a block of type Secret. Raises SettingsError, which never quotes it."""
    from prefect.blocks.system import Secret

    from ace_tasks.provenance.c2pa_marks import Signer

    try:
        value: Any = Secret.load(block, _sync=True).get()  # type: ignore[call-arg,union-attr]
        content = json.loads(value) if isinstance(value, str) else value
        key, certificates = content["key"].encode(), content["certificates"].encode()
    except Exception as error:
        raise SettingsError(
            f'C2PA: accepted: a Prefect block of type Secret that holds JSON with "key" and '
            f'"certificates"; {block!r} cannot be read so ({type(error).__name__})'
        ) from None
    return Signer.of(key, certificates, timestamp_url)


def without_user(url: str | None) -> str | None:
    """An address without the user and password that may stand in it, and without its query."""
    if not url:
        return None
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
