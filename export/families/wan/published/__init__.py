"""What Wan's published checkpoints are like: their layouts and settings, their experts, what is recommended for each."""
