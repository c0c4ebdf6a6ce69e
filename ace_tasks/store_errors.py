"""The translation of boto3's exceptions into ours: about one object, or about all of them."""

from __future__ import annotations

from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)

from ace_tasks.errors import (
    AceError,
    BucketMissing,
    CredentialsError,
    Forbidden,
    NotFound,
    PreconditionFailed,
    StoreUnavailable,
)

CREDENTIAL_CODES = {
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
_PASSING = {408, 409, 429}  # timeout, a race of two writers, too many requests
_CREDENTIAL_ERRORS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    ProfileNotFound,
    TokenRetrievalError,
)


def translate(error: Exception, uri: str) -> AceError:
    """Return our exception for one of botocore's. Its message quotes no headers or credentials."""
    if isinstance(error, _CREDENTIAL_ERRORS):
        return CredentialsError(f"{uri}: no usable AWS credentials ({type(error).__name__})")
    if isinstance(error, ParamValidationError):
        return NotFound(uri, "no valid S3 address")
    if not isinstance(error, ClientError):
        return StoreUnavailable(uri, f"{type(error).__name__} after retries")
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = status_of(error)
    if code in CREDENTIAL_CODES:
        return CredentialsError(f"{uri}: the store refuses our credentials ({code})")
    if code == "NoSuchBucket":
        return BucketMissing(uri, f"bucket {uri.split('/')[2]!r} does not exist")
    if code == "BucketAlreadyExists":
        return Forbidden(uri, "the bucket is somebody else's")
    if code in {"NoSuchKey", "404", "NotFound"} or status == 404:
        return NotFound(uri, "no such object")
    if status == 412:
        return PreconditionFailed(uri, "the object is not the expected one (HTTP 412)")
    if status == 403:
        return Forbidden(uri, "access denied (HTTP 403)")
    if 400 <= status < 500 and status not in _PASSING:
        # The answer to a HEAD with an expired token is a bare 400.
        return Forbidden(uri, f"refused (HTTP {status} {code}): a bad name or stale credentials?")
    if status == 501:  # it will not know the request in three minutes either
        return Forbidden(uri, f"the store does not know this request (HTTP 501 {code})")
    return StoreUnavailable(uri, f"HTTP {status} {code}".rstrip())


def status_of(error: ClientError) -> int:
    """Return the HTTP status of an answer; 0 if it had none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
