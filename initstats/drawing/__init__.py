"""Charts and page elements that several reports share."""
