"""The engine made of OpenVINO."""
