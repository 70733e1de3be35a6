"""``python -m promptwise`` is the command line."""

from promptwise.cli.main import main

if __name__ == "__main__":
    main()
