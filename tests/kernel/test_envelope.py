"""The envelope's defaults are what a minimal dispatch says."""

from asynctasq.kernel.envelope import Envelope
from asynctasq.kernel.retry import Fixed


def test_a_minimal_envelope_has_no_limit_no_result_and_three_crashes() -> None:
    envelope = Envelope(task="m:T", arguments=b"", max_attempts=3, retry=Fixed(delay_s=60), dispatched_at=1.0)

    assert (envelope.timeout_s, envelope.keep_result_s, envelope.max_crashes) == (None, None, 3)
    assert dict(envelope.headers) == {}
