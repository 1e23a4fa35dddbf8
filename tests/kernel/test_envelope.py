"""The envelope's defaults are what a minimal dispatch says."""

import pytest

from asynctasq.kernel.envelope import HEADERS_CHARS_MAX, HEADERS_MAX, Envelope, check_headers
from asynctasq.kernel.retry import Fixed


def test_a_minimal_envelope_has_no_limit_no_result_and_three_crashes() -> None:
    envelope = Envelope(task="m:T", arguments=b"", max_attempts=3, retry=Fixed(delay_s=60), dispatched_at=1.0)

    assert (envelope.timeout_s, envelope.keep_result_s, envelope.max_crashes) == (None, None, 3)
    assert dict(envelope.headers) == {}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"": ""},
        {f"h{n}": "x" for n in range(HEADERS_MAX)},
        {"name": "x" * (HEADERS_CHARS_MAX - len("name"))},
    ],
)
def test_headers_within_the_limits_pass(headers: dict[object, object]) -> None:
    check_headers(headers)


@pytest.mark.parametrize(
    ("headers", "error", "says"),
    [
        ({"a": 1}, TypeError, "'a': int"),
        ({1: "a"}, TypeError, "1: str"),
        ({f"h{n}": "x" for n in range(HEADERS_MAX + 1)}, ValueError, "65 headers"),
        ({"name": "x" * (HEADERS_CHARS_MAX - len("name") + 1)}, ValueError, "16,385 characters"),
    ],
)
def test_other_headers_are_refused(headers: dict[object, object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        check_headers(headers)
