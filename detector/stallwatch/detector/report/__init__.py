"""The verdict on a training log, and the ways to show it: text, JSON, a picture."""
