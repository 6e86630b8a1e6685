"""A report as HTML, CSV, JSON, PDF and mail, each drawn from the `result` of its job."""
