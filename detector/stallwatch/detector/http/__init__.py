"""What is read from the service: the JSON API, the page, metrics and probes."""
