"""Peers: other programs that make the same clip, each with what starts it and what runs in its process.

`find_peers` has them by name. A peer's libraries are imported by its own process alone.
"""
