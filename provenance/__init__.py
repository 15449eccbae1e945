"""Saying what a clip is."""
