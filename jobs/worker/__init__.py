"""The worker process: it owns reels, one of them warm, and makes the videos that it is told to."""
