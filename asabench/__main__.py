"""`python -m asabench` is the command `asabench`."""

from asabench.cli.app import main

if __name__ == "__main__":
    main()
