"""NVIDIA's TensorRT through its Python API; `import tensorrt` in these modules is NVIDIA's package."""

from .engine import TensorRt

__all__ = ["TensorRt"]
