"""The invisible watermark: 64 bits in the brightness of every frame, which survive what strips metadata."""
