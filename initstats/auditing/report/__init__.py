"""The report of an audit: values, text, page, comparison."""
