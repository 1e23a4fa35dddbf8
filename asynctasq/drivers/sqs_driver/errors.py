"""How what botocore raises becomes a `DriverError`, once, without a secret in any text."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from aiohttp import ClientError as HttpError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    InvalidRegionError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.parsers import ResponseParserError

from asynctasq.errors import DriverError, DriverMisconfigured, DriverUnavailable

__all__ = ["QueueGone", "Refused", "mapped_errors"]

QUEUE_GONE = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})
RETRYABLE = frozenset({
    "AWS.SimpleQueueService.QueueDeletedRecently",
    "ExpiredToken",
    "ExpiredTokenException",
    "InternalError",
    "InternalFailure",
    "KmsThrottled",
    "KMS.ThrottlingException",
    "OverLimit",
    "QueueDeletedRecently",
    "RequestExpired",
    "RequestThrottled",
    "RequestTimeTooSkewed",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
})  # fmt: skip
REFUSED_ENTRY = frozenset(
    {"InvalidParameterValue", "BatchRequestTooLong", "AWS.SimpleQueueService.BatchRequestTooLong"}
)
SIGNATURE_ERRORS = frozenset({"SignatureDoesNotMatch", "IncompleteSignature", "InvalidSignatureException"})


class QueueGone(Exception):
    """SQS has no queue at this address."""


class Refused(DriverMisconfigured):
    """SQS refused the parameters of a whole call; entry by entry some may pass."""


def _read(error: ClientError) -> tuple[str, int, str]:
    """Return SQS's name of the error, the HTTP status and what SQS says about it."""
    response = cast("dict[str, dict[str, Any]]", error.response)  # pyright: ignore[reportUnknownMemberType] - untyped
    said = response.get("Error", {})
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(said.get("Code", "")).rsplit("#", 1)[-1], int(status), str(said.get("Message", ""))


@contextmanager
def mapped_errors(where: str, action: str) -> Generator[None, None, None]:
    """Turn what the client library raises into our errors; `where` is the server, without secrets."""
    try:
        yield
    except ClientError as error:
        raise _from_reply(error, where, action) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise DriverMisconfigured(
            f"{where}: no complete AWS credentials were found for {action}; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, a profile, or give the machine a role"
        ) from error
    except NoRegionError as error:
        raise DriverMisconfigured(
            f"{where}: no AWS region is set; use sqs://REGION, AWS_DEFAULT_REGION or a profile's region"
        ) from error
    except (ProfileNotFound, InvalidRegionError, ParamValidationError) as error:
        raise DriverMisconfigured(f"{where}: {error}") from error
    except (BotoCoreError, ResponseParserError, HttpError, OSError, ValueError) as error:
        raise DriverUnavailable(
            f"{where} did not answer {action} ({type(error).__name__}); check the network, the region and "
            "endpoint_url, or try again"
        ) from error


def _from_reply(error: ClientError, where: str, action: str) -> Exception:
    code, status, message = _read(error)
    said = "" if code in SIGNATURE_ERRORS else f": {message}"
    text = f"{where} refused {action} with {code or status}{said}"
    if code in QUEUE_GONE:
        return QueueGone(text)
    if code in REFUSED_ENTRY:
        return Refused(text)
    if status == 429 or status >= 500 or code in RETRYABLE:
        return DriverUnavailable(f"{text}; try again later")
    if status == 403 or code in SIGNATURE_ERRORS:
        return DriverMisconfigured(f"{text}; check the credentials and what their policy allows on this queue")
    if 400 <= status < 500:
        return DriverMisconfigured(text)
    return DriverError(text)
