"""What a package like ours says in its metadata that it needs."""

from __future__ import annotations

from edgereel.doctor.packages import parse_requirements

REQUIREMENTS = parse_requirements(
    [
        "numpy>=1.26",
        "av>=12",
        'onnxruntime>=1.23; extra == "cpu"',
        'onnxruntime-gpu>=1.23; extra == "gpu"',
        'torch>=2.9; extra == "export"',
        'onnxruntime>=1.23; extra == "export"',
        'matplotlib>=3.9; extra == "bench"',
        'edgereel[cpu,export,bench]; extra == "dev"',
        "pytest>=8 ; extra == 'dev'",
    ]
)
