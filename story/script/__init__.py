"""What a story file says, where it comes from, and what can be wrong in it."""
