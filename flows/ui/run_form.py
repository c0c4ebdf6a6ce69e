"""The form in Prefect's UI that starts a run of a deployment, and its address."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_UI_URL

log = logging.getLogger(__name__)

_V2 = "/v2"
_LONGEST = 8000  # characters of a link


@dataclass(frozen=True)
class RunForm:
    """The form of one deployment. `classic` and `v2` are its addresses up to the parameters.

    Each of Prefect's two UIs reads the parameters from the query, as quoted JSON. The classic one
    decodes what its router has decoded already, so there they are quoted twice.
    """

    classic: str
    v2: str

    def filled(self, parameters: Mapping[str, Any]) -> str:
        """Return the address of the classic form, filled in."""
        return self.classic + quote(quote(json.dumps(parameters), safe=""), safe="")

    def both_filled(self, parameters: Mapping[str, Any], wanted: str) -> dict[str, str]:
        """Return the addresses of both forms, filled in, each with a text for its link.

        `wanted` names what they start. Return none if they are longer than servers and proxies
        take.
        """
        name = f"Open the form for {wanted}"
        forms = {
            f"{name}, filled in": self.filled(parameters),
            f"{name} in Prefect's new UI, filled in": self.v2
            + quote(json.dumps(parameters), safe=""),
        }
        return {} if max(map(len, forms.values())) > _LONGEST else forms


def find_form(deployment: str) -> RunForm | None:
    """Return the form of a deployment, named FLOW/DEPLOYMENT.

    Return None if there is no such deployment, if the UI's address is not known, or if the API is
    away.
    """
    # The form is linked from pages in the bucket, which hold no password.
    address = without_user(PREFECT_UI_URL.value())
    if address is None:
        return None
    ui_url = address.rstrip("/").removesuffix(_V2)
    try:
        with get_client(sync_client=True) as client:
            found = client.read_deployment_by_name(deployment)
    except ObjectNotFound:
        return None
    except Exception as error:  # the link is an extra, and nothing waits for it
        log.warning("no link to the form of %s: %s", deployment, type(error).__name__)
        return None
    path = f"/deployments/deployment/{found.id}/run?parameters="
    return RunForm(f"{ui_url}{path}", f"{ui_url}{_V2}{path}")


def without_user(url: str | None) -> str | None:
    """Return a web address without its user, password and query; None if it is none.

    Without a UI, Prefect says that a run is at `None/flow-runs/…`.
    """
    try:
        parts = urlsplit(url or "")
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"}:
        return None
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
