"""Measuring how good a clip is."""
