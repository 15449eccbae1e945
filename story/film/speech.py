"""What is to be said, spoken by a program of the machine's: espeak-ng, which Debian and others have as a package.

It is run, never imported, and no voice comes with edgereel. What it said is kept in the cache folder.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from ...core.errors import OutputError, UsageError, one_line
from ...core.files import output_errors, replace_file, temporary_beside
from ...core.paths import cache_folder
from ...media.sound import wav_seconds
from ..script.story import StoryFile, filled

SPEAKERS = ("espeak-ng",)
_LONGEST = 120.0
"""Seconds after which a program that does not answer is ended."""


def spoken(file: StoryFile, speaker: str) -> StoryFile:
    """Return the story with a recording for each narration that is text alone. speaker: one of SPEAKERS.

    Raises UsageError where the program is not there, OutputError where it fails.
    """
    if speaker not in SPEAKERS:
        raise UsageError(f"--speak {speaker[:40]}: choose from {', '.join(SPEAKERS)}")
    program = shutil.which(speaker)
    if program is None:
        raise UsageError(f"--speak: {speaker} is not installed: apt-get install {speaker}")
    said: dict[int, Path] = dict(file.spoken)
    for number, scene in enumerate(file.story.scenes):
        if scene.narration is not None and scene.narration.file is None and scene.narration.text is not None:
            said[number] = _say(program, file.story.language, filled(scene.narration.text, file.story.words))
    return replace(file, spoken=said)


def _say(program: str, language: str, text: str) -> Path:
    folder = cache_folder() / "speech"
    key = hashlib.sha256("\0".join([_version(program), language, text]).encode()).hexdigest()
    path = folder / f"{key}.wav"
    if path.exists():
        return path
    with output_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        try:
            _run([program, "-v", language, "-w", str(temporary), "--stdin"], text)
            wav_seconds(temporary)
            replace_file(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def _version(program: str) -> str:
    return re.sub(r"\s*Data at:.*", "", _run([program, "--version"], "")).strip()


def _run(command: list[str], text: str) -> str:
    try:
        ended = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_LONGEST, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or error
        raise OutputError(f"{Path(command[0]).name} could not speak: {one_line(said)[:200]}") from error
    return ended.stdout
