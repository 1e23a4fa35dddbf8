"""The check at the end of a test run finds what the run left behind."""

import subprocess

from tests.leftovers import left_behind


def test_a_process_that_goes_on_is_named() -> None:
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        assert f"{process.pid} sleep 600" in left_behind(0)
    finally:
        process.kill()
        process.wait()

    assert f"{process.pid} sleep 600" not in left_behind(0)
