"""From a bundle's canonical graph to one that a device runs, and runs fast."""
