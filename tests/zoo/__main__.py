"""Print both zoos with what the audit finds: `PYTHONPATH=tests python -m zoo`."""

from zoo.table import main

main()
