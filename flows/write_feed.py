"""Write the feed of a restyle anew, with the links of the edited pictures."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from ace_tasks.errors import SettingsError
from ace_tasks.runs.feed_out import FeedAccount, FeedOut, FeedRequest
from ace_tasks.settings import read_environment
from ace_tasks.store import open_stores
from flows.options.places import FeedTo, NewestOrRun, OtherFeed, Output, Overwrite, PublicBaseUrl
from flows.ui.artifacts import RunArtifact
from flows.ui.forms import form_flow
from flows.ui.tables import plain


@form_flow("write-feed", "write feed of {output}, run {run}")
def write_feed(
    output: Output,
    to: FeedTo,
    run: NewestOrRun = "newest",
    public_base_url: PublicBaseUrl = "",
    source: OtherFeed = "",
    overwrite: Overwrite = False,
) -> State[Any]:
    """Write a product feed anew: new links for edited pictures, and no other difference.

    Beside it: `ai-pictures.csv`, the pictures that a model made, and `kept-links.csv`, the pictures
    that keep their link, with the reason. The run ends `Completed`, or `LinksKept` if rows of the
    run have no new picture.
    """
    environment = read_environment()
    public_base_url = public_base_url or environment.public_base_url or ""
    if not public_base_url:
        raise SettingsError(
            "public_base_url: accepted: where the web finds the pictures, such as "
            "https://cdn.shop.com; given none, and ACE_PUBLIC_BASE_URL is not set"
        )
    sources, outputs = open_stores(environment.source_store, environment.output_store)
    request = FeedRequest(output, to, public_base_url, run, source, overwrite)
    account = FeedOut(sources, outputs, request, environment.allowed_buckets).write()
    return _ending(account)


def _ending(account: FeedAccount) -> State[Any]:
    ai_pictures, kept_links, feed = account.files
    table = [{"reason": reason, "pictures": str(n)} for reason, n in account.kept.most_common()]
    get_run_logger().info("%s; %s", account.line, feed)
    shown = table or [{"reason": "none", "pictures": "0"}]
    RunArtifact("table", "write-feed-kept").show(shown, f"{account.line}. {plain(feed)}")
    data = account.as_dict() | {
        "line": account.line,
        "table": table,
        "feed": feed,
        "ai_pictures": ai_pictures,
        "kept_links": kept_links,
    }
    if account.missing:
        return Completed(name="LinksKept", message=account.line, data=data)
    return Completed(message=account.line, data=data)
