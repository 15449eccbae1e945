"""What films and campaigns take, measured on this machine: python -m edgereel.tools.story_measurements WHAT

    edit      one scene of eight is changed: how long making the film again takes, beside making it the first time
    kill      the film is killed with SIGKILL at random moments until it is made: is it the same to the byte?
    hour      a film of an hour: memory as it grows, and how far apart pictures, sound and captions end
    matrix    rows of a campaign beside as many single commands
    watch     a scene is changed while --watch runs: how long after saving the preview is there, and the film
    play      from a choice to the first picture of what follows, as a client sees it; with what was made ahead, and without
    ray       rows of a campaign on a local Ray of two nodes, of which one is killed midway: is each there, once?

Each works in a folder of its own, which it removes. Nothing of the user's is touched.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STORIES = Path(__file__).resolve().parent.parent / "examples" / "stories"


def main() -> None:
    """Measure one of them and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["edit", "kill", "hour", "matrix", "watch", "play", "ray"])
    parser.add_argument(
        "--count", type=int, default=50, help="kills, rows of the matrix, changes that are watched, rounds of play"
    )
    parser.add_argument("--format", help="the size of the film that is edited, by default the model's own")
    parser.add_argument("--minutes", type=float, default=60, help="how long the long film is")
    parser.add_argument("--keep", type=Path, metavar="FILE.mp4", help="where the long film is kept")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="edgereel-story-"))
    os.environ["EDGEREEL_HOME"], os.environ["EDGEREEL_CACHE"] = str(folder / "home"), str(folder / "cache")
    try:
        shutil.copytree(STORIES, folder / "stories")
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "edit": lambda: _edit(folder, arguments.format),
            "kill": lambda: _kill(folder, arguments.count),
            "hour": lambda: _hour(folder, arguments.minutes, arguments.keep),
            "matrix": lambda: _matrix(folder, arguments.count),
            "watch": lambda: _watch(folder, arguments.count),
            "play": lambda: _play(folder, arguments.count),
            "ray": lambda: _ray(folder, arguments.count),
        }
        print(json.dumps(measures[arguments.what](), indent=1))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(*arguments: object) -> dict[str, float]:
    """Run a command of edgereel's; return its seconds by the clock, and those of a processor that it took."""
    started, before = time.perf_counter(), os.times()
    command = [sys.executable, "-m", "edgereel", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    taken = after.children_user + after.children_system - before.children_user - before.children_system
    return {"clock_s": round(time.perf_counter() - started, 2), "processor_s": round(taken, 2)}


def _edit(folder: Path, format: str | None) -> dict[str, Any]:
    story, film = folder / "stories" / "film.yaml", folder / "film.mp4"
    command = ["story", "make", story, "-o", film, "--threads", 1, *([] if format is None else ["--format", format])]
    first = _run(*command)
    size = film.stat().st_size
    again = _run(*command)
    text = story.read_text(encoding="utf-8")
    story.write_text(
        text.replace("{friend} circles around among the trees", "{friend} bounces among the trees"), "utf-8"
    )
    edited = _run(*command)
    return {"first": first, "nothing_changed": again, "one_scene_of_eight_changed": edited, "bytes": size}


def _kill(folder: Path, count: int) -> dict[str, Any]:
    story, film = folder / "stories" / "film.yaml", folder / "film.mp4"
    whole = _run("story", "make", story, "-o", film, "--threads", 1)
    wanted = hashlib.sha256(film.read_bytes()).hexdigest()
    generator, same, finished = random.Random(1), 0, 0
    killed = films = 0
    while killed < count:
        for name in ("home", "cache"):
            shutil.rmtree(folder / name, ignore_errors=True)
        film.unlink()
        films += 1
        while killed < count:
            command = [sys.executable, "-m", "edgereel", "story", "make", str(story), "-o", str(film), "--threads", "1"]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            try:
                process.wait(generator.uniform(0.5, whole["clock_s"]))
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
                if film.exists():  # what was killed had only the files beside it to write
                    break
        if not film.exists():
            _run("story", "make", story, "-o", film, "--threads", 1)
        finished += 1
        same += hashlib.sha256(film.read_bytes()).hexdigest() == wanted
        left = [path.name for path in folder.iterdir() if path.name.startswith(".edgereel-")]
    return {"kills": killed, "films": films, "finished": finished, "same_to_the_byte": same, "parts_left": left}


def _hour(folder: Path, minutes: float, keep: Path | None) -> dict[str, Any]:
    """Make a film whose scenes all differ, and read it; keep: where it goes then."""
    import av

    colours, motions = ("red", "blue", "yellow", "green"), ("rises", "falls", "bounces")
    places = ("over the ocean", "in the forest")
    clips = [f"a {colour} ball {motion} {place}" for place in places for colour in colours for motion in motions]
    lines = ["title: An hour", "music: tune.wav", "scenes:"]
    scenes = round(minutes * 60 / (17 / 8))
    for number in range(scenes):
        lines.append(f'  - prompt: "{clips[number % len(clips)]}"\n    seed: {number}\n    caption: Scene {number + 1}')
        if number % 100 == 0:
            lines.append(f"    chapter: Part {number // 100 + 1}")
        if number % 7 == 3:
            lines.append("    narration: {file: bell.wav, at: 0.5}")
    story, film = folder / "stories" / "hour.yaml", folder / "hour.mp4"
    story.write_text("\n".join(lines) + "\n", "utf-8")
    started = time.perf_counter()
    command = [sys.executable, "-m", "edgereel", "story", "make", str(story), "-o", str(film), "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    resident: list[float] = []
    while process.poll() is None:
        time.sleep(2)
        try:
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            resident.append(round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1))
        except OSError:
            break
    took = time.perf_counter() - started
    with av.open(str(film)) as container:
        ends = {
            stream.type: float((stream.duration or 0) * (stream.time_base or 0))
            for stream in container.streams
            if stream.type in ("video", "audio", "subtitle")
        }
        chapters = len(container.chapters())
    size = film.stat().st_size
    if keep is not None:
        shutil.move(film, keep)
    quarter = max(1, len(resident) // 4)
    return {
        "scenes": scenes,
        "took_s": took,
        "bytes": size,
        "ends_s": ends,
        "chapters": chapters,
        "exit_code": process.returncode,
        "resident_MiB_by_quarter": [max(resident[at * quarter : (at + 1) * quarter] or [0]) for at in range(4)],
    }


def _some_rows(folder: Path, count: int) -> tuple[Path, list[str]]:
    """Write a campaign of the first rows of the example; return its file and their prompts."""
    from edgereel.runtime.reel import load
    from edgereel.story.campaign.rows import campaign_rows, read_campaign

    with load() as reel:
        rows = campaign_rows(read_campaign(folder / "stories" / "campaign.yaml"), reel)[:count]
    prompts = [row.request.prompt for row in rows]
    (folder / "stories" / "rows.json").write_text(
        json.dumps([{"whole": prompt, "number_of_it": f"{number:04}"} for number, prompt in enumerate(prompts)])
    )
    some = folder / "stories" / "some.yaml"
    some.write_text('prompt: "{whole}"\nrows: rows.json\nname: "{number_of_it}"\n', "utf-8")
    return some, prompts


def _matrix(folder: Path, count: int) -> dict[str, Any]:
    some, prompts = _some_rows(folder, count)
    together = _run("matrix", some, "-o", folder / "together", "--threads", 1)
    (folder / "alone").mkdir()
    alone = {"clock_s": 0.0, "processor_s": 0.0}
    same = 0
    for number, prompt in enumerate(prompts):
        name = f"{number:04}.mp4"
        for kind, seconds in _run("generate", prompt, "-o", folder / "alone" / name, "--threads", 1).items():
            alone[kind] = round(alone[kind] + seconds, 2)
        same += (folder / "alone" / name).read_bytes() == (folder / "together" / name).read_bytes()
    times = {kind: round(alone[kind] / together[kind], 2) for kind in alone}
    return {"rows": len(prompts), "matrix": together, "single_commands": alone, "times": times, "same_files": same}


def _ray(folder: Path, count: int) -> dict[str, Any]:
    from edgereel.tools.ray_cluster import two_nodes

    some, prompts = _some_rows(folder, count)
    output = folder / "rows"
    log = output / "manifest.jsonl"
    started = time.perf_counter()
    with two_nodes() as nodes:
        begun = time.perf_counter()
        command = [sys.executable, "-m", "edgereel", "matrix", str(some), "-o", str(output)]
        process = subprocess.Popen([*command, "--on", nodes.address, "--threads", "1"], stdout=subprocess.DEVNULL)
        killed: int | None = None
        made_when_killed: int | None = None
        while process.poll() is None:
            time.sleep(0.2)
            lines = log.read_bytes().count(b"\n") if log.exists() else 0
            if killed is None and lines >= len(prompts) // 2:
                killed, made_when_killed = nodes.kill_one(), lines
        ended = time.perf_counter()
    entries = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    names = [entry["name"] for entry in entries]
    whole = {
        entry["name"]
        for entry in entries
        if entry["state"] == "made"
        and hashlib.sha256((output / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    }
    return {
        "rows": len(prompts),
        "exit_code": process.returncode,
        "processes_killed": killed,
        "rows_made_when_killed": made_when_killed,
        "lines": len(names),
        "different_names": len(set(names)),
        "whole_files": len(whole),
        "files": len(list(output.glob("*.mp4"))),
        "begun_again": sum(entry.get("tries", 1) > 1 for entry in entries),
        "hidden_files_left": sum(path.name.startswith(".") for path in output.iterdir()),
        "ray_began_s": round(begun - started, 1),
        "campaign_s": round(ended - begun, 1),
    }


def _watch(folder: Path, count: int) -> dict[str, Any]:
    story, film = folder / "stories" / "film.yaml", folder / "film.mp4"
    text = story.read_text(encoding="utf-8")
    places = ["in the snow", "over the ocean", "in the desert", "over the lava", "in the forest"]
    command = [
        sys.executable,
        "-m",
        "edgereel",
        "story",
        "make",
        str(story),
        "-o",
        str(film),
        "--watch",
        "--threads",
        "1",
    ]
    seen: dict[str, list[dict[str, float]]] = {"preview": [], "film": []}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        saved, before = 0.0, _processor_of(process.pid)
        for turn in range(count + 1):  # the first one makes everything
            for kind in seen:
                line = process.stdout.readline()
                assert line.startswith(str(film.with_suffix(".preview.mp4") if kind == "preview" else film)), line
                now = _processor_of(process.pid)
                if turn:
                    times = {"clock_s": round(time.time() - saved, 2), "processor_s": round(now - before, 2)}
                    seen[kind].append(times)
            before, saved = _processor_of(process.pid), time.time()
            change = f"{{friend}} circles around {places[turn % len(places)]}"
            temporary = story.with_suffix(".new")
            temporary.write_text(text.replace("{friend} circles around among the trees", change), "utf-8")
            os.replace(temporary, story)
    finally:
        process.kill()
        process.wait()
    return {"changes": count, **seen}


def _processor_of(process: int) -> float:
    """Return the seconds of a processor that a process took so far, its threads' too."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _play(folder: Path, count: int) -> dict[str, Any]:
    from edgereel.tools.play_measurement import measure_play

    return measure_play(folder / "stories" / "tale.yaml", folder, count)


if __name__ == "__main__":
    main()
