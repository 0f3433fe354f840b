"""What is read of a step on the training thread."""
