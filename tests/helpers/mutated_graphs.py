"""`python -m helpers.mutated_graphs FIRST COUNT`: mutations of the demo's graphs, by number, through all that reads a graph.

A line of JSON for each: its number, what was changed, and what each door said. A process of its own, since a library may end
it; its memory is bounded, since an extent may be anything.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import onnx
from conftest import DEMO_REEL

from edgereel.bundle.external_data import external_data_of
from edgereel.calibration.graph_file import GraphFile
from edgereel.core.errors import EdgereelError
from edgereel.engines import EngineOptions, Tensor, get_engine
from edgereel.engines.costs import graph_costs
from edgereel.engines.graphs.parts import part_inputs
from edgereel.engines.lowering.lower import lower_for_target, with_plain_weights
from edgereel.engines.lowering.summary import describe_lowering, graph_data_files
from edgereel.engines.lowering.targets import parse_target
from edgereel.engines.stopping import stop_when

GRAPHS = ("text_encoder", "decoder_first", "decoder_next", "denoiser")
DATA = {"text_encoder": "text_encoder.data", "denoiser": "denoiser.data"}
SIZES = {"batch": 1, "frames": 2, "height": 4, "width": 4, "tokens": 6}
MEMORY = 8 * 2**30
SECONDS = 20.0
NUMBERS = (-1, 0, 1, 7, 2**31, 2**40, 2**62)


def swap(chance, first, second, field):
    one, other = getattr(first, field), getattr(second, field)
    setattr(first, field, other)
    setattr(second, field, one)


def of_nodes(model, chance):
    nodes = model.graph.node
    node, other = chance.choice(nodes), chance.choice(nodes)
    kind = chance.randrange(9)
    if kind == 0:
        swap(chance, node, other, "op_type")
    elif kind == 1 and node.input:
        node.input.pop(chance.randrange(len(node.input)))
    elif kind == 2:
        del node.attribute[:]
    elif kind == 3:
        nodes.remove(node)
    elif kind == 4 and node.input and other.input:
        node.input[0] = other.input[0]
    elif kind == 5:
        node.output[0] = chance.choice(["", "x" * 5000, other.output[0], "latents"])
    elif kind == 6 and node.attribute:
        item = chance.choice(node.attribute)
        item.type = chance.choice(range(1, 12))
    elif kind == 7 and node.attribute:
        item = chance.choice(node.attribute)
        item.i, item.f = chance.choice(NUMBERS), chance.choice([float("nan"), 1e38, -1.0])
        item.ints.extend([chance.choice(NUMBERS)])
    else:
        node.op_type = chance.choice(["Loop", "If", "Sum", "", "\x1b[31m", "Pad", "Cast", "DequantizeLinear", "Gather"])
        node.domain = chance.choice(["", "com.microsoft", "mine"])
    return f"node {kind}"


def of_tensors(model, chance):
    tensor = chance.choice(model.graph.initializer)
    kind = chance.randrange(6)
    if kind == 0:
        tensor.data_type = chance.choice([0, 2, 6, 7, 8, 10, 11, 16, 17, 22, 99])
    elif kind == 1:
        tensor.dims.append(chance.choice(NUMBERS))
    elif kind == 2 and tensor.dims:
        tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice(NUMBERS)
    elif kind == 3:
        tensor.name = chance.choice(["", "latents", chance.choice(model.graph.initializer).name])
    elif kind == 4:
        tensor.raw_data = bytes(chance.randrange(64))
    else:
        for entry in tensor.external_data:
            if entry.key == chance.choice(["offset", "length", "location"]):
                entry.value = chance.choice(["", "-1", "99999999999", "../reel.json", "reel.json", "/etc/passwd"])
    return f"tensor {kind}"


def of_values(model, chance):
    value = chance.choice([*model.graph.input, *model.graph.output])
    kind = chance.randrange(6)
    shape = value.type.tensor_type.shape
    if kind == 0:
        value.type.tensor_type.elem_type = chance.choice([0, 2, 7, 8, 9, 10, 16, 99])
    elif kind == 1 and shape.dim:
        chance.choice(shape.dim).dim_param = chance.choice(["", "height*0", "tokens*999999999", "width*-1"])
    elif kind == 2 and shape.dim:
        chance.choice(shape.dim).dim_value = chance.choice(NUMBERS)
    elif kind == 3:
        value.name = chance.choice(["", "frames", "state_00"])
    elif kind == 4:
        value.type.tensor_type.ClearField("shape")
    else:
        value.type.sequence_type.elem_type.tensor_type.elem_type = 1
    return f"value {kind}"


def of_model(model, chance):
    kind = chance.randrange(5)
    if kind == 0:
        model.ir_version = chance.choice([0, 1, 99, 2**62])
    elif kind == 1:
        del model.opset_import[:]
    elif kind == 2:
        model.opset_import[0].version = chance.choice([0, 1, 6, 99, 2**62])
    elif kind == 3:
        model.opset_import[0].domain = chance.choice(["com.microsoft", "mine"])
    else:
        model.ClearField("graph")
    return f"model {kind}"


def mutated(number):
    """Return (graph, what was changed, the content) of a mutation."""
    chance = random.Random(number)
    name = GRAPHS[number % len(GRAPHS)]
    content = (DEMO_REEL / f"{name}.onnx").read_bytes()
    kind = chance.randrange(8)
    if kind == 0:
        return name, "cut off", content[: chance.randrange(len(content))]
    if kind == 1:
        changed = bytearray(content)
        for _ in range(chance.choice([1, 3, 20])):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        return name, "bytes", bytes(changed)
    if kind == 2:  # a name that is not UTF-8
        at = content.index(b"val_", chance.randrange(len(content) // 2))
        return name, "not UTF-8", content[:at] + b"\x80" + content[at + 1 :]
    model = onnx.ModelProto.FromString(content)
    ways = (of_nodes, of_nodes, of_tensors, of_values, of_model)
    done = [chance.choice(ways)(model, chance) for _ in range(chance.choice([1, 1, 2]))]
    return name, ", ".join(done), model.SerializeToString()


def feeds_of(session):
    kinds = {"float32": np.float32, "int64": np.int64, "float16": np.float16}
    feeds = {}
    for name, info in session.specs.inputs.items():
        shape = [
            extent if isinstance(extent, int) else SIZES.get(str(extent).split("*")[0], 1) for extent in info.shape
        ]
        feeds[name] = Tensor.from_numpy(
            np.ones([min(abs(extent), 64) for extent in shape], kinds.get(info.dtype, np.float32))
        )
    return feeds


def run(path, **options):
    ends = time.monotonic() + SECONDS
    with get_engine("cpu").open(path, EngineOptions(threads=1, keep=False, **options)) as session:
        feeds = feeds_of(session)
        with stop_when(lambda: time.monotonic() > ends):
            session.run(feeds)


def lower(path, target, compute):
    lowered = lower_for_target(path, parse_target(target), compute, keep=False)
    describe_lowering(path.read_bytes(), lowered.model, lowered.rewrites)
    graph_data_files(path, lowered.model)
    if target == "tensorrt-8.6":
        with_plain_weights(lowered.model, path, path.parent)


def shapes_of(name):
    model = onnx.load(DEMO_REEL / f"{name}.onnx", load_external_data=False)
    return {value.name: tuple(map(extent_of, value.type.tensor_type.shape.dim)) for value in model.graph.input}


def extent_of(dimension):
    return dimension.dim_value if dimension.HasField("dim_value") else SIZES.get(dimension.dim_param.split("*")[0], 1)


def doors(name, path):
    """Yield (name, call) of everything that reads a graph."""
    yield "data", lambda: external_data_of(path)
    yield "run", lambda: run(path)
    yield "run as it is", lambda: run(path, lower=False)
    yield "streamed", lambda: run(path, weight_budget=2**20)
    yield "lower for cuda", lambda: lower(path, "cuda", "float16")
    yield "lower for TensorRT", lambda: lower(path, "tensorrt-8.6", "float16")
    yield "costs", lambda: graph_costs(path, shapes_of(name), keep=False)
    yield "parts", lambda: [part_inputs(path, part) for part in ("front", "rear")]
    yield "calibration", lambda: GraphFile(path, name)


def main() -> None:
    """Try the mutations and print what came of them."""
    first, count = map(int, sys.argv[1:])
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in range(first, first + count):
        name, change, content = mutated(number)
        print(json.dumps({"begins": number, "graph": name, "change": change}), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.onnx"
            path.write_bytes(content)
            data = DATA.get(name, "decoder.data")
            shutil.copy(DEMO_REEL / data, path.with_name(data))  # no link: onnx refuses files that have several
            said = {}
            for door, call in doors(name, path):
                try:
                    call()
                    said[door] = ""
                except EdgereelError as error:
                    lines = str(error)
                    named = path.name in lines and "\n" not in lines
                    said[door] = f"{type(error).__name__}{'' if named else ' without a name'}: {lines[:200]}"
                except BaseException:
                    said[door] = "RAW " + traceback.format_exc()
        print(json.dumps({"number": number, "graph": name, "change": change, "said": said}), flush=True)


if __name__ == "__main__":
    main()
