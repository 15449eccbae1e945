"""What this machine has, what is missing, and the command that brings it."""
