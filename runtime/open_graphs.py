"""The opened graphs of a bundle, held in memory as a plan says; where memory runs out all the same, the plan gives way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from ..bundle.reader import Bundle
from ..core.errors import Cancelled, EngineError, OutOfMemory
from ..engines import Engine, EngineOptions, EngineReport, Part, Session, Tensor, get_engine
from .memory.plan import ComponentPlan, MemoryPlan, describe_step, step_down
from .memory.shapes import input_shapes, part_extents, shapes_of
from .memory.sizes import DECODER, PlanKey, component_of

Result = TypeVar("Result")


class OpenGraphs:
    """Opens each graph when it is first needed, closes what the plan does not keep open beside it.

    plan: the one that is held to; None keeps everything open. plans: those for clips made so far, by their sizes' key, with what
    memory running out has taught. steps_down: what had to be given up, in words, in order. on_step: told of each.
    """

    def __init__(
        self, bundle: Bundle, engine: Engine, options: EngineOptions, add_time: Callable[[str, float, str], None]
    ) -> None:
        """add_time: see Reel.add_time."""
        self.engine = engine
        self.lock = threading.RLock()
        self.plan: MemoryPlan | None = None
        self.plans: dict[PlanKey, MemoryPlan] = {}
        self.steps_down: list[str] = []
        self.on_step: Callable[[str], object] | None = None
        self._bundle = bundle
        self._options = options
        self._add_time = add_time
        self._sessions: dict[tuple[str, Part | None], tuple[EngineOptions, Session]] = {}
        self._reports: dict[str, EngineReport] = {}
        self._closed = False
        self._stopped = threading.Event()
        self._at_work = {component_of(name): threading.RLock() for name in bundle.manifest.roles.graphs()}

    def begin(self) -> None:
        """Begin a clip or its decoding: what was stopped before is over."""
        self._stopped.clear()

    def stop(self) -> None:
        """End what is under way, from another thread: a graph that runs ends soon, and none runs until `begin`."""
        self._stopped.set()
        for _, session in list(self._sessions.values()):
            session.stop()

    def reports(self) -> dict[str, EngineReport]:
        """Return what really ran, for each graph opened so far, those closed since included."""
        return dict(self._reports)

    def options_of(self, name: str, part: Part | None = None) -> EngineOptions:
        """Return the options that a graph, or a part of it, is opened with under the plan."""
        graph = self._bundle.manifest.roles.graphs()[name]
        options = replace(self._options, activations=graph.activations or "float", part=part)
        if component_of(name) == DECODER:
            options = replace(options, pictures=True)
        if self.plan is None:
            return options
        # A stream's denoiser remembers more with each chunk, until its window is full; a trimmed prompt has its own length.
        manifest = self._bundle.manifest
        varies = (manifest.stream is not None or manifest.text.trim) and name in manifest.roles.denoiser_names()
        engine = self._engine_of(name)
        if engine is not self.engine and engine.device == self.engine.device:
            options = replace(options, compute=engine.compute)  # another engine's session is another one
        if engine.fixed_shapes and not self.plan.sizes.unknown and not varies:
            options = replace(options, shapes=tuple(sorted(self._shapes(name, part, self.plan).items())))
        return replace(options, weight_budget=self._held_as(name).weight_budget)

    def sessions(self, name: str) -> dict[Part | None, Session]:
        """Return what a graph is run in, opened: itself (None), or under a plan with tiles or windows its parts; see `session`.

        There is no front where the graph has none: the rear takes the latents then. Each is opened again where it is run
        after another clip had it closed.
        """
        plan = self.plan
        if component_of(name) != DECODER or plan is None or (plan.tile is None and plan.window is None):
            return {None: _ReopenedSession(self, name, None)}
        rear = _ReopenedSession(self, name, "rear")
        if "latent" in rear.specs.inputs:
            return {"rear": rear}
        return {"front": _ReopenedSession(self, name, "front"), "rear": rear}

    def session(self, name: str, part: Part | None = None) -> Session:
        """Return the opened graph of that name (see Roles.graphs) or a part of it, opening it if need be.

        A graph is open either as a whole or in parts.

        Raises EngineError where all is closed or the engine cannot open the graph (OutOfMemory: see `run`), BundleError where
        the graph's files have been cut short.
        """
        if self._stopped.is_set():
            raise Cancelled("stopped")
        if self._closed:
            raise EngineError("this reel is closed: keep it open (inside the with block) while its videos are used")
        self._bundle.check_graph(name)
        self._close_others(component_of(name))
        key, options = (name, part), self.options_of(name, part)
        for other, (opened_with, _) in list(self._sessions.items()):
            instead = other[0] == name and (other[1] is None) != (part is None)
            another = component_of(other[0]) == component_of(name) == DECODER and not _same_decoder(other[0], name)
            if instead or another or (other == key and opened_with != options):
                self._close(other)
        if key not in self._sessions:
            started = time.perf_counter()
            path = self._bundle.path(self._bundle.manifest.roles.graphs()[name].file)
            session = self._engine_of(name).open(path, options)
            self._sessions[key] = (options, session)
            label = name if part is None else f"{name} {part}"
            self._reports[label] = session.report
            self._add_time("open", started, label)
        return self._sessions[key][1]

    def run_beside(self, name: str, plan: MemoryPlan, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run a graph while another thread, which has the lock, runs graphs of another component.

        It is opened, and opened again where another clip had it closed, when nobody has the lock. plan: the one to hold to then.
        Raises EngineError, Cancelled.
        """
        while True:
            held = self._sessions.get((name, None))
            if held is None:
                with self.lock:
                    self.hold_to(plan)
                    held = self._sessions.get((name, None)) or (EngineOptions(), self.session(name))
            with self._at_work[component_of(name)]:
                if self._stopped.is_set():
                    raise Cancelled("stopped")
                if self._sessions.get((name, None), (None, None))[1] is held[1]:
                    return held[1].run(inputs)

    def run(self, component: str, work: Callable[[], Result], plan: MemoryPlan) -> Result:
        """Return what `work` does with a component's sessions, stepping down for as long as memory runs out.

        plan: that of the clip which the work is for; another clip may have been at work meanwhile. Raises OutOfMemory where
        there is no step left, and all that `work` raises.
        """
        with self.lock:
            self.hold_to(plan)
            while True:
                try:
                    return work()
                except OutOfMemory as error:
                    self.step_down(component, error)

    def hold_to(self, plan: MemoryPlan) -> None:
        """Hold to a clip's plan again, or to what memory running out has made of it since."""
        self.plan = self.plans.get(plan.sizes.key, plan)

    def step_down(self, component: str, error: OutOfMemory) -> None:
        """Change the plan to one that needs less while this component works. Raises OutOfMemory where there is none."""
        lower = None if self.plan is None else step_down(self.plan, component)
        if self.plan is None or lower is None:
            raise OutOfMemory(f"{error}; no way is left that needs less: try a smaller size or fewer frames") from error
        self.steps_down.append(describe_step(self.plan, lower, component))
        self.plan = self.plans[lower.sizes.key] = lower
        for key in [key for key in self._sessions if component_of(key[0]) == component]:
            self._close(key)
        self._close_others(component)
        if self.on_step is not None:
            self.on_step(self.steps_down[-1])

    def close(self) -> None:
        """Release every opened graph; nothing can be opened afterwards."""
        with self.lock:
            self._closed = True
            while self._sessions:
                self._close(next(reversed(self._sessions)))

    def _close_others(self, component: str) -> None:
        """Close what is not to stay open beside a component."""
        for key in list(self._sessions):
            if component_of(key[0]) != component and self._held_as(key[0]).placement != "resident":
                self._close(key)

    def _close(self, key: tuple[str, Part | None]) -> None:
        """Close a graph, once nobody runs it in another thread."""
        _, session = self._sessions.pop(key)
        with self._at_work[component_of(key[0])]:
            session.close()

    def _held_as(self, name: str) -> ComponentPlan:
        if self.plan is None:
            return ComponentPlan("resident")
        # What the plan does not tell about is not for the clip that it is for.
        return self.plan.components.get(component_of(name), ComponentPlan("swapped"))

    def _engine_of(self, name: str) -> Engine:
        held, plan = self._held_as(name), self.plan
        if held.placement == "cpu":
            return get_engine("cpu")
        if component_of(name) == DECODER and plan is not None:
            other = self.engine.for_decoder(plan.sizes.decoder_flops, self._options.threads)
            return other if other is not self.engine and _has_room(plan, held) else self.engine
        return self.engine

    def _shapes(self, name: str, part: Part | None, plan: MemoryPlan) -> dict[str, tuple[int, ...]]:
        """Return the shape of each input of a graph or a part of it: the rear takes tiles or windows, all else whole clips."""
        manifest, latents = self._bundle.manifest, plan.sizes.latents
        if part is None:
            return input_shapes(manifest, name, latents)
        if part == "rear" and plan.tile is not None:
            latents = (*latents[:3], plan.tile.height, plan.tile.width)
        if part == "rear" and plan.window is not None:
            latents = (*latents[:2], plan.window, *latents[3:])
        inputs = part_extents(self._bundle.path(manifest.roles.graphs()[name].file), part)
        return shapes_of(manifest, name, latents, inputs)


def _has_room(plan: MemoryPlan, held: ComponentPlan) -> bool:
    """Tell whether another engine than the one that was planned for may decode: what it takes may be twice as much."""
    whole = plan.tile is None and plan.window is None and held.weight_budget is None
    decoder = plan.sizes_of(DECODER)
    return whole and plan.peak + decoder.weights + decoder.activations <= plan.budget.bytes


def _same_decoder(one: str, other: str) -> bool:
    """Tell whether two graphs are of the same decoder: `tiny_decoder_first` and `tiny_decoder_next`."""
    return one[: one.rindex(DECODER)] == other[: other.rindex(DECODER)]


class _ReopenedSession(Session):
    """A graph, or a part of one, that is opened again to run where it was closed for another clip's sake."""

    def __init__(self, graphs: OpenGraphs, name: str, part: Part | None) -> None:
        session = graphs.session(name, part)
        self.specs, self.report = session.specs, session.report
        self._graphs, self._name, self._part = graphs, name, part

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._graphs.session(self._name, self._part).run(inputs)

    def close(self) -> None:
        """The opened graphs close it."""
