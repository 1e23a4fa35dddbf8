"""The harnesses of the drivers that come with asynctasq, one file each, found by NAME in `--asynctasq-driver=NAME`."""
