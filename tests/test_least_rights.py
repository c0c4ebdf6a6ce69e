"""Two identities on a real store, with the rights that `infra/iam` grants: one reads sources, one
writes outputs. If these break, a replica that a hostile picture took over can spoil a shop's
pictures; or the system asks for more than it was given, and stops at a customer's."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ace_tasks.errors import AceError, Forbidden, OutputRefused
from ace_tasks.results import Summary
from ace_tasks.settings import StoreSettings, read_environment
from ace_tasks.store import Store
from flows.edit_catalog import edit_catalog
from flows.restyle_catalog import restyle_catalog
from flows.retry_failed import retry_failed
from infra.identities import make_identities
from infra.object_store import ObjectStore
from infra.services import script
from tests import pool_here
from tests.patience import wait_until
from tests.processes import ace_here, run

RIGHTS = {
    "sources": ["Read:shop", "List:shop"],
    "outputs": ["Read:edited", "Write:edited", "List:edited"],
    "owner": ["Admin"],
}
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture(scope="module", autouse=True)
def shop(
    tmp_path_factory: pytest.TempPathFactory,
    prefect_server: Any,
    weights_dir: Any,
    picture: Callable[..., bytes],
) -> Iterator[Store]:
    """Start a shop's store; yield it as its owner sees it. No process of ours has his keys."""
    folder = tmp_path_factory.mktemp("shop")
    identities = make_identities(folder / "keys", RIGHTS)
    service = ObjectStore(folder / "store", identities=identities.config).start()
    before = dict(os.environ)
    os.environ |= {
        "AWS_ENDPOINT_URL": service.endpoint_url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_SHARED_CREDENTIALS_FILE": str(identities.profiles),
        "ACE_SOURCE_PROFILE": "sources",
        "ACE_OUTPUT_PROFILE": "outputs",
    }
    for name in KEYS:
        os.environ.pop(name, None)
    owner = as_("owner")
    for bucket in ("shop", "edited"):
        owner.create_bucket(bucket)
    rows = []
    for number in range(4):
        owner.put(f"s3://shop/in/{number}.png", picture(seed=number), "image/png")
        rows.append({"id": f"row-{number}", "task": "edit", "prompt": "p", "steps": 1,
                     "image": f"s3://shop/in/{number}.png"})  # fmt: skip
    owner.put("s3://shop/catalog.jsonl", "\n".join(map(json.dumps, rows)).encode(), "text/plain")
    try:
        yield owner
    finally:
        service.stop()
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def as_(profile: str) -> Store:
    return Store(StoreSettings(profile=profile, patience_s=0))


def summary(state: Any) -> Summary:
    return Summary.model_validate(state.result(raise_on_failure=False))


FORBIDDEN: dict[str, Callable[[], object]] = {
    "the reader writes a source": lambda: as_("sources").put(
        "s3://shop/in/0.png", b"spoilt", "image/png"
    ),
    "the reader deletes a source": lambda: as_("sources").delete("s3://shop/in/0.png"),
    "the reader writes an output": lambda: as_("sources").put(
        "s3://edited/x", b"spoilt", "text/plain"
    ),
    "the reader reads an output": lambda: as_("sources").get("s3://edited/there"),
    "the reader lists outputs": lambda: list(as_("sources").list("s3://edited/")),
    "the writer reads a source": lambda: as_("outputs").get("s3://shop/in/0.png"),
    "the writer asks after a source": lambda: as_("outputs").head("s3://shop/in/0.png"),
    "the writer lists sources": lambda: list(as_("outputs").list("s3://shop/")),
    "the writer writes a source": lambda: as_("outputs").put(
        "s3://shop/in/0.png", b"spoilt", "image/png"
    ),
    "the writer deletes a source": lambda: as_("outputs").delete("s3://shop/in/0.png"),
    "the writer makes a bucket": lambda: as_("outputs").create_bucket("mine"),
}


@pytest.mark.parametrize("attempt", FORBIDDEN)
def test_what_is_not_granted_is_refused(attempt: str, shop: Store) -> None:
    shop.put("s3://edited/there", b"an output", "text/plain")
    before = shop.get("s3://shop/in/0.png")
    with pytest.raises(Forbidden):
        FORBIDDEN[attempt]()
    assert shop.get("s3://shop/in/0.png") == before


def test_the_whole_system_lives_with_two_identities(
    shop: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Plan, edit, contact sheet; a row that fails and is tried again; a restyle of a folder; the
    pictures copied out.

    The replica is in this process: a Ray of another file's tests would know other keys.
    """
    pool_here.use(monkeypatch)
    broken = shop.get("s3://shop/in/3.png")
    shop.put("s3://shop/in/3.png", b"no picture", "image/png")
    edited = edit_catalog(
        catalog="s3://shop/catalog.jsonl",
        output="s3://edited/one",
        variant="toy",
        return_state=True,
    )
    first = summary(edited)
    assert (first.done, first.failed) == (3, 1)
    assert shop.get(f"s3://edited/one/runs/{first.run_id}/report.html")

    shop.put("s3://shop/in/3.png", broken, "image/png")
    again = retry_failed(output="s3://edited/one", failed_run=first.run_id, return_state=True)
    assert (summary(again).done, summary(again).failed) == (1, 0)

    restyled = restyle_catalog(
        source="s3://shop/in",
        output="s3://edited/two",
        prompt="p",
        variant="toy",
        return_state=True,
    )
    assert summary(restyled).done == 4

    copied = ace_here("pictures", "s3://edited/two", str(tmp_path))
    assert copied.returncode == 0, copied.stdout + copied.stderr
    assert {each.name for each in tmp_path.iterdir()} == {f"{n}.png.png" for n in range(4)}


@pytest.mark.thorough
def test_a_replica_of_ray_lives_with_them_too(shop: Store) -> None:
    catalog, output = "s3://shop/catalog.jsonl", "s3://edited/by-ray"
    run([script("ace-catalog"), "edit", catalog, output, "--variant", "toy"])
    assert len(list(shop.list(f"{output}/images/"))) == 4


def test_an_output_among_the_sources_is_refused_before_any_work(shop: Store) -> None:
    with pytest.raises(OutputRefused, match="s3://shop/edited"):
        edit_catalog(catalog="s3://shop/catalog.jsonl", output="s3://shop/edited", variant="toy")
    assert not list(shop.list("s3://shop/edited"))


def test_a_leaked_link_opens_one_object_until_it_expires(shop: Store) -> None:
    for name in ("report.html", "report-2.html"):
        shop.put(f"s3://edited/leak/{name}", b"a page", "text/html")
    link = as_("outputs").presign("s3://edited/leak/report.html")
    assert status(link) == 200
    assert status(link.replace("report.html", "report-2.html")) == 403
    assert status(link, "PUT", b"spoilt") == 403
    assert status(link, "DELETE") == 403
    brief = as_("outputs").presign("s3://edited/leak/report.html", expires_s=1)
    wait_until(lambda: status(brief) == 403, "a link to expire")
    assert shop.get("s3://edited/leak/report.html") == b"a page"


def status(url: str, method: str = "GET", data: bytes | None = None) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, method=method)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_no_error_holds_a_key(shop: Store) -> None:
    told = []
    for attempt in FORBIDDEN.values():
        with pytest.raises(AceError) as error:
            attempt()
        told.append(f"{error.value!r} {error.value}")
    profiles = Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"]).read_text()
    keys = [line.partition(" = ")[2] for line in profiles.splitlines() if " = " in line]
    assert len(keys) == 6
    assert not [key for key in keys if key in "\n".join(told)]
    assert read_environment().source_store != read_environment().output_store
