"""The user's models: bundles that are found by name, and the archives that they travel in."""
