"""Tasks that do real I/O through one library, in a FakeQueue on the test's own loop."""
