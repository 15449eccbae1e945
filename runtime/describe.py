"""A bundle in words, for people."""

from __future__ import annotations

from ..bundle.manifest import Denoiser, Manifest, Quantization, Recipe
from ..bundle.reader import Bundle
from ..bundle.words import describe_guidance, describe_rule, describe_second
from ..core.errors import one_line
from .sampling.recipes import schedule_of

_FEW_STEPS = 8  # noise levels of more steps than these say nothing at a glance


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
        f"precision    {_precision(manifest, sum(megabytes.values()))}",
        f"video        {defaults.width}x{defaults.height}, {defaults.frames} frames, {defaults.fps} fps by default",
        f"latents      {latent.channels} channels, 1/{latent.spatial_scale} in height and width, 1/{latent.temporal_scale} in time",
        f"prompts      up to {manifest.text.max_tokens} tokens",
        *_ways_to_begin(manifest),
    ]
    for format, (width, height) in defaults.formats.items():
        lines.append(f"format       {format}: {width}x{height}")
    if len(decoders := manifest.roles.decoders_by_name) > 1:
        named = (f"{name} (default)" if name == manifest.decoder_name() else name for name in decoders)
        lines.append(f"decoders     {', '.join(named)}")
    for index, recipe in enumerate(manifest.recipes):
        default = " (default)" if index == 0 else ""
        lines += _recipe_lines(recipe, default)
    for lora in manifest.loras:
        lines.append(f"LoRA         {lora.name} at scale {lora.scale:g}, fused into {lora.denoiser}")
        if lora.strength:
            lines.append(f"             {lora.strength}")
        if lora.left_out:
            lines.append(f"             {lora.left_out} of its tensors left out, they do not fit the model")
    split = len(manifest.roles.denoiser) > 1
    for name, graph in manifest.roles.graphs().items():
        parity = manifest.parity.get(name)
        before = "" if graph.quantization is None else " before it was quantized"
        proof = f", differs from torch by {parity.relative:.1e} (limit {parity.limit:.0e}){before}" if parity else ""
        part = f", sigma {graph.sigma_low:g} to {graph.sigma_high:g}" if isinstance(graph, Denoiser) and split else ""
        lines.append(f"graph        {name}{part}: weights {megabytes[graph.data]:.1f} MB in {graph.data}{proof}")
        if graph.quantization is not None:
            lines += _quantization_lines(graph.quantization)
        if name == "text_encoder" and manifest.text.embedding_table is not None:
            table = manifest.text.embedding_table
            lines.append(
                f"  table      {table.rows} tokens in {table.file}, {megabytes[table.file]:.1f} MB, not in the graph"
            )
    for name, value in manifest.quality.items():
        lines.append(f"quality      {name}: {_in_words(value)}")
    if manifest.quantized_from is not None:
        lines.append(f"made from    {manifest.quantized_from}")
    lines.append(f"size         {sum(megabytes.values()):.1f} MB in {len(megabytes)} files")
    return "\n".join(one_line(line) for line in lines)


def _ways_to_begin(manifest: Manifest) -> list[str]:
    """Return how clips begin with pictures and go on, nothing where they only begin with a prompt."""
    lines = []
    if manifest.held is not None:
        pictures = 1 + (manifest.held.frames - 1) * manifest.latent.temporal_scale
        lines.append(f"pictures     the first, if given; goes on from the last {pictures} of a clip")
    if manifest.condition is not None:
        told = {"required": "needed", "optional": "if given"}
        wanted = {"first": manifest.condition.first, "last": manifest.condition.last}
        taken = [f"the {name}, {told[want]}" for name, want in wanted.items() if want in told]
        lines.append(f"pictures     {'; '.join(taken)}")
    stream = manifest.stream
    if stream is not None:
        if manifest.roles.encoder_first is not None and manifest.held is None:
            lines.append("pictures     the first, if given")
        lines.append(
            f"stream       chunks of {stream.chunk} latent frames, the first of {stream.first}; "
            f"remembers {stream.window}, {stream.sink} of them for ever"
        )
    return lines


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        parts = {
            key: f"({_in_words(part)})" if isinstance(part, dict) else _in_words(part) for key, part in value.items()
        }
        return ", ".join(f"{key} {part}" for key, part in parts.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _precision(manifest: Manifest, megabytes: float) -> str:
    """Return precision with what it saves and costs beside it: the size of all files, the quality of clips."""
    text = f"calculates in {manifest.precision.compute}, weights stored as {manifest.precision.weights}"
    if manifest.quantized_from is None:
        return text
    to_source = manifest.quality.get("to_source")
    decibels = to_source.get("psnr_db") if isinstance(to_source, dict) else None
    quality = f"clips at {decibels:.1f} dB to the original's" if isinstance(decibels, float) else "quality not measured"
    return f"{text}: {megabytes:.1f} MB, {quality}"


def _quantization_lines(quantization: Quantization) -> list[str]:
    linears = ", ".join(f"{count} {kind}" for kind, count in quantization.linears.items())
    balanced = f", {quantization.balanced} balanced" if quantization.balanced else ""
    lines = [f"  linears    {linears}; activations {quantization.activations}{balanced}"]
    if quantization.kept:
        lines.append(f"  kept       {' '.join(quantization.kept)}")
    return lines


def _recipe_lines(recipe: Recipe, default: str) -> list[str]:
    guidance = f"guidance {describe_guidance(recipe)}"
    boundary = "" if recipe.boundary is None else f", denoisers change at sigma {recipe.boundary:g}"
    steps = f"{recipe.steps} step{'s' * (recipe.steps > 1)}"
    lines = [
        f"recipe       {recipe.name}{default}: {recipe.sampler}, {steps}, {describe_rule(recipe)}, {guidance}{boundary}"
    ]
    if recipe.is_fixed or recipe.steps <= _FEW_STEPS:
        schedule = schedule_of(recipe)
        lines.append(f"  sigmas     {' '.join(f'{sigma:.5g}' for sigma in schedule.sigmas)}")
        lines.append(f"  timesteps  {' '.join(f'{timestep:.6g}' for timestep in schedule.timesteps)}")
    if recipe.second is not None:
        lines.append(f"  in stages  {describe_second(recipe)}")
    if recipe.source:
        lines.append(f"  source     {recipe.source}")
    return lines
