"""Screening: prompts are checked against a file that its owner edits, before anything runs."""
