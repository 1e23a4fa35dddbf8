"""Where an attempt's code runs: event loop, thread or child process; `Lanes` of `lanes` is what the worker uses."""
