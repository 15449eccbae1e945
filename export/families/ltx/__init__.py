"""The LTX-Video family."""
