"""From a story to a film: planned, sampled scene by scene, shown, written."""
