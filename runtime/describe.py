"""A bundle in words, for people."""

from __future__ import annotations

from ..errors import one_line
from .bundle import Bundle


def describe(bundle: Bundle) -> str:
    """Return what a bundle holds as lines of text: model, sizes, recipes, LoRAs, precision, parity, quality."""
    manifest = bundle.manifest
    latent, defaults = manifest.latent, manifest.defaults
    megabytes = {name: record.size / 1e6 for name, record in manifest.files.items()}
    lines = [
        f"{manifest.name}  ({bundle.folder})",
        f"licence      {manifest.license}",
        f"origin       {manifest.origin}",
        f"digest       {manifest.digest}",
        f"precision    calculates in {manifest.precision.compute}, weights stored as {manifest.precision.weights}",
        f"video        {defaults.width}x{defaults.height}, {defaults.frames} frames, {defaults.fps} fps by default",
        f"latents      {latent.channels} channels, 1/{latent.spatial_scale} in height and width, 1/{latent.temporal_scale} in time",
        f"prompts      up to {manifest.text.max_tokens} tokens",
    ]
    for index, recipe in enumerate(manifest.recipes):
        default = " (default)" if index == 0 else ""
        lines.append(
            f"recipe       {recipe.name}{default}: {recipe.sampler}, {recipe.steps} steps, shift {recipe.shift:g}, "
            f"guidance {recipe.guidance:g}"
        )
    for lora in manifest.loras:
        lines.append(f"LoRA         {lora.name} at scale {lora.scale:g}, fused into {lora.denoiser}")
    for name, graph in manifest.roles.graphs().items():
        parity = manifest.parity.get(name)
        proof = f", differs from torch by {parity.relative:.1e} (limit {parity.limit:.0e})" if parity else ""
        lines.append(f"graph        {name}: weights {megabytes[graph.data]:.1f} MB in {graph.data}{proof}")
    for name, value in manifest.quality.items():
        lines.append(f"quality      {name}: {value}")
    lines.append(f"size         {sum(megabytes.values()):.1f} MB in {len(megabytes)} files")
    return "\n".join(one_line(line) for line in lines)
