"""`edgereel build`, `plan` and `cache` where there is no GPU: what would be built, what would fit, what is kept."""

from __future__ import annotations

import json

import pytest
from conftest import DEMO_REEL
from helpers.command_line import refused

from edgereel.core import paths
from edgereel.engines.cache.engines import EngineCache, EngineKey

pytestmark = pytest.mark.lean

BUNDLE = str(DEMO_REEL)
GRAPHS = {"text_encoder", "denoiser", "decoder_first", "decoder_next"}


def done(result, code=0):
    found, out, err = result
    assert (found, err) == (code, "")
    return out


@pytest.mark.parametrize("target", ["tensorrt-10.3", "tensorrt-10.15", "tensorrt-11.0", "tensorrt-rtx-1.7", "cuda"])
@pytest.mark.parametrize("compute", ["float16", "float32"])
def test_what_would_be_built(run, words_reel, target, compute):
    shown = json.loads(done(run("build", words_reel, "--target", target, "--dry-run", "--compute", compute, "--json")))
    assert (shown["target"], shown["compute"], set(shown["graphs"])) == (target, compute, GRAPHS)
    denoiser = shown["graphs"]["denoiser"]
    assert denoiser["shapes"]["latents"] == [1, 24, 5, 4, 4]
    assert (denoiser["half_nodes"] > 0) == (compute == "float16")
    assert denoiser["before"]["Attention"] == 12
    assert ("Attention" in denoiser["after"]) == (target in ("tensorrt-10.15", "tensorrt-11.0", "tensorrt-rtx-1.7"))


def test_what_would_be_built_of_a_model_that_goes_on(run):
    shown = json.loads(done(run("build", BUNDLE, "--target", "tensorrt-10.3", "--dry-run", "--json")))
    encoder = {"encoder_first", "encoder_next"}
    assert set(shown["graphs"]) == GRAPHS | encoder | {"tiny_decoder_first", "tiny_decoder_next"}
    assert all(graph["half_nodes"] for name, graph in shown["graphs"].items() if name != "text_encoder")


def test_a_dry_run_with_a_plan_for_a_described_card(run):
    card = ["--memory", "8GiB", "--compute-capability", "8.9"]
    shown = json.loads(
        done(run("build", BUNDLE, "--target", "tensorrt-10.3", "--dry-run", *card, "--size", "128x64", "--json"))
    )
    assert shown["graphs"]["decoder_first"]["shapes"]["latent"] == [1, 24, 1, 4, 8]
    assert shown["plan"]["device"] == "gpu"
    assert shown["plan"]["budget"] == 8 * 2**30
    text = done(run("build", BUNDLE, "--target", "tensorrt-10.3", "--dry-run"))
    assert "target       tensorrt-10.3: opset 17, float16" in text
    assert "rewrites   " in text


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--target", "tensorrt-7.0", "--dry-run"], 2, "unknown target tensorrt-7.0: there are "),
        (["--target", "abacus", "--dry-run"], 2, "unknown target abacus"),
        (["--target", "cuda"], 2, "are for --dry-run"),
        (["--dry-run"], 2, "needs a --target"),
        (["--target", "cuda", "--dry-run", "--compute-capability", "8.9"], 2, "say how much there is with --memory"),
        (["--compute", "int1", "--target", "cuda", "--dry-run"], 2, "choose float16, bfloat16 or float32"),
        (["--size", "65x64", "--dry-run", "--target", "cuda"], 2, "the nearest is 64x64"),
        (["--dry-run", "--target", "cuda", "--memory", "1MiB"], 1, "does not fit into 1 MiB"),
        (["--engine", "cuda"], 1, "the cuda engine cannot run here: "),
        (["--engine", "tensorrt"], 1, "the tensorrt engine cannot run here: "),
        (["--engine", "rtx"], 1, "the rtx engine cannot run here: "),
        (["--engine", "abacus"], 2, "unknown engine 'abacus'"),
    ],
)
def test_what_cannot_be_built(run, arguments, code, part):
    refused(run("build", BUNDLE, *arguments), code, part)


def test_building_for_the_processor(run, words_reel):
    built = json.loads(done(run("build", words_reel, "--engine", "cpu", "--json")))
    assert set(built["graphs"]) == GRAPHS
    assert {graph["lowered"] for graph in built["graphs"].values()} <= {"built", "cache"}
    again = json.loads(done(run("build", words_reel, "--engine", "cpu", "--json")))
    assert {graph["lowered"] for graph in again["graphs"].values()} == {"cache"}


def test_a_plan(run):
    found = json.loads(done(run("plan", BUNDLE, "--memory", "1GiB", "--json")))
    assert (found["fits"], found["budget"], found["device"]) == (True, 2**30, "cpu")
    assert "memory       needs " in done(run("plan", BUNDLE, "--memory", "8GiB", "--compute-capability", "8.9"))
    refused(run("plan", BUNDLE, "--memory", "1MiB"), 1, "no smaller or shorter clip fits")
    refused(run("plan", BUNDLE, "--memory", "six"), 2, "'six' is no amount of memory")
    refused(run("plan", BUNDLE, "--compute-capability", "8.9"), 2, "say how much with --memory")


def test_generate_holds_to_a_budget_and_says_so(run):
    quick = ["--steps", "1", "--frames", "5", "--size", "32x32", "--bundle", BUNDLE]
    refused(
        run("generate", "a red ball", *quick, "--memory", "1MiB"), 1, "does not fit into 1 MiB of memory (as asked for)"
    )
    record = json.loads(done(run("generate", "a red ball", *quick, "--memory", "1GiB", "--json")))
    assert record["memory"]["plan"]["budget"] == 2**30
    assert record["memory"]["peak_host_bytes"] > 2**20
    assert record["memory"]["steps_down"] == []
    assert record["engine"]["picked"].startswith("cpu")


def keep_an_engine():
    key = EngineKey("0" * 64, "1" * 64, "tensorrt", "10.3", "560.1", "a card", "8.7", "float16")
    EngineCache().get_or_build(key, lambda path: path.write_bytes(b"engine" * 1000)).close()
    return key.digest()


def test_the_cache(run):
    assert "the cache is empty" in done(run("cache", "ls"))
    digest = keep_an_engine()
    done(run("build", BUNDLE, "--engine", "cpu"))
    listed = json.loads(done(run("cache", "ls", "--json")))
    assert {part["name"] for part in listed["parts"]} >= {"engines", "lowered"}
    assert [entry["digest"] for entry in listed["engines"]] == [digest]
    assert "tensorrt 10.3, a card" in done(run("cache", "ls"))
    assert done(run("cache", "verify")) == "1 of 1 built engines are as they were built\n"
    path = paths.cache_folder() / "engines" / f"{digest}.engine"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    code, out, _ = run("cache", "verify")
    assert code == 1
    assert "0 of 1" in out
    freed = json.loads(done(run("cache", "rm", digest[:12], "--json")))["freed"]
    assert freed >= 6000
    assert json.loads(done(run("cache", "ls", "--json")))["engines"] == []
    done(run("cache", "rm", "--part", "lowered"))
    done(run("cache", "rm", "--all"))
    assert all(part["bytes"] == 0 for part in json.loads(done(run("cache", "ls", "--json")))["parts"])


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "say what to remove"),
        (["--all", "--part", "lowered"], "say what to remove"),
        (["ab"], "'ab' is the beginning of no built engines"),
        (["--part", "../.."], "there is no part"),
    ],
)
def test_what_cannot_be_removed(run, arguments, part):
    refused(run("cache", "rm", *arguments), 2, part)
