"""A graph run in segments, so that of its weights no more than a budget is held at once.

The segments at the front stay open, as many as the budget allows; the others are opened when their turn comes and closed
after it. A graph is run again and again from front to end: keeping those used last, as caches usually do, would throw out
each just before it is needed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..core.errors import Cancelled, EngineError, MissingExtraError
from ..core.interrupts import interrupts_wait
from .base import EngineReport, Session, Tensor
from .graphs.read import reading
from .options import GraphSpecs

if TYPE_CHECKING:
    from .graphs.segments import Segment, WeightSize

_SEGMENTS_IN_BUDGET = 8
"""Into how many segments a budget is divided where the graph can be cut so small: all but one of them stay open."""


def open_within(
    budget: int,
    name: str,
    model: bytes,
    open_whole: Callable[[], Session],
    open_segment: Callable[[Segment], Session],
    weight_size: WeightSize | None = None,
) -> Session:
    """Open a graph so that it holds no more than `budget` bytes of weights.

    name: of the graph, for messages. model: the graph as it is to be opened. open_whole is called where all of its weights
    are within the budget. weight_size: see split_model. Raises EngineError where the budget is too small, naming the
    least that works; MissingExtraError where `onnx`, which cuts the graph, is not installed; what opening raises.
    """
    if budget < 1:
        raise EngineError(f"a weight budget of {budget} bytes is not possible: choose 1 or more")
    try:
        with interrupts_wait():
            from .graphs import segments as cutting
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise MissingExtraError("onnx", "cpu", "a weight budget") from error
    size = weight_size or cutting.stored_size
    with reading(name):
        all_fit = cutting.weights_of(model, size) <= budget
    if all_fit:
        return open_whole()
    with reading(name):
        limit = min(budget, max(budget // _SEGMENTS_IN_BUDGET, cutting.least_weight_limit(model, size)))
        segments, specs = cutting.split_model(model, limit, size), cutting.interface_of(model)
    return StreamedSession(name, segments, specs, budget, open_segment)


class StreamedSession(Session):
    """Segments of a graph, run in turn.

    Those that stay open are opened at once; `report` covers the segments that were open so far.
    """

    def __init__(
        self,
        name: str,
        segments: Sequence[Segment],
        specs: GraphSpecs,
        budget: int,
        open_segment: Callable[[Segment], Session],
    ) -> None:
        self.specs = specs
        self._name = name
        self._segments = list(segments)
        self._open_segment = open_segment
        self._closed = False
        self._stopped = False
        self._running: Session | None = None
        self._last_readers = {value: at for at, segment in enumerate(segments) for value in segment.inputs}
        self._reports: dict[int, EngineReport] = {}
        self._resident: list[Session] = []
        try:
            for at in range(segments_that_stay([segment.weight_bytes for segment in segments], budget)):
                self._resident.append(self._open(at))
            if not self._resident:
                self._open(0).close()  # for the report, and so that what cannot be opened is known at once
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run all segments in turn; see Session.run."""
        if self._closed:
            raise EngineError(f"{self._name} is closed and cannot run")
        if set(inputs) != set(self.specs.inputs):
            missing = sorted(set(self.specs.inputs) - set(inputs))
            unknown = sorted(set(inputs) - set(self.specs.inputs))
            raise EngineError(f"{self._name}: missing inputs {missing}, unknown inputs {unknown}")
        values = dict(inputs)
        self._stopped = False
        for at, segment in enumerate(self._segments):
            values |= self._run_segment(at, {value: values[value] for value in segment.inputs})
            for value in [value for value in values if self._last_readers.get(value, -1) <= at]:
                if value not in self.specs.outputs:
                    del values[value]
        return {value: values[value] for value in self.specs.outputs}

    def stop(self) -> None:
        """See Session.stop: the segment that runs ends, and none is run after it."""
        self._stopped = True
        if (running := self._running) is not None:
            running.stop()

    def close(self) -> None:
        """Close all segments."""
        self._closed = True
        while self._resident:
            self._resident.pop().close()

    def _run_segment(self, at: int, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if at < len(self._resident):
            return self._run(self._resident[at], inputs)
        with self._open(at) as session:
            return self._run(session, inputs)

    def _run(self, session: Session, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self._running = session
        try:
            if self._stopped:
                raise Cancelled(f"running {self._name} was stopped")
            return session.run(inputs)
        finally:
            self._running = None

    def _open(self, at: int) -> Session:
        session = self._open_segment(self._segments[at])
        self._reports[at] = session.report
        self.report = _report_of_all(self._reports, len(self._segments))
        return session


def segments_that_stay(weights: Sequence[int], budget: int) -> int:
    """Return how many segments, from the first, can stay open so that each of the others fits beside them in its turn.

    weights: bytes of each segment.
    """
    count = len(weights)
    while count and sum(weights[:count]) + max(weights[count:], default=0) > budget:
        count -= 1
    return count


def _report_of_all(reports: Mapping[int, EngineReport], segments: int) -> EngineReport:
    """Return one report for segments, of which some may not have been opened yet."""
    first, nodes, precisions = next(iter(reports.values())), dict[str, int](), dict[str, None]()
    for report in reports.values():
        precisions[report.precision] = None
        for provider, count in report.nodes.items():
            nodes[provider] = nodes.get(provider, 0) + count
    return replace(first, precision=_precision_of_all(precisions), nodes=nodes, streamed=segments)


def _precision_of_all(precisions: Iterable[str]) -> str:
    """Return what is told of a whole graph: where some linears are quantized, it is those that are told of."""
    told = list(precisions)
    quantized = [precision for precision in told if not precision.startswith("float32")]
    return " and ".join(quantized or told)
