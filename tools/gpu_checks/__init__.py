"""What `tools/gpu_check.py` runs: graphs of Wan's widths with seeded weights, and the checks themselves."""
