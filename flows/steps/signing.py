"""Read the key that signs pictures from a Prefect block.

The replica's own process reads it, so that it passes neither through Ray nor through the flow.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ace_tasks.errors import SettingsError
from ace_tasks.settings import ReplicaSettings

if TYPE_CHECKING:
    from ace_tasks.provenance.c2pa_marks import Signer
    from ace_tasks.replica.replica import Replica


def make_signing_replica(settings: ReplicaSettings, run_id: str, name: str) -> Replica:
    """Make a replica as `engine.make_replica` does, with the key of the block in the settings."""
    from ace_tasks.replica.replica import Replica  # loads torch: inside the actor only

    assert settings.marks.block is not None
    return Replica(
        settings, run_id, name, load_signer(settings.marks.block, settings.marks.timestamp_url)
    )


def load_signer(block: str, timestamp_url: str | None) -> Signer:
    """Load the key from a block of type Secret. Raises SettingsError, which never quotes it."""
    from prefect.blocks.system import Secret

    from ace_tasks.provenance.c2pa_marks import Signer

    try:
        value: Any = Secret.load(block, _sync=True).get()  # type: ignore[call-arg,union-attr]
        content = json.loads(value) if isinstance(value, str) else value
        key, certificates = content["key"].encode(), content["certificates"].encode()
    except Exception as error:
        raise SettingsError(
            f'C2PA: accepted: a Prefect block of type Secret that holds JSON with "key" and '
            f'"certificates"; given {block!r}, which cannot be read ({type(error).__name__})'
        ) from None
    return Signer.of(key, certificates, timestamp_url)
