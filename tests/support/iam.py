"""The policies of `infra/iam`, held against every call of an identity as AWS holds them.

SeaweedFS knows no actions as fine as IAM's. So a client's calls are looked at before they are sent:
one that no statement allows is answered with 403, as S3 does, and never reaches the store.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import boto3
from botocore.awsrequest import AWSResponse

from infra.services import ROOT

_ACTIONS = {
    "HeadObject": "s3:GetObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "ListObjectsV2": "s3:ListBucket",
    "ListObjectVersions": "s3:ListBucketVersions",
}
_OF_A_VERSION = {"s3:GetObject", "s3:DeleteObject"}


@dataclass
class Policy:
    """One identity's policy, on the tests' buckets. `used`: the actions that were allowed."""

    statements: list[dict[str, Any]]
    without: str = ""
    used: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, name: str, buckets: dict[str, str], without: str = "") -> Policy:
        """Read `infra/iam/<name>.json`, its example names replaced by the tests'."""
        text = (ROOT / "infra/iam" / f"{name}.json").read_text()
        for theirs, ours in buckets.items():
            text = text.replace(theirs, ours)
        return cls(json.loads(text)["Statement"], without)

    @property
    def actions(self) -> set[str]:
        return {action for each in self.statements for action in each["Action"]}

    def allows(self, action: str, resource: str, prefix: str) -> bool:
        allowed = action != self.without and any(
            action in each["Action"]
            and any(fnmatch.fnmatchcase(resource, pattern) for pattern in each["Resource"])
            and _holds(each.get("Condition", {}), prefix)
            for each in self.statements
        )
        (self.used if allowed else self.refused).add(action)
        return allowed

    def answer(self, params: dict[str, Any], model: Any, context: Any, **_: Any) -> Any:
        """Answer botocore's event `before-call`. None sends the request."""
        given = context["given"]
        action = _ACTIONS.get(model.name, f"s3:{model.name}")
        if given.get("VersionId") and action in _OF_A_VERSION:
            action += "Version"
        bucket, key = given["Bucket"], given.get("Key")
        resource = f"arn:aws:s3:::{bucket}" + (f"/{key}" if key else "")
        if self.allows(action, resource, given.get("Prefix", "")):
            return None
        body = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
        return AWSResponse(params["url"], 403, {}, None), body


def _holds(condition: dict[str, Any], prefix: str) -> bool:
    patterns = condition.get("StringLike", {}).get("s3:prefix")
    return patterns is None or any(fnmatch.fnmatchcase(prefix, each) for each in patterns)


def _keep(params: dict[str, Any], context: Any, **_: Any) -> None:
    context["given"] = dict(params)


@contextmanager
def holding(policies: dict[str, Policy]) -> Iterator[None]:
    """Have every client that is made meanwhile live by the policy of its profile, if it has one."""
    make = boto3.session.Session.client

    def client(session: Any, *arguments: Any, **options: Any) -> Any:
        made = make(session, *arguments, **options)
        if policy := policies.get(session.profile_name):
            made.meta.events.register("provide-client-params.s3", _keep)
            made.meta.events.register("before-call.s3", policy.answer)
        return made

    with mock.patch.object(boto3.session.Session, "client", client):
        yield
