"""What was seen of the activations that go into a model's linears, by denoiser, guidance branch and timestep."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..core.errors import UsageError, brief
from ..core.files import whole_file
from .forms import Floats

Branch = Literal["prompted", "negative"]
VERSION = 1
OCTAVES = (-24, 24)
BINS_PER_OCTAVE = 8
BINS = (OCTAVES[1] - OCTAVES[0]) * BINS_PER_OCTAVE
"""Of a histogram over log2 of magnitudes; smaller magnitudes are in the first bin, larger ones in the last."""
ROWS_KEPT = 64
"""About how many tokens are kept of each tensor, over all timesteps and branches, to try quantization on."""
_MAGIC = "edgereel activation statistics"


class Slot(NamedTuple):
    """Where in the sampling something was seen."""

    branch: Branch
    timestep: float


@dataclass
class TensorStatistics:
    """One tensor's activations at one slot, over all clips and positions.

    minimum, maximum: float32 [K], by channel. squares: float64 [K], summed over `tokens`. histogram: int64 [BINS], of the
    magnitudes in the tokens that were sampled. rows: float32 [R, K], some of those tokens; offered: out of how many.
    """

    minimum: Floats
    maximum: Floats
    squares: NDArray[np.float64]
    tokens: int
    histogram: NDArray[np.int64]
    rows: Floats
    offered: int

    @staticmethod
    def nothing(channels: int) -> TensorStatistics:
        """Return the statistics of no token."""
        return TensorStatistics(
            np.full(channels, np.inf, np.float32),
            np.full(channels, -np.inf, np.float32),
            np.zeros(channels),
            0,
            np.zeros(BINS, np.int64),
            np.zeros((0, channels), np.float32),
            0,
        )

    def add(
        self, minimum: Floats, maximum: Floats, squares: Floats, tokens: int, sampled: Floats, rows_kept: int
    ) -> None:
        """Take in one run of the graph; sampled: [R, K], some of its tokens. At most rows_kept are kept, chosen evenly."""
        np.minimum(self.minimum, minimum, out=self.minimum)
        np.maximum(self.maximum, maximum, out=self.maximum)
        self.squares += squares
        self.tokens += tokens
        self.histogram += histogram_of(sampled)
        for row in sampled:
            # Reservoir sampling (Vitter 1985, algorithm R); its draws depend on the count alone, so that a run that was
            # resumed keeps what an uninterrupted one keeps.
            place = self.offered
            if len(self.rows) < rows_kept:
                self.rows = np.concatenate([self.rows, row[None]])
            elif (place := int(np.random.default_rng(self.offered).integers(self.offered + 1))) < rows_kept:
                self.rows[place] = row
            self.offered += 1


@dataclass(frozen=True)
class RecordingPlan:
    """What is to be recorded: everything that must be the same for a run to go on, or for statistics to be used.

    bundle: its digest. prompts: sha256 of their lines. recipe: name, sampler, steps, guidances, size, frames.
    """

    bundle: str
    prompts: str
    prompt_count: int
    seeds: int
    recipe: dict[str, Any]


@dataclass
class Statistics:
    """Statistics of every tensor that linears of the denoisers read.

    seen: by graph, tensor and slot. linears: by graph and tensor, the names of the linears that read it. clips: sampled so
    far, of plan.prompt_count * plan.seeds.
    """

    plan: RecordingPlan
    clips: int = 0
    seen: dict[str, dict[str, dict[Slot, TensorStatistics]]] = field(default_factory=dict)
    linears: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    @property
    def clips_in_all(self) -> int:
        """How many clips the finished statistics are of."""
        return self.plan.prompt_count * self.plan.seeds

    def slots(self, graph: str) -> list[Slot]:
        """Return the slots of a denoiser, in the order of sampling."""
        return list(dict.fromkeys(slot for slots in self.seen.get(graph, {}).values() for slot in slots))

    def of_first_timesteps(self, count: int) -> Statistics:
        """Return the same statistics of each denoiser's first `count` timesteps alone."""
        kept = {
            graph: set(list(dict.fromkeys(slot.timestep for slot in self.slots(graph)))[:count]) for graph in self.seen
        }
        seen = {
            graph: {
                tensor: {slot: part for slot, part in slots.items() if slot.timestep in kept[graph]}
                for tensor, slots in tensors.items()
            }
            for graph, tensors in self.seen.items()
        }
        return Statistics(self.plan, self.clips, seen, self.linears)

    def save(self, path: Path) -> None:
        """Write one .npz file, without pickles; what was there is replaced when it is complete. Raises OutputError."""
        header: dict[str, Any] = {"what": _MAGIC, "version": VERSION, "plan": asdict(self.plan), "clips": self.clips}
        header["graphs"] = {}
        arrays: dict[str, NDArray[Any]] = {}
        for graph, tensors in self.seen.items():
            header["graphs"][graph] = [
                {"tensor": tensor, "linears": self.linears[graph][tensor], "slots": [list(slot) for slot in slots]}
                for tensor, slots in tensors.items()
            ]
            for index, slots in enumerate(tensors.values()):
                arrays |= _arrays(f"{graph}/{index}", slots.values())
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]


def load_statistics(path: Path) -> Statistics:
    """Read what `Statistics.save` wrote. Raises UsageError where the file is not that."""
    try:
        # np.load leaves a file that it cannot read open; one that it is given, it leaves to us.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            if header.get("what") != _MAGIC or header.get("version") != VERSION:
                raise ValueError("of another version")
            statistics = Statistics(RecordingPlan(**header["plan"]), int(header["clips"]))
            for graph, tensors in header["graphs"].items():
                statistics.seen[graph] = {
                    entry["tensor"]: _slots(file, f"{graph}/{index}", entry["slots"])
                    for index, entry in enumerate(tensors)
                }
                statistics.linears[graph] = {entry["tensor"]: list(entry["linears"]) for entry in tensors}
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or brief(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: is not a file of statistics that edgereel calibrate wrote") from error
    return statistics


def histogram_of(values: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Count magnitudes by BINS bins over log2."""
    with np.errstate(divide="ignore"):
        octaves = np.log2(np.abs(values.reshape(-1)))
    places = np.floor((octaves - OCTAVES[0]) * BINS_PER_OCTAVE)
    return np.bincount(np.clip(places, 0, BINS - 1).astype(np.int64), minlength=BINS)


def bin_magnitudes() -> NDArray[np.float64]:
    """Return the magnitude in the (logarithmic) middle of each of a histogram's bins."""
    return np.exp2(OCTAVES[0] + (np.arange(BINS) + 0.5) / BINS_PER_OCTAVE)


_STACKED = ("minimum", "maximum", "squares", "histogram")


def _arrays(prefix: str, slots: Iterable[TensorStatistics]) -> dict[str, NDArray[Any]]:
    parts = list(slots)
    arrays = {f"{prefix}/{name}": np.stack([getattr(part, name) for part in parts]) for name in _STACKED}
    arrays[f"{prefix}/rows"] = np.concatenate([part.rows for part in parts])
    arrays[f"{prefix}/counts"] = np.array([(part.tokens, part.offered, len(part.rows)) for part in parts], np.int64)
    return arrays


def _slots(file: Any, prefix: str, slots: list[tuple[Branch, float]]) -> dict[Slot, TensorStatistics]:
    stacked = [file[f"{prefix}/{name}"] for name in _STACKED]
    rows, counts = file[f"{prefix}/rows"], file[f"{prefix}/counts"]
    ends = np.cumsum(counts[:, 2])
    return {
        Slot(branch, float(timestep)): TensorStatistics(
            stacked[0][index].copy(),
            stacked[1][index].copy(),
            stacked[2][index].copy(),
            int(counts[index, 0]),
            stacked[3][index].copy(),
            rows[ends[index] - counts[index, 2] : ends[index]].copy(),
            int(counts[index, 1]),
        )
        for index, (branch, timestep) in enumerate(slots)
    }
