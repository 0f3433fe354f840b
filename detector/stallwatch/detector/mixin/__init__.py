"""Rules for Prometheus as code, made from the vocabulary of findings and the catalogue of metrics."""
