"""The engines made of ONNX Runtime: on a CPU, with CUDA, with TensorRT-RTX."""
