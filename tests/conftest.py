"""Fixtures that several test modules share: the shipped demo, and a random checkpoint of another configuration."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A busy machine holds any example up; what takes how long is measured in bench/.
settings.register_profile("edgereel", deadline=None)
settings.load_profile("edgereel")

# What a shell starts in the background ignores ctrl-C, and so does what it starts; with nohup a closed terminal, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Each worker has a core. Libraries that took all of them in every worker would wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = Path(__file__).parent
HELPERS = HERE / "helpers"
ROOT = HERE.parent
LONGEST = {"export", "demo", "calibration", "runtime"}
"""Folders whose files export, train or compare with diffusers."""
DEMO_REEL = Path(os.environ.get("EDGEREEL_TEST_REEL", ROOT / "demo" / "demo.reel"))
DEMO_CHECKPOINT = ROOT / "demo" / "checkpoint"
DEMO_STUDENT = ROOT / "demo" / "student"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lean", action="store_true", help="only files marked lean, which need no torch")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --lean, leave out files without `pytest.mark.lean`: the others may not even be imported without torch."""
    if config.getoption("--lean") and collection_path.suffix == ".py":
        return "pytest.mark.lean" not in collection_path.read_text(encoding="utf-8") or None
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first: one that starts last keeps the other workers waiting."""
    items.sort(key=lambda item: item.path.relative_to(HERE).parts[0] not in LONGEST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With --lean, fail a test that misses a package and is not marked extras: `make test` would run it nowhere."""
    report = yield
    missed = report.skipped and "could not import" in str(report.longrepr)
    if missed and item.config.getoption("--lean") and item.get_closest_marker("extras") is None:
        report.outcome = "failed"
        report.longrepr = f"{report.longrepr}: mark the test `extras`, so that it runs where the package is"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """With --lean, fail a file that misses a package, as a single test does."""
    report = yield
    found = str(report.longrepr)
    if (
        report.skipped
        and collector.config.getoption("--lean")
        and "could not import" in found
        and "tomllib" not in found
    ):
        report.outcome = "failed"
        report.longrepr = f"{found}: a file that needs the package is not lean"
    return report


def helpers_environment() -> dict[str, str]:
    """The environment of a process that imports what the tests can, their helpers too."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}


@pytest.fixture(autouse=True, scope="session")
def _none_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache, models, keys and logs out of what a file's tests share: fixtures of modules come first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEREEL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("EDGEREEL_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's cache, models, keys and logs out of the tests."""
    monkeypatch.setenv("EDGEREEL_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("EDGEREEL_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[Any, str, str]]:
    """Run the command line in this process, in an empty folder; return exit code, stdout, stderr."""
    from edgereel import cli

    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: object) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["edgereel", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Return the path that `make` writes at, made by whichever of the run's workers asks for it first."""
    from filelock import FileLock  # comes with torch, and what is made so is exported

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def made_once(name: str, make: Callable[[Path], object]) -> Path:
        place = folder / f"{name}_once"
        with FileLock(folder / f"{name}.lock"):
            if not (place / "done").exists():
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                make(place / name)
                (place / "done").touch()
        return place / name

    return made_once


@pytest.fixture(scope="session")
def random_checkpoint(made_once: Callable[..., Path]) -> Path:
    """A random Wan checkpoint: plain VAE, patches of 2, other depth, heads and latent channels than the demo's."""
    from helpers.tiny_wan import write_tiny_wan

    options = {"seed": 3, "depth": 3, "heads": 4, "latent_channels": 6, "vae_levels": 3}
    return made_once("random", lambda folder: write_tiny_wan(folder, **options))


@pytest.fixture(scope="session")
def random_reel(random_checkpoint: Path, made_once: Callable[..., Path]) -> Path:
    from edgereel.export import export_checkpoint

    return made_once("random.reel", lambda reel: export_checkpoint(random_checkpoint, reel, max_tokens=16))


@pytest.fixture(scope="session")
def ltx_checkpoint(made_once: Callable[..., Path]) -> Path:
    """A random LTX-Video checkpoint of 0.9.5's kind, whose decoder takes a whole clip, a timestep and noise."""
    from helpers.tiny_ltx import write_tiny_ltx

    return made_once("ltx", lambda folder: write_tiny_ltx(folder, seed=1))


@pytest.fixture(scope="session")
def ltx_reel(ltx_checkpoint: Path, made_once: Callable[..., Path]) -> Path:
    from edgereel.export import export_checkpoint

    return made_once("ltx.reel", lambda reel: export_checkpoint(ltx_checkpoint, reel, max_tokens=16))


@pytest.fixture(scope="session")
def two_decoder_reel(made_once: Callable[..., Path]) -> Path:
    """The shipped bundle with a random tiny decoder beside its full one, which is the default."""
    pytest.importorskip("torch")
    from helpers.tiny_decoders import write_two_decoder_reel

    return made_once("two_decoders.reel", write_two_decoder_reel)


@pytest.fixture(scope="session")
def experts_checkpoint(made_once: Callable[..., Path]) -> Path:
    """A random checkpoint of two experts: see helpers/experts.py."""
    from helpers.experts import write_experts

    return made_once("experts", write_experts)


@pytest.fixture(scope="session")
def experts_reel(experts_checkpoint: Path, made_once: Callable[..., Path]) -> Path:
    from edgereel.export import export_checkpoint

    return made_once("experts.reel", lambda reel: export_checkpoint(experts_checkpoint, reel, max_tokens=16))


@pytest.fixture(scope="session")
def wide_denoiser(made_once: Callable[..., Path]) -> Path:
    """A denoiser of Wan 2.1 1.3B's width with one block, seeded random weights in bfloat16."""
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    return made_once("wide", _write_wide_denoiser) / "denoiser.onnx"


def _write_wide_denoiser(folder: Path) -> None:
    import diffusers
    import torch

    from edgereel.export.checkpoint import Component
    from edgereel.export.families.wan.parts import DenoiserPart
    from edgereel.export.graphs import DataFile, save_graph
    from edgereel.tools.step_bench.random_wan import TRANSFORMER

    folder.mkdir()
    torch.manual_seed(0)
    model = diffusers.WanTransformer3DModel(**{**TRANSFORMER, "num_layers": 1})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.to(torch.bfloat16).save_pretrained(folder / "transformer")
    del model
    config = json.loads((folder / "transformer" / "config.json").read_text())
    part = DenoiserPart("denoiser", Component(folder / "transformer", config))
    with DataFile(folder / "denoiser.data") as data:
        save_graph(part.graphs(part.load(), torch.float32)[0], folder, data)


@pytest.fixture(scope="session")
def teacher_reel(made_once: Callable[..., Path]) -> Path:
    """The demo's teacher, exported from the shipped checkpoint."""
    from edgereel.export import export_checkpoint

    return made_once("teacher.reel", lambda reel: export_checkpoint(DEMO_CHECKPOINT, reel))


@pytest.fixture
def demo_copy(tmp_path: Path) -> Path:
    """A copy of the shipped bundle that a test may damage."""
    return Path(shutil.copytree(DEMO_REEL, tmp_path / "copy.reel"))


@pytest.fixture(scope="session")
def words_reel() -> Path:
    """The built-in model as one that makes clips of words alone, 64x64: see helpers/words_bundle.py."""
    from helpers.words_bundle import WORDS_REEL

    return WORDS_REEL


@pytest.fixture
def words_copy(words_reel: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(words_reel, tmp_path / "words.reel"))


@pytest.fixture
def guided_copy(demo_copy: Path) -> Path:
    """The shipped bundle with a recipe by rule and with guidance as its default, as undistilled models have."""
    recipe = {"name": "unipc", "sampler": "unipc", "steps": 30, "shift": 3.0, "guidance": 4.0}
    edit_manifest(demo_copy, lambda data: data["recipes"].insert(0, recipe))
    return demo_copy


def edit_manifest(reel: Path, change: Callable[[dict[str, Any]], object], *, sign: bool = True) -> None:
    """Change a bundle's manifest in place; sign: with a right digest, as an attacker would."""
    from edgereel.bundle.manifest import digest_of

    path = reel / "reel.json"
    data = json.loads(path.read_text())
    change(data)
    if sign:
        data["digest"] = digest_of(data)
    path.write_text(json.dumps(data))
