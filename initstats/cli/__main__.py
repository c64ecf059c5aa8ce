"""`python -m initstats.cli`."""

from initstats.cli.application import main

if __name__ == "__main__":
    main()
