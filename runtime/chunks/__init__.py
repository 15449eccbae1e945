"""Clips made chunk by chunk: what is remembered of the frames before, and the loop that samples in sight of it."""
