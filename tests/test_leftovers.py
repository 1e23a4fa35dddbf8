"""The check at the end of a test run finds what the run left behind."""

import subprocess

from tests.leftovers import left_behind


def test_a_process_that_goes_on_is_named() -> None:
    # Popen returns while the program is still being loaded, and until it runs it has no command line to be named by.
    script = "echo runs; read _"
    with subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"runs\n"
        assert f"{process.pid} sh -c {script}" in left_behind(0)

    assert f"{process.pid} sh -c {script}" not in left_behind(0)
