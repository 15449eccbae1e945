"""Low-rank adapters, fused into the weights at export."""
