"""Rewriting a graph for TensorRT, TensorRT-RTX and ONNX Runtime's CUDA provider."""
