"""Copy a folder or a file into the object store of the local stack, or a folder out of it.

make put FROM=pictures TO=s3://ace-demo/mine/people
make get FROM=s3://ace-demo/looks RUN=newest TO=looks

With RUN, copy out the current picture of each row of a run, under the row's own name.
"""

from __future__ import annotations

import argparse
import mimetypes
import os
import sys
from contextlib import closing
from pathlib import Path, PurePosixPath

from ace_tasks.errors import AceError
from ace_tasks.runs.take_out import Account, TakeOut
from ace_tasks.settings import StoreSettings
from ace_tasks.store import Store, is_s3, join_uri, split_uri
from infra.local_stack import LocalStack
from infra.services import ROOT, ServiceFailed


def put(store: Store, path: Path, uri: str) -> int:
    """Copy files under `uri` by the same names, in a new bucket if needed. Return their number."""
    if not path.exists():
        raise ServiceFailed(f"FROM: accepted: a folder or a file; there is no {path.resolve()}")
    store.create_bucket(split_uri(uri)[0])
    found = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    folder = path.parent if path.is_file() else path
    for each in found:
        kind = mimetypes.guess_type(each.name)[0] or "application/octet-stream"
        store.put(join_uri(uri, each.relative_to(folder).as_posix()), each.read_bytes(), kind)
    return len(found)


def get(store: Store, uri: str, path: Path) -> int:
    """Copy all files under `uri` to a folder, by the same names. Return their number.

    Raises ServiceFailed if there are none, or for a name that would lead out of the folder.
    """
    count = 0
    for each in store.list(f"{uri}/"):
        if each.uri.endswith("/"):  # a marker that some tools write for a folder
            continue
        name = PurePosixPath(each.uri.removeprefix(f"{uri}/"))
        if name.is_absolute() or ".." in name.parts:
            raise ServiceFailed(f"{each.uri}: its name leads out of {path}")
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(store.get(each.uri))
        count += 1
    if not count:
        raise ServiceFailed(f"FROM: accepted: a place with files; there is nothing under {uri}")
    return count


def get_pictures(store: Store, output: str, run: str, to: str) -> Account:
    """Copy the current picture of each row of a run to a folder, as `ace-catalog pictures` does."""
    with closing(TakeOut(store, output, run, to)) as taking:
        account = Account(taking.run_id, to)
        for each in taking.take():
            account.add(each)
    return account


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.transfer", description=__doc__)
    parser.add_argument(
        "start", help="where to copy from: a folder, a file, or an s3:// place in the store"
    )
    parser.add_argument("end", help="where to copy to: an s3:// place in the store, or a folder")
    parser.add_argument(
        "--run", help="copy the pictures of this run of the output START: its id, or newest"
    )
    given = parser.parse_args()
    start, end = given.start.rstrip("/"), given.end.rstrip("/")
    try:
        if not (start and end) or is_s3(start) == is_s3(end):
            raise ServiceFailed("accepted: FROM a folder TO s3://bucket/place, or the other way")
        if given.run and not is_s3(start):
            raise ServiceFailed(f"RUN: accepted with FROM an output on s3://; given {start}")
        with LocalStack.running(ROOT / ".local") as stack:
            os.environ.update(stack.env)
            store = Store(StoreSettings())
            if given.run:
                account = get_pictures(store, start, given.run, end)
                print("\n".join(account.lines()))
                return 1 if account.without else 0
            count = get(store, start, Path(end)) if is_s3(start) else put(store, Path(start), end)
    except (AceError, ServiceFailed, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{count} {'file' if count == 1 else 'files'} under {end}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
