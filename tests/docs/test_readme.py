"""README and the pages: their commands run, their links lead somewhere, and README alone leads from a video to an export."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import DEMO_REEL, ROOT
from helpers.command_line import frames_of

from edgereel.engines import ENGINES

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob(".github/**/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
SLOW = {"export", "quantize", "compare", "bench", "story"}
"""Commands that take more than seconds: here their options are read, and test_every_command_for_real runs them."""
MADE_BY_SLOW = ("mine.reel", "small.reel")
SHELL = {"source .venv/bin/activate", "python -m venv .venv"}


def blocks(text, language):
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands():
    """Return README's shell commands in order, as words."""
    lines = [line for block in blocks(README, "sh") for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


def edgereel_commands(text):
    """Return every command line of edgereel in a page's blocks, fenced or indented, as words."""
    indented = re.findall(r"^    (?:\$ )?(edgereel .*)$", text, re.MULTILINE)
    fenced = [line for block in blocks(text, "sh") for line in block.splitlines() if line.startswith("edgereel ")]
    return [shlex.split(line, comments=True) for line in [*indented, *fenced]]


@pytest.fixture
def root(run):
    """The repository's root, but for what is written into it: an empty folder with links to everything of the root."""
    for path in ROOT.iterdir():
        if not path.name.startswith("."):
            Path(path.name).symlink_to(path)
    return run


def check_setup(words, extras):
    """Check a command that is not edgereel's without doing what it does."""
    if words[0] == "make":
        if shutil.which("make") is None:
            return
        shown = subprocess.run(["make", "-n", *words[1:]], capture_output=True, text=True, timeout=60)
        assert shown.returncode == 0, shown.stderr
    elif words[0] == "pip":
        *options, named, package = words[2:]
        assert (words[1], named) == ("install", "-e")
        assert options in ([], ["-c", "constraints.txt"])
        assert set(re.fullmatch(r"\.\[([a-z,]+)\]", package)[1].split(",")) <= extras
    else:
        assert " ".join(words) in SHELL


def test_commands_run_from_the_root(root):
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for name in MADE_BY_SLOW:
        shutil.copytree(DEMO_REEL, name)
    for words in commands():
        if words[0] != "edgereel":
            check_setup(words, set(project["project"]["optional-dependencies"]))
            continue
        code, _, err = root(*words[1:], *(["--help"] if words[1] in SLOW else []))
        assert (code, err) == (0, ""), words
    assert {"ball.mp4", "star.gif", "ring.mp4"} <= {path.name for path in Path.cwd().iterdir()}


@pytest.mark.full
def test_every_command_for_real(root):
    """As a newcomer would type them: the later ones use what the earlier ones made."""
    pytest.importorskip("torch")
    for words in commands():
        if words[0] == "edgereel":
            code, _, err = root(*words[1:])
            assert code == 0, (words, err)
    for name in ("mine.reel/reel.json", "small.reel/reel.json", "lost.html", "report/report.html"):
        assert Path(name).is_file()
    assert len(frames_of("ring.mp4")) == 17


def test_the_python_program_runs(root):
    (program,) = blocks(README, "python")
    exec(compile(program, "README.md", "exec"), {"__name__": "__main__"})
    assert frames_of("ball.mp4").shape == (17, 128, 128, 3)


def test_a_newcomer_finds_a_video_then_a_program_then_an_export():
    steps = ["make demo", "edgereel generate", "```python", "edgereel export", "edgereel quantize", "edgereel bench"]
    places = [README.index(step) for step in steps]
    assert places == sorted(places)
    assert "ARCHITECTURE" not in README[: places[-1]]


@pytest.mark.parametrize("page", ["README.md", "docs/engines.md"])
def test_the_table_of_engines_is_whole_and_says_what_never_ran(page):
    rows = dict(
        re.findall(r"^\| `([a-z]+)` \|(.*edgereel\[.*)\|$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert set(rows) == {*ENGINES, "openvino"}
    assert {name for name, row in rows.items() if "never yet on a GPU" in row} == {"cuda", "tensorrt", "rtx"}
    hardware = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
    assert "nothing of `cuda`, `tensorrt` and `rtx` has run on hardware" in hardware


def test_readme_is_short():
    assert len(README.splitlines()) <= 140


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path = page.parent / target if target else page
        assert path.exists(), f"{page.name} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in titles}, f"{page.name}: #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_on_the_pages_have_the_options_they_name(page, run):
    text = "" if page.name == "cli.md" else page.read_text(encoding="utf-8")
    for words in edgereel_commands(text):
        code, _, err = run(*words[1:], "--help")
        assert (code, err) == (0, ""), words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_on_the_pages_is_python(page):
    for block in blocks(page.read_text(encoding="utf-8"), "python"):
        ast.parse(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_page_is_reached_from_the_readme(page):
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    if page.parent == ROOT / "docs":
        assert page.name == "README.md" or f"]({page.name})" in index
    assert "](docs/README.md)" in README


def test_prose_is_at_most_100_columns():
    for page in PAGES:
        if (
            page.name in ("CHANGELOG.md", "cli.md") or ".github" in page.parts
        ):  # forms break lines where they are broken
            continue
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        long = [line for line in prose.splitlines() if len(line) > 100 and not line.startswith(("|", "    ", "!["))]
        assert long == [], page.name
