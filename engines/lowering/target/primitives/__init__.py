"""Operators of newer opsets written out in those of older ones, one module for each."""
