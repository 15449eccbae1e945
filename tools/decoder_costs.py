"""`python -m edgereel.tools.decoder_costs`: what the full Wan 2.1 decoder and the tiny one take for a clip, counted.

Both are written with random weights in their published shapes, exported, and counted from their graphs as the cpu engine
lowers them: nothing is run. Prints a table for docs/performance.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..bundle.geometry import latent_shape
from ..bundle.manifest import LatentGeometry, TensorSpec
from ..core.interrupts import temporary_folder
from ..engines import EngineOptions, get_engine
from ..engines.costs import CPU_ACTIVATION_MARGIN, GraphCosts, graph_costs
from ..engines.graphs.extents import parse_extent
from ..export.checkpoint import Component
from ..export.families.base import GraphSource, ModelPart
from ..export.families.wan.parts import DecoderPart
from ..export.families.wan.tiny.layout import TinyShape
from ..export.families.wan.tiny.modules import TinyDecoder
from ..export.families.wan.tiny.part import TinyDecoderPart
from ..export.graphs import DataFile, save_graph
from ..export.layout import read_json
from ..export.request import TinyDecoderFile
from .step_bench.random_wan import VAE

GEOMETRY = LatentGeometry(channels=16, temporal_scale=4, spatial_scale=8, patch=[1, 2, 2])
TAEW2_1 = TinyShape(16, (256, 128, 64, 64), (1, 2, 2), 1)
STATE = "state_"


def main() -> None:
    """Read the arguments, export, count, print."""
    parser = argparse.ArgumentParser(prog="python -m edgereel.tools.decoder_costs", description=__doc__)
    parser.add_argument("--size", default="832x480", metavar="WxH")
    parser.add_argument("--frames", type=int, default=81)
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    latents = latent_shape(GEOMETRY, width, height, arguments.frames)
    print(f"{width}x{height}, {arguments.frames} pictures, float32, as the cpu engine runs them\n")
    print("| decoder | parameters | TFLOP | bytes moved | state | most alive in a call | planned on a processor |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    with temporary_folder("edgereel-costs-") as folder:
        for name, part in (("full (Wan 2.1)", full_decoder(folder)), ("tiny (taew2_1)", tiny_decoder(folder))):
            print(row(name, *counted(part, folder, latents)), flush=True)


def full_decoder(folder: Path) -> ModelPart:
    """Return Wan 2.1's decoder, random weights in bfloat16."""
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    AutoencoderKLWan(**VAE).to(torch.bfloat16).save_pretrained(folder / "vae")
    return DecoderPart("decoder", Component(folder / "vae", read_json(folder / "vae" / "config.json")))


def tiny_decoder(folder: Path) -> ModelPart:
    """Return taew2_1, random weights in bfloat16."""
    path = folder / "taew2_1.safetensors"
    save_file({name: value.to(torch.bfloat16) for name, value in TinyDecoder(TAEW2_1).state_dict().items()}, path)
    return TinyDecoderPart(TinyDecoderFile(path), GEOMETRY, None, [])


def counted(part: ModelPart, folder: Path, latents: tuple[int, ...]) -> tuple[list[GraphCosts], int, int]:
    """Return what one run of the first and of a later graph costs, the bytes of the state, and the number of later runs."""
    sources = part.graphs(part.load(), torch.float32)
    costs = []
    with DataFile(folder / f"{part.name}.data") as data:
        for source in sources:
            save_graph(source, folder, data)
            model = get_engine("cpu").graph_to_run(folder / f"{source.name}.onnx", EngineOptions(keep=False))
            costs.append(graph_costs(model, shapes_of(source.inputs, latents), keep=False))
    return costs, state_bytes(sources[-1], latents), latents[2] - 1


def shapes_of(specs: dict[str, TensorSpec], latents: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each input for latents of a shape."""
    sizes = {"batch": 1, "height": latents[3], "width": latents[4]}

    def size(extent: int | str) -> int:
        if isinstance(extent, int):
            return extent
        parsed = parse_extent(extent)
        assert parsed is not None
        return parsed.of(sizes[parsed.name])

    return {name: tuple(map(size, spec.shape)) for name, spec in specs.items()}


def state_bytes(source: GraphSource, latents: tuple[int, ...]) -> int:
    """Return the bytes of what is handed on from call to call."""
    shapes = shapes_of(source.inputs, latents)
    return 4 * sum(torch.Size(shape).numel() for name, shape in shapes.items() if name.startswith(STATE))


def row(name: str, costs: list[GraphCosts], state: int, later: int) -> str:
    """Return a line of the table."""
    first, following = costs

    def clip(key: str) -> int:
        return int(getattr(first, key) + later * getattr(following, key))

    planned = sum(each.weight_bytes + CPU_ACTIVATION_MARGIN * each.activation_bytes for each in costs)
    cells: Iterable[Any] = (
        name,
        f"{following.weight_bytes / 4e6:.1f} M",
        f"{clip('flops') / 1e12:.1f}",
        f"{clip('bytes_moved') / 1e9:.0f} GB",
        f"{state / 2**20:.0f} MiB",
        f"{max(each.activation_bytes for each in costs) / 2**30:.2f} GiB",
        f"{planned / 2**30:.2f} GiB",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
