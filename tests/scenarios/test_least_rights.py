"""Two identities on a real store, with the rights that `infra/iam` grants: one reads sources, one
writes outputs. If these break, a replica that a hostile picture took over can spoil a shop's
pictures; or the system asks for more than it was given, and stops at a customer's."""

from __future__ import annotations

import io
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ace_tasks.errors import AceError, Forbidden, OutputRefused
from ace_tasks.runs.results import Summary
from ace_tasks.settings import StoreSettings, read_environment
from ace_tasks.store import Store
from flows.audit_run import audit_run
from flows.edit_catalog import edit_catalog
from flows.forget import forget
from flows.restyle_catalog import restyle_catalog
from flows.retry_failed import retry_failed
from flows.review_run import review_run
from flows.sweep_output import sweep_output
from flows.try_on_batch import try_on_batch
from flows.write_feed import write_feed
from infra.object_store import ObjectStore
from infra.services import script
from tests.support import iam, pool_here
from tests.support.iam import Policy
from tests.support.patience import wait_until
from tests.support.processes import ace_here, run
from tests.support.raw_s3 import keep_versions
from tests.support.store_identities import make_identities

RIGHTS = {
    "sources": ["Read:shop", "List:shop"],
    "outputs": ["Read:edited", "Write:edited", "List:edited"],
    "owner": ["Admin"],
    "stranger": ["Admin"],
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
        rows.append(
            {
                "id": f"row-{number}",
                "task": "edit",
                "prompt": "p",
                "steps": 1,
                "image": f"s3://shop/in/{number}.png",
            }
        )
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
    "a stranger makes the shop's bucket": lambda: as_("stranger").create_bucket("shop"),
    "the writer makes a bucket": lambda: as_("outputs").create_bucket("mine"),
}


@pytest.mark.parametrize("attempt", FORBIDDEN)
def test_what_is_not_granted_is_refused(attempt: str, shop: Store) -> None:
    shop.put("s3://edited/there", b"an output", "text/plain")
    before = shop.get("s3://shop/in/0.png")
    with pytest.raises(Forbidden):
        FORBIDDEN[attempt]()
    assert shop.get("s3://shop/in/0.png") == before


OUTPUT = "s3://edited/edited"  # the one that the policy names
BUCKETS = {"shop-edited": "edited", "shop-pictures": "shop"}
NEVER_CALLED = {"s3:AbortMultipartUpload"}  # but by an upload in parts that fails


def policies(without: str = "") -> dict[str, Policy]:
    return {name: Policy.read(name, BUCKETS, without) for name in ("sources", "outputs")}


@pytest.fixture(scope="module")
def versions(shop: Store, picture: Callable[..., bytes]) -> None:
    """Have both buckets keep older versions, as OPERATIONS asks for."""
    for bucket in ("shop", "edited"):
        keep_versions(bucket, profile="owner")
    shop.put("s3://shop/garments/0.png", picture(seed=9), "image/png")
    half = io.BytesIO()
    Image.fromarray(np.repeat(np.uint8([[0], [255]]), 32, 0)).resize((96, 64)).save(half, "PNG")
    for number in range(4):
        shop.put(f"s3://shop/masks/{number}.png", half.getvalue(), "image/png")
    for each in [*shop.list("s3://shop/in/")]:  # those from before have no version of their own
        shop.put(each.uri, shop.get(each.uri), "image/png")


def use_everything() -> Iterator[tuple[str, Any]]:
    """Run every flow that reads and writes pictures, and yield how each ended."""
    edited = edit_catalog(
        catalog="s3://shop/catalog.jsonl",
        output=OUTPUT,
        variant="toy",
        pixels={"candidates": 2},
        review={"review_below": 1.0, "keep_candidates": True},
        return_state=True,
    )
    yield "edit", edited
    run_id = summary(edited).run_id
    yield (
        "review",
        review_run(output=OUTPUT, run=run_id, promote="row-0", discard="row-1", return_state=True),
    )
    yield (
        "retry",
        retry_failed(output=OUTPUT, failed_run=run_id, codes="discarded", return_state=True),
    )
    yield (
        "restyle",
        restyle_catalog(
            source="s3://shop/in", output=OUTPUT, prompt="q", variant="toy", return_state=True
        ),
    )
    yield (
        "try-on",
        try_on_batch(
            people="s3://shop/in",
            garments="s3://shop/garments",
            output=OUTPUT,
            variant="toy",
            masks="s3://shop/masks",
            pixels={"steps": 1},
            return_state=True,
        ),
    )
    yield "sweep", sweep_output(output=OUTPUT, older_than_hours=0, delete=True, return_state=True)
    yield "audit", audit_run(output=OUTPUT, run=run_id, return_state=True)
    yield "reproduce", ace_here("reproduce", OUTPUT)
    yield "status", ace_here("status", OUTPUT)
    yield (
        "plan",
        ace_here("plan", "s3://shop/catalog.jsonl", "--output", OUTPUT, "--variant", "toy"),
    )
    yield (
        "forget",
        forget(output=OUTPUT, source="s3://shop/in/0.png", delete=True, return_state=True),
    )


@pytest.mark.thorough
def test_every_flow_lives_with_the_published_policies(
    shop: Store, versions: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a policy lacks, or grants in vain, is named."""
    pool_here.use(monkeypatch)
    held = policies()
    with iam.holding(held):
        ended = dict(use_everything())
    for name, policy in held.items():
        assert policy.refused == set(), f"{name}.json lacks"
        assert policy.actions - NEVER_CALLED - policy.used == set(), f"{name}.json need not grant"
    assert {name for name, each in ended.items() if failed(each)} == {"edit", "retry"}, ended[
        "try-on"
    ]
    assert summary(ended["edit"]).by_error == {"needs_review": 4}
    run_id = summary(ended["restyle"]).run_id
    assert shop.get(f"{OUTPUT}/runs/{run_id}/results.csv")
    left = [each.uri for each in shop.list(OUTPUT) if b"in/0.png" in shop.get(each.uri)]
    assert left == []


def failed(ended: Any) -> bool:
    if hasattr(ended, "returncode"):
        return bool(ended.returncode)
    return not ended.is_completed()


FOR_GOOD = ("s3:ListBucketVersions", "s3:DeleteObjectVersion", "s3:DeleteObject", "s3:PutObject")


def test_a_right_that_is_missing_is_named_before_anything_is_forgotten(
    shop: Store, versions: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool_here.use(monkeypatch)
    output = f"{OUTPUT}/lacking"
    edit_catalog(catalog="s3://shop/catalog.jsonl", output=output, variant="toy")
    before = {each.uri: each.etag for each in shop.list(output)}
    for action in FOR_GOOD:
        with iam.holding(policies(without=action)):
            state = forget(
                output=output, source="s3://shop/in/0.png", delete=True, return_state=True
            )
        assert state.is_failed()
        assert f"{action} is refused" in state.message
        assert "nothing was deleted" in state.message
        after = {each.uri: each.etag for each in shop.list(output)}
        assert {uri: etag for uri, etag in after.items() if "/.probe-" not in uri} == before


@pytest.mark.thorough
def test_a_feed_needs_to_read_the_shop_and_to_write_what_is_new(
    shop: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It deletes nothing and needs no older version. Beside the output it is refused, until the
    policy names that place."""
    pool_here.use(monkeypatch)
    link = "https://shop.test/in/0.png"
    shop.put("s3://shop/feed.csv", f"id,image_link\nmug,{link}\n".encode(), "text/csv")
    output = f"{OUTPUT}/of-a-feed"

    def write(to: str, held: dict[str, Policy]) -> Any:
        with iam.holding(held):
            return write_feed(output, to, public_base_url="https://cdn.test", return_state=True)

    with iam.holding(policies()):
        restyle_catalog(
            source="s3://shop/feed.csv",
            output=output,
            prompt="q",
            variant="toy",
            feed={"links_from": "https://shop.test/", "links_to": "s3://shop/"},
            pixels={"steps": 1},
        )
    held = policies()
    assert write(f"{OUTPUT}/feeds", held).is_completed()
    assert shop.get(f"{OUTPUT}/feeds/feed.csv").count(b"https://cdn.test/edited/of-a-feed/") == 1
    assert held["sources"].used == {"s3:GetObject"}
    assert held["outputs"].used == {"s3:GetObject", "s3:ListBucket", "s3:PutObject"}
    assert not any(each.refused for each in held.values())

    state = write("s3://edited/feeds", policies())
    assert state.is_failed()
    assert "s3://edited/feeds/feed.csv: access denied (HTTP 403)" in state.message
    assert list(shop.list("s3://edited/feeds/")) == []
    held = policies()
    held["outputs"].statements[0]["Resource"].append("arn:aws:s3:::edited/feeds/*")
    assert write("s3://edited/feeds", held).is_completed()


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
    messages = []
    for attempt in FORBIDDEN.values():
        with pytest.raises(AceError) as error:
            attempt()
        messages.append(f"{error.value!r} {error.value}")
    profiles = Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"]).read_text()
    keys = [line.partition(" = ")[2] for line in profiles.splitlines() if " = " in line]
    assert len(keys) == 8
    assert not [key for key in keys if key in "\n".join(messages)]
    assert read_environment().source_store != read_environment().output_store
