"""``python -m glacierhpc``: the command line, where the installed script is not on the path."""

from glacierhpc.cli import main

if __name__ == "__main__":
    main()
