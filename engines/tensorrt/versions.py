"""What differs between the versions of TensorRT's Python API, in one table.

Names were read from NVIDIA's own bindings (8.6.0, 10.3.0, 10.15.1 and 11.0.0), the rest from the release notes and the
guides to migration. Nothing here imports tensorrt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...core.errors import EngineError
from ..options import Compute

Version = tuple[int, int]

OLDEST: Version = (8, 6)
NEWEST_KNOWN: Version = (11, 5)
"""The newest release whose notes were read; newer ones are tried, and the report says that they are unknown."""


@dataclass(frozen=True)
class Features:
    """What one range of versions can do.

    since: the first of them. network_flag: the member of NetworkDefinitionCreationFlag that a network is created with, ""
    for none. strongly_typed: the graph alone decides about precision; otherwise layers are told. build_flags: members of
    BuilderFlag by what products calculate in; a type that is not there cannot be asked for. weight_streaming: weights may
    stay in host memory. shared_memory: a context may be given the memory that it runs in. stripped_plans: a plan may be built
    without weights and filled from the graph when it is opened. node_names: parser errors tell the node's name.
    compute_capability: of the oldest cards.
    """

    since: Version
    network_flag: str
    strongly_typed: bool
    build_flags: dict[Compute, tuple[str, ...]]
    weight_streaming: bool
    shared_memory: bool
    stripped_plans: bool
    node_names: bool
    compute_capability: Version


_WEAK: dict[Compute, tuple[str, ...]] = {
    "float32": ("OBEY_PRECISION_CONSTRAINTS",),
    "float16": ("OBEY_PRECISION_CONSTRAINTS", "FP16"),
}
_STRONG: dict[Compute, tuple[str, ...]] = {"float32": (), "float16": (), "bfloat16": ()}

FEATURES = (
    Features((8, 6), "EXPLICIT_BATCH", False, _WEAK, False, False, False, False, (5, 0)),
    Features((10, 0), "STRONGLY_TYPED", True, _STRONG, False, False, False, True, (7, 0)),
    # Weight streaming as it is used here (weight_streaming_budget_v2) came with 10.1; 10.0 had another. So did the call that
    # says how much memory a context is given.
    Features((10, 1), "STRONGLY_TYPED", True, _STRONG, True, True, True, True, (7, 0)),
    Features((10, 5), "STRONGLY_TYPED", True, _STRONG, True, True, True, True, (7, 5)),
    # Every network is strongly typed; the flag is still there, and deprecated.
    Features((11, 0), "", True, _STRONG, True, True, True, True, (7, 5)),
)


def parse_version(text: str) -> Version:
    """Return (major, minor) of a version such as `10.3.0` or `10.15.1.29`.

    Raises EngineError where the text does not begin with two numbers.
    """
    match = re.match(r"(\d+)\.(\d+)", text)
    if match is None:
        raise EngineError(f"the installed tensorrt tells no version that can be read: {text[:50]!r}")
    return int(match[1]), int(match[2])


def features_of(version: Version) -> Features:
    """Return what a version can do; one newer than NEWEST_KNOWN counts as the newest.

    Raises EngineError for versions that cannot be used, with the command that installs another.
    """
    if version < OLDEST or version[0] == 9:
        raise EngineError(
            f"TensorRT {version[0]}.{version[1]} cannot be used, 8.6 and 10.0 or newer can: "
            'pip install --upgrade "edgereel[tensorrt]"'
        )
    return next(features for features in reversed(FEATURES) if version >= features.since)


def supports_card(features: Features, compute_capability: str) -> bool:
    """Whether a card such as `8.9` is new enough; one that does not tell (Jetson boards may not) is taken to be."""
    match = re.fullmatch(r"(\d+)\.(\d+)", compute_capability)
    return match is None or (int(match[1]), int(match[2])) >= features.compute_capability
