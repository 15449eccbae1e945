"""Measure, in one run and beside a named peer."""
