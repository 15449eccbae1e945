"""What is laid over and beside pictures."""
