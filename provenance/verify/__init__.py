"""Looking for marks in a file from anywhere: what it says of itself, its signature, its watermark."""
