"""Weights as they lie in safetensors files: which files, which tensors, under which names, scaled or not, alive or not."""
