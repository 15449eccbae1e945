"""What NVIDIA's compilers made of a graph: read from a plan's own text, or from an engine inspector's answer."""
