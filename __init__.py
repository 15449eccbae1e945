"""Run text-to-video diffusion models offline, from a portable bundle, with no torch installed.

import edgereel
with edgereel.load() as reel:  # no path: the built-in demo
    reel.generate("a red ball bounces over the ocean", seed=7).save("ball.mp4")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# By the full name: pytest imports this file as a module without a package where the clone has another name.
from edgereel.core.offline import switch_reports_off
from edgereel.core.version import __version__

if TYPE_CHECKING:
    from .core.errors import EdgereelError as EdgereelError
    from .runtime.clip import Video as Video
    from .runtime.latents_file import read_video as read_video
    from .runtime.latents_file import write_latents as write_latents
    from .runtime.reel import Reel as Reel
    from .runtime.reel import load as load
    from .runtime.streaming import Stream as Stream

switch_reports_off()

__all__ = ["EdgereelError", "Reel", "Stream", "Video", "__version__", "load", "read_video", "write_latents"]

_PLACES = {
    "EdgereelError": ".core.errors",
    "Reel": ".runtime.reel",
    "Stream": ".runtime.streaming",
    "Video": ".runtime.clip",
    "load": ".runtime.reel",
    "read_video": ".runtime.latents_file",
    "write_latents": ".runtime.latents_file",
}


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used, so that `import edgereel` is instant."""
    if name in _PLACES:
        from importlib import import_module

        return getattr(import_module(_PLACES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
