"""Copy a folder, or a file, into the object store of the local stack, which must be up.

make put FROM=pictures TO=s3://ace-demo/mine/people
"""

from __future__ import annotations

import argparse
import mimetypes
import os
import sys
from pathlib import Path

from ace_tasks.errors import AceError
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store, join_uri, split_uri
from infra.local_stack import ROOT, LocalStack, ServiceFailed


def put(store: Store, path: Path, uri: str) -> int:
    """Same names under `uri`, in a bucket that is made if need be; returns how many files."""
    if not path.exists():
        raise ServiceFailed(f"FROM: accepted: a folder or a file; there is no {path}")
    store.create_bucket(split_uri(uri)[0])
    found = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    folder = path.parent if path.is_file() else path
    for each in found:
        kind = mimetypes.guess_type(each.name)[0] or "application/octet-stream"
        store.put(join_uri(uri, each.relative_to(folder).as_posix()), each.read_bytes(), kind)
    return len(found)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.put", description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("uri")
    given = parser.parse_args()
    try:
        with LocalStack.running(ROOT / ".local") as stack:
            os.environ.update(stack.env)
            count = put(Store(StoreSettings()), given.path, given.uri.rstrip("/"))
    except (AceError, ServiceFailed) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{count} files under {given.uri}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
