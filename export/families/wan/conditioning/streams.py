"""How published denoisers that were trained chunk by chunk follow one another's chunks: data, with where it was read.

The weights are Wan's own tensors, so that a file does not say that it is one of these; `stream` in edgereel.json or
`--stream` does. Windows count the frames before a chunk, where the sources count the chunk too. Where nothing is kept for
ever, positions that are counted anew in every call give the same numbers as places in the clip, and never run out.
"""

from __future__ import annotations

from .....bundle.manifest import Stream

SELF_FORCING = Stream(chunk=3, window=18, positions="window")
"""Self-Forcing, configs/self_forcing_dmd.yaml (num_frame_per_block 3) and pipeline/causal_inference.py (a cache of 21
frames, context_noise 0); Causal-Forcing alike."""

CAUSVID = Stream(chunk=3, window=18, positions="window")
"""CausVid, configs/wan_causal_dmd.yaml (num_frame_per_block 3) and pipeline/causal_inference.py."""

LONGLIVE = Stream(chunk=3, window=9, sink=3, positions="clip")
"""LongLive, configs/longlive_inference.yaml: local_attn_size 12, sink_size 3, places in the clip."""

PUBLISHED_STREAMS = {"self-forcing": SELF_FORCING, "causvid": CAUSVID, "longlive": LONGLIVE}
