"""Alerts over findings: when one begins and ends, who is told, and what is kept quiet."""
