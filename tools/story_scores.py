"""Do the stories of examples/stories show what they say? python -m edgereel.tools.story_scores

Makes every scene of the film, the tale (by every way) and the lesson, and every row of the campaign, with the built-in
model, and has the demo's scorer read colour, scene, motion and shape off their pictures; and where a scene goes on from
another, how far the object jumps across the cut. Works in a folder of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import yaml

from ..demo.clips import Subject, split
from ..demo.film_scorer import Seam, read_shot, seams, shows
from ..demo.gauges import shot_of
from ..demo.scorer import ATTRIBUTES, read
from .story_measurements import STORIES


def main() -> None:
    """Make, read, print a line for each story, and one for each scene that shows something else."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="another bundle of the demo's words")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    bundle = [] if arguments.bundle is None else ["--bundle", str(arguments.bundle.resolve())]
    subjects = _subjects()
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = {story: dict(_scenes(folder, story, bundle)) for story in ("film", "tale", "lesson")}
        clips["campaign"] = dict(_rows(folder, bundle))
        for story, files in clips.items():
            shown = {title: _shown(scene, subjects[scene.prompt]) for title, scene in files.items()}
            results[story] = {"scenes": len(shown)}
            results[story] |= {name: float(np.mean([each[name] for each in shown.values()])) for name in ATTRIBUTES}
            cuts = dict(_cuts(files))
            results[story] |= {f"jump, {title}": seam.jump for title, seam in cuts.items()}
            if not arguments.json:
                shares = "  ".join(f"{name} {100 * results[story][name]:.1f}%" for name in ATTRIBUTES)
                print(f"{story:<9} {len(shown):>4} scenes  {shares}")
                for title, seam in cuts.items():
                    print(f"  {title}: jumps {seam.jump:.2f} steps, colour moves {seam.colour:.3f}")
                for title, each in shown.items():
                    if not all(each.values()):
                        print(f"  {title}: not {', '.join(name for name in ATTRIBUTES if not each[name])}")
    if arguments.json:
        print(json.dumps(results, indent=2))


class _Scene(NamedTuple):
    """origin: the name of the scene that it goes on from."""

    prompt: str
    path: Path
    origin: str | None = None


def _shown(scene: _Scene, subject: Subject) -> dict[str, bool]:
    """Tell for each attribute whether a scene shows it."""
    pictures = decoded(scene.path)
    if scene.origin is None:
        return read(pictures).matches(subject)
    return shows(read_shot(pictures, first=False), shot_of(subject), pictures)


def _cuts(scenes: dict[str, _Scene]) -> Iterator[tuple[str, Seam]]:
    """Yield a title and what is seen across the cut of each scene that goes on from one of FIRST pictures."""
    for title, scene in scenes.items():
        if scene.origin is not None:
            film = np.concatenate([decoded(scenes[scene.origin].path), decoded(scene.path)])
            yield f"{title} from {scene.origin}", seams(film)[0]


def _subjects() -> dict[str, Subject]:
    """Return what each caption of the demo's says."""
    return {caption: subject for part in split() for subject in part for caption in subject.captions()}


def run_edgereel(folder: Path, *arguments: object) -> None:
    """Run a command of edgereel's on `cpu`, with a home of its own in the folder. Raises CalledProcessError."""
    environment = {**os.environ, "EDGEREEL_HOME": str(folder / "home")}
    command = [sys.executable, "-m", "edgereel", *map(str, arguments), "--engine", "cpu"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


def _scenes(folder: Path, story: str, bundle: list[str]) -> Iterator[tuple[str, _Scene]]:
    """Yield the title, prompt and file of each scene that has a prompt, by every way through the story."""
    source = STORIES / f"{story}.yaml"
    for number, choices in enumerate(_ways(yaml.safe_load(source.read_text(encoding="utf-8"))["scenes"])):
        output = folder / f"{story}-{number}.otio"
        choose = ["--choose", ",".join(map(str, choices))] if choices else []
        run_edgereel(folder, "story", "timeline", source, "-o", output, *choose, *bundle)
        for clip in _clips(json.loads(output.read_text(encoding="utf-8"))):
            file = output.parent / unquote(clip["media_references"]["DEFAULT_MEDIA"]["target_url"])
            told = clip["metadata"]["edgereel"]
            yield clip["name"], _Scene(told["prompt"], file, told.get("from"))


def _ways(scenes: list[dict[str, Any]]) -> Iterator[list[int]]:
    """Yield the choices of every way that passes no scene twice."""
    numbers = {scene.get("name"): number for number, scene in enumerate(scenes)}

    def follow(at: int, passed: frozenset[int], chosen: list[int]) -> Iterator[list[int]]:
        scene = scenes[at]
        if at in passed:
            return
        passed = passed | {at}
        if "choices" in scene:
            for number, choice in enumerate(scene["choices"], start=1):
                yield from follow(numbers[choice["goto"]], passed, [*chosen, number])
        elif "goto" in scene:
            yield from follow(numbers[scene["goto"]], passed, chosen)
        elif scene.get("ends") or at + 1 == len(scenes):
            yield chosen
        else:
            yield from follow(at + 1, passed, chosen)

    yield from follow(0, frozenset(), [])


def _clips(data: Any) -> Iterator[dict[str, Any]]:
    """Yield an edit list's clips that were made of a prompt."""
    if isinstance(data, dict):
        if str(data.get("OTIO_SCHEMA", "")).startswith("Clip.") and "edgereel" in data["metadata"]:
            yield data
        for value in data.values():
            yield from _clips(value)
    elif isinstance(data, list):
        for value in data:
            yield from _clips(value)


def _rows(folder: Path, bundle: list[str]) -> Iterator[tuple[str, _Scene]]:
    """Yield the name, prompt and file of each row of the campaign."""
    run_edgereel(folder, "matrix", STORIES / "campaign.yaml", "-o", folder / "campaign", *bundle)
    manifest = json.loads((folder / "campaign" / "manifest.json").read_text(encoding="utf-8"))
    for row in manifest["rows"]:
        yield row["name"], _Scene(row["settings"]["prompt"], folder / "campaign" / row["file"])


def decoded(path: Path) -> Any:
    """Return a video file's pictures, uint8 [pictures, height, width, 3]."""
    import av

    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


if __name__ == "__main__":
    main()
