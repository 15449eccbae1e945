"""What everything stands on: errors, paths, the machine, interrupts, progress."""
