"""Where an attempt's code runs: event loop, thread or child process; import `lanes` and the messages of `child`."""
