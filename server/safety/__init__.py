"""What every request passes before anything is done for it."""
