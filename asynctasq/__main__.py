"""`python -m asynctasq` is the `asynctasq` command."""

from asynctasq.cli import main

if __name__ == "__main__":
    main()
