"""The rules of the audit, one file per subject; `table` lists them."""
