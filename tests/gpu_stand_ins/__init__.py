"""Stand-ins for CUDA's libraries, and tests of the `cuda` engine on them: `make test-gpu-stand-ins`."""
