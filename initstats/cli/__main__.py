"""`python -m initstats.cli`."""

from initstats.cli.app import main

if __name__ == "__main__":
    main()
