"""``python -m rsembed``: the command line."""

from rsembed.cli.main import main

if __name__ == "__main__":
    main()
