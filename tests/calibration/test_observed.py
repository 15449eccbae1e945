"""What watches an engine leaves it what it is."""

from __future__ import annotations

import pytest
from conftest import DEMO_REEL

from edgereel.calibration.compare import compare_bundles
from edgereel.engines import ENGINES
from edgereel.engines.costs import GraphCosts
from edgereel.engines.onnxruntime.cpu import OnnxRuntimeCpu


@pytest.mark.parametrize(("device", "compute"), [("cpu", "float32"), ("gpu", "float16")])
def test_memory_is_planned_for_the_engine_that_runs(monkeypatch, device, compute):
    """Its device and the type it calculates in, which the engine that watches it once did not pass on."""

    class Planned(Exception):
        pass

    class Card(OnnxRuntimeCpu):
        name = "card"

    Card.device, Card.compute = device, compute
    counted = []

    def count(graph, shapes, compute):
        counted.append(compute)
        return GraphCosts(1, (1,), 1, 1, 1, 1, 1, {})

    def plan(sizes, budget, device, **_):
        raise Planned(device)

    monkeypatch.setitem(ENGINES, "card", Card)
    monkeypatch.setattr("edgereel.runtime.memory.sizes.graph_costs", count)
    monkeypatch.setattr("edgereel.runtime.memory.fit.plan_memory", plan)
    with pytest.raises(Planned) as planned:
        compare_bundles(DEMO_REEL, DEMO_REEL, prompts=["a red ball bounces over the ocean"], engine="card")
    assert planned.value.args == (device,)
    assert set(counted) == {compute}
