"""What an ONNX graph is: its values, their extents, its parts and segments. Needs onnx."""
