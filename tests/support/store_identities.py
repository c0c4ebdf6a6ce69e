"""Identities of the local object store, where one key for everything will not do: who may read
which bucket, and who may write.

Their keys are drawn here, and lie in two files of mode 0600: one for SeaweedFS, one for boto3.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StoreIdentities:
    """Two files: `config` for `weed -s3.config`, and `profiles` for AWS_SHARED_CREDENTIALS_FILE,
    with a profile of each one's name."""

    config: Path
    profiles: Path


def make_identities(folder: Path, actions: Mapping[str, Sequence[str]]) -> StoreIdentities:
    """Draw keys for each name. `actions` are SeaweedFS's: `Read:bucket`, `Write:bucket`,
    `List:bucket`, `Admin`."""
    keys = {name: (f"ace{secrets.token_hex(8)}", secrets.token_hex(20)) for name in actions}
    config = [
        {
            "name": name,
            "credentials": [{"accessKey": key_id, "secretKey": secret}],
            "actions": list(actions[name]),
        }
        for name, (key_id, secret) in keys.items()
    ]
    profiles = [
        f"[{name}]\naws_access_key_id = {key_id}\naws_secret_access_key = {secret}\n"
        for name, (key_id, secret) in keys.items()
    ]
    return StoreIdentities(
        _private(folder / "identities.json", json.dumps({"identities": config})),
        _private(folder / "profiles", "".join(profiles)),
    )


def _private(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
    return path
