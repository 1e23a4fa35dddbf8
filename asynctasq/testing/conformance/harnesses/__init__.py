"""The harnesses of the drivers that come with asynctasq, one file each, found by the NAME of `--driver=NAME`."""
