"""What the wheel holds, which Python reads it, and which folder imports which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from conftest import ROOT

import edgereel

pytestmark = pytest.mark.lean

tomllib = pytest.importorskip("tomllib")

OURS = {
    "core",
    "bundle",
    "engines",
    "provenance",
    "media",
    "export",
    "runtime",
    "doctor",
    "quality",
    "calibration",
    "bench",
    "demo",
    "jobs",
    "server",
    "story",
}
MAY_IMPORT = {
    "core": set(),
    "bundle": {"core"},
    "engines": {"core"},
    "provenance": {"core"},
    "media": {"core"},
    "export": {"bundle", "engines", "core"},
    "runtime": {"bundle", "engines", "media", "provenance", "core"},
    "doctor": {"runtime", "bundle", "engines", "media", "provenance", "core"},
    "quality": {"core"},
    "demo": {"runtime", "export", "bundle", "engines", "quality", "media", "provenance", "core"},
    "calibration": {"runtime", "quality", "demo", "bundle", "engines", "media", "provenance", "core"},
    "jobs": {"runtime", "bundle", "engines", "media", "provenance", "core"},
    "server": {"jobs", "provenance", "core"},
    "story": {"jobs", "runtime", "bundle", "engines", "media", "provenance", "core"},
    "bench": {"runtime", "quality", "demo", "bundle", "engines", "media", "provenance", "core"},
}
HEAVY = {"torch", "diffusers", "transformers", "onnx", "onnxscript", "accelerate"}
TORCH_FREE = {
    "core",
    "bundle",
    "engines",
    "provenance",
    "media",
    "runtime",
    "jobs",
    "server",
    "doctor",
    "story",
    "cli",
    "__init__.py",
    "__main__.py",
}
ONNX = {("engines", "graphs"), ("engines", "lowering"), ("engines", "costs")}
NOT_OURS = {"tests", "tools", "examples", "build", "dist", "docs"}


def sources():
    """Yield every Python file of the package, relative to its root."""
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT)
        if not any(part in NOT_OURS or part.startswith(".") for part in relative.parts[:-1]):
            yield relative


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_release_is_told_once(project):
    assert project["project"]["version"] == edgereel.__version__


def test_every_package_is_listed(project):
    """One that is left out is missing from the wheel, and nothing says so."""
    folders = {path.parent for path in sources() if path.name == "__init__.py"}
    names = {".".join(["edgereel", *folder.parts]) for folder in folders}
    assert set(project["tool"]["setuptools"]["packages"]) == names


def test_every_module_lies_in_a_package():
    assert [path for path in sources() if not (ROOT / path.parent / "__init__.py").exists()] == []


def test_the_demo_is_in_the_wheel(project):
    patterns = project["tool"]["setuptools"]["package-data"]["edgereel.demo"]
    assert Path("demo.reel/reel.json").match(patterns[0])
    listed = [path for pattern in patterns for path in (ROOT / "demo").glob(pattern)]
    everything = [path for path in (ROOT / "demo" / "demo.reel").rglob("*") if path.is_file()]
    assert sorted(listed) == sorted(everything)
    assert everything


def test_the_policies_are_in_the_wheel(project):
    assert project["tool"]["setuptools"]["package-data"]["edgereel.provenance.policy"] == ["*.toml"]
    assert {path.stem for path in (ROOT / "provenance" / "policy").glob("*.toml")} == {"booth", "private"}


def test_the_font_and_what_stories_begin_with_are_in_the_wheel(project):
    data = project["tool"]["setuptools"]["package-data"]
    for folder, names in {
        "media": ["presets.toml", "fonts/DejaVuSans.ttf", "fonts/LICENSE"],
        "story.script": ["film.yaml"],
    }.items():
        found = {
            path.relative_to(ROOT / Path(*folder.split(".")))
            for pattern in data[f"edgereel.{folder}"]
            for path in (ROOT / Path(*folder.split("."))).glob(pattern)
        }
        assert {Path(name) for name in names} <= found


@pytest.mark.parametrize("path", list(sources()), ids=str)
def test_syntax_is_that_of_the_oldest_python(path, project):
    assert project["project"]["requires-python"] == ">=3.10"
    ast.parse((ROOT / path).read_text(encoding="utf-8"), feature_version=(3, 10))


def imports(path):
    """Yield (line, first name, whether it is ours) of every import in a file, relative ones resolved."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".") if node.module else []
            if node.level:
                module = ["edgereel", *path.parts[: len(path.parts) - node.level], *module]
            names = [[*module, alias.name] for alias in node.names]
        else:
            continue
        for name in names:
            ours = name[0] == "edgereel"
            yield node.lineno, name[1] if ours and len(name) > 1 else name[0], ours


def test_the_walk_over_imports_sees_what_it_should():
    found = {(name, ours) for _, name, ours in imports(Path("runtime/reel.py"))}
    assert {("engines", True), ("core", True), ("runtime", True), ("time", False)} <= found
    assert ("numpy", False) in {(name, ours) for _, name, ours in imports(Path("runtime/clip.py"))}
    assert ("torch", False) in {(name, ours) for _, name, ours in imports(Path("export/bundle.py"))}


def test_imports_follow_the_arrows():
    against = []
    for path in sources():
        place = path.parts[0]
        for line, name, ours in imports(path):
            allowed = MAY_IMPORT.get(place, OURS) | {place}
            if ours and name in OURS and name not in allowed:
                against.append(f"{path}:{line} imports {name}/")
            lowering = name == "onnx" and path.parts[:2] in ONNX
            heavy = name in HEAVY and place in TORCH_FREE and not lowering
            if not ours and (heavy or (place == "calibration" and name in HEAVY - {"onnx"})):
                against.append(f"{path}:{line} imports {name}")
    assert against == []


def imported_modules(path, modules):
    """Yield every module of ours that a file imports, at its top or in a function; not what only type checkers read."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            node.body = []  # before its children are walked
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = ("edgereel", *path.parts[: len(path.parts) - node.level]) if node.level else ()
            start += tuple((node.module or "").split(".")) if node.module else ()
            names = [(*start, alias.name) for alias in node.names]
        else:
            continue
        for name in names:
            if name[0] == "edgereel":
                found = next((name[1:end] for end in (len(name), len(name) - 1) if name[1:end] in modules), None)
                if found is not None:
                    yield found


def circles(imports_of):
    """Return the sets of modules that import one another, in a circle of any length."""
    reached = {}
    for start in imports_of:
        seen, waiting = set(), list(imports_of[start])
        while waiting:
            if (module := waiting.pop()) not in seen:
                seen.add(module)
                waiting += imports_of[module]
        reached[start] = seen
    found = {frozenset(other for other in reached[start] if start in reached[other]) for start in imports_of}
    return sorted((set(circle) for circle in found if circle), key=sorted)


def test_the_search_for_circles_finds_them():
    assert circles({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a", "e"], "e": [], "f": ["f"]}) == [
        {"a", "b", "c"},
        {"f"},
    ]
    assert circles({"a": ["b", "c"], "b": ["c"], "c": []}) == []


def test_modules_import_each_other_in_no_circle():
    """Counted are imports in functions too, which only put a circle off; not those of a package by what is in it."""
    modules = {path.with_suffix("").parts: path for path in sources()}
    modules = {name[:-1] if name[-1] == "__init__" else name: path for name, path in modules.items()}
    imports_of = {name: list(imported_modules(path, modules)) for name, path in modules.items()}
    assert ("core", "errors") in imports_of["engines", "base"]
    assert ("engines", "graphs", "parts") in imports_of["engines", "base"]  # in a function
    assert ("engines", "cache", "engines") not in imports_of["cli", "terminal"]  # for type checkers
    found = [{".".join(name) for name in circle} for circle in circles(imports_of)]
    assert found == []
