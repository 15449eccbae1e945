"""The reel bundle: its manifest, reading it, writing it, and the sizes that its model can do."""
