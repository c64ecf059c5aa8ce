"""`python -m initstats`: the command line."""

from initstats.cli.application import main

if __name__ == "__main__":
    main()
