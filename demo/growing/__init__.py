"""The second half of the demo's training: the small square model grows to three formats and to streams without end."""
