"""Peers beside edgereel: diffusers for real, OpenVINO where it is installed, and peers that are not what they should be."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import DEMO_CHECKPOINT, DEMO_REEL, DEMO_STUDENT, edit_manifest

from edgereel.bench.contenders.base import Peer, RowPlan
from edgereel.bench.contenders.diffusers import DiffusersCheckpoint, DiffusersContender
from edgereel.bench.contenders.openvino import OpenVinoContender
from edgereel.bench.contenders.peers import find_checkpoint, find_peers
from edgereel.bench.grid import plan_rows
from edgereel.bench.records.earlier import with_earlier
from edgereel.bench.records.folder import write_record
from edgereel.bench.records.record import Quality, Record, read_record
from edgereel.bench.report.peers import has_peers, peer_table
from edgereel.bench.report.scores import quality_text
from edgereel.bench.run import run_bench
from edgereel.bench.scores import mean_psnr
from edgereel.bundle.reader import open_bundle
from edgereel.core.errors import EngineError, MissingExtraError, UsageError
from edgereel.runtime.reel import load
from edgereel.runtime.request import OpenRequest

PROMPTS = ["a red ball bounces over the ocean", "in the forest a white star is growing"]
SMALL = {"size": (32, 32), "frames": 17}  # a whole chunk: what diffusers makes too
DEMO = DiffusersCheckpoint(DEMO_CHECKPOINT, DEMO_STUDENT)


def plan_of(bundle: Path = DEMO_REEL, **settings) -> RowPlan:
    opened = open_bundle(bundle)
    request = OpenRequest(PROMPTS[0], **{**SMALL, **settings}).complete(opened.manifest)
    return RowPlan("it", "a peer", opened, "cpu", request, threads=1)


def diffusers(tmp_path: Path, kind: type[DiffusersContender] = DiffusersContender) -> Peer:
    """diffusers on the demo's checkpoint, eager."""
    return Peer(lambda plan: kind(plan, DEMO, False, "float32", tmp_path), runs_checkpoint=True)


def openvino(tmp_path: Path) -> Peer:
    return Peer(lambda plan: OpenVinoContender(plan, "float32", tmp_path))


def our_clip(bundle: Path, prompt: str, seed: int, **settings):
    with load(bundle, "cpu", threads=1, cache=False) as reel:
        return np.stack(list(reel.generate(prompt, seed=seed, **{**SMALL, **settings})))


def run_small(peers, **settings) -> Record:
    return run_bench(
        [DEMO_REEL],
        ["cpu"],
        PROMPTS,
        [1],
        [(32, 32)],
        [17],
        **{"min_runs": 2, "cold": 0, "threads": 1, "peers": peers, **settings},
    )


class KeptDiffusers(DiffusersContender):
    """diffusers in one process for all that opens it here: importing torch takes longer than the clips."""

    kept = None

    def start(self):
        if KeptDiffusers.kept is None:
            stages = super().start()
            KeptDiffusers.kept = self._process
            return stages
        self._process = KeptDiffusers.kept
        return self._ask(do="open", **self.opening())["stages"]


@pytest.fixture(scope="module")
def open_diffusers(tmp_path_factory):
    """Give what opens diffusers for a bundle's clips, in a process that all tests share."""

    def start(*bundle, **settings):
        contender = diffusers(tmp_path_factory.mktemp("torch"), KeptDiffusers).make(plan_of(*bundle, **settings))
        contender.start()
        return contender

    yield start
    if KeptDiffusers.kept is not None:
        KeptDiffusers.kept.kill()
        KeptDiffusers.kept = None


@pytest.mark.parametrize("steps", [4, 1])
def test_diffusers_makes_our_clip_of_the_same_noise(open_diffusers, steps):
    contender = open_diffusers(steps=steps)
    theirs = contender.frames(PROMPTS[1], 7)
    times = contender.make(PROMPTS[1], 7)
    facts = contender.facts()
    assert mean_psnr([our_clip(DEMO_REEL, PROMPTS[1], 7, steps=steps)], [theirs]) >= 60
    assert mean_psnr([our_clip(DEMO_REEL, PROMPTS[1], 8, steps=steps)], [theirs]) < 40  # another seed is another clip
    assert list(times.stages) == ["text", "denoise", "decode", "encode"]
    assert sum(times.stages.values()) == pytest.approx(times.total)
    assert len(times.details["denoise_step"]) == steps
    assert sum(times.details["denoise_step"]) <= times.stages["denoise"]
    assert facts.precision == ["float32"]
    assert facts.threads == 1


def test_diffusers_samples_a_guided_recipe_by_rule_as_we_do(open_diffusers, guided_copy):
    theirs = open_diffusers(guided_copy, steps=3).frames(PROMPTS[0], 3)
    assert mean_psnr([our_clip(guided_copy, PROMPTS[0], 3, steps=3)], [theirs]) >= 60


class WrongSigma(DiffusersContender):
    """diffusers told another noise level than the recipe's."""

    def opening(self):
        opening = super().opening()
        return {**opening, "sigmas": [0.8 * opening["sigmas"][0], *opening["sigmas"][1:]]}


class Crashing(DiffusersContender):
    """A worker that dies while it opens."""

    def command(self):
        return [sys.executable, "-c", "raise SystemExit('the planted end')"]


def test_a_record_has_the_peer_and_refuses_those_that_make_other_clips_or_crash(tmp_path):
    peers = {"diffusers eager": diffusers(tmp_path)}
    peers |= {"wrong": diffusers(tmp_path, WrongSigma), "crashing": diffusers(tmp_path, Crashing)}
    record = run_small(peers, cold=1)
    ours, right, wrong, crashing = record.rows
    assert not ours.failures
    assert not right.failures
    assert right.quality.psnr_to_edgereel_db >= 60
    assert right.warm.runs == 2
    assert right.cold.stages["start"].median > 0
    assert right.cold.stages["open"].median > 0.01  # reading the checkpoint is not part of starting
    assert right.installed_bytes > ours.installed_bytes
    assert max(stage.peak_host_bytes or 0 for stage in right.stages.values()) > 2**26

    assert wrong.warm is None
    assert wrong.cold is None
    assert wrong.quality.psnr_to_edgereel_db < 60
    assert wrong.failures[0].startswith(
        f"it made another clip ({wrong.quality.psnr_to_edgereel_db:.1f} dB, 60 at least)"
    )
    assert crashing.warm is None
    assert "the planted end" in crashing.failures[0]
    assert "\n" not in crashing.failures[0]
    assert {each.second for each in record.comparisons} == {right.name}

    table = peer_table(record).splitlines()
    assert has_peers(record)
    assert len(table) == 6
    assert f"{right.cold.stages['total'].median:.3f}" in table[3]
    assert f"{right.warm.stages['denoise'].median:.3f}" in table[3]
    assert "failed" in table[4]
    assert "failed" in table[5]
    assert {line.count("|") for line in table} == {table[0].count("|")}


def test_a_checkpoint_peer_has_one_row_for_each_setting_and_one_of_graphs_a_row_for_each_bundle(tmp_path, demo_copy):
    peers = {"diffusers eager": diffusers(tmp_path), "OpenVINO": openvino(tmp_path)}
    plans = plan_rows([DEMO_REEL, demo_copy], ["cpu"], [4, 1], [None], [None], PROMPTS, 1, peers)
    assert [plan.contender for plan in plans] == [
        *["edgereel", "diffusers eager", "OpenVINO"] * 2,
        *["edgereel", "OpenVINO"] * 2,
    ]
    assert len({plan.name for plan in plans}) == len(plans)


def test_a_missing_package_is_one_line_and_others_go_on(tmp_path, monkeypatch):
    peers, extras = {"diffusers": diffusers(tmp_path), "openvino": openvino(tmp_path)}, ("export", "openvino")
    for name, extra in zip(peers, extras, strict=True):
        monkeypatch.setitem(sys.modules, name, None)
        said = rf'{name}, which is not installed: pip install "edgereel\[{extra}\]"'
        with pytest.raises(MissingExtraError, match=said):
            peers[name].make(plan_of(steps=1)).start()
    record = run_small(peers)
    assert record.rows[0].warm.runs == 2
    for row, extra in zip(record.rows[1:], extras, strict=True):
        assert row.warm is None
        assert f'pip install "edgereel[{extra}]"' in row.failures[0]


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_runs_our_graphs_to_our_clip(tmp_path):
    record = run_small({"OpenVINO": openvino(tmp_path)}, cold=1)
    theirs = record.rows[1]
    assert not theirs.failures
    assert theirs.quality.psnr_to_edgereel_db >= 60
    assert theirs.engine.engine == "openvino"
    assert theirs.engine.precision == ["float32"]
    assert theirs.engine.build == "built"
    assert theirs.engine.build_seconds > 0
    assert theirs.cold.stages["build"].median == 0  # what the first process compiled was kept


def test_a_sampler_that_diffusers_does_not_have_is_an_error_of_one_line(tmp_path, demo_copy):
    edit_manifest(demo_copy, lambda data: data["recipes"][0].update(sampler="sde"))
    with pytest.raises(EngineError, match="euler and unipc only, and the recipe has sde"):
        diffusers(tmp_path).make(plan_of(demo_copy)).opening()


@pytest.mark.parametrize(("name", "package"), [("diffusers", "torch"), ("openvino", "openvino")])
def test_a_peer_that_is_not_installed_is_refused_at_once(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r'pip install "edgereel\['), find_peers([name], None):
        pass


def test_peers_are_chosen_by_name(monkeypatch):
    monkeypatch.setattr("edgereel.bench.contenders.peers.require_packages", lambda *_: None)
    with find_peers(["diffusers", "openvino", "diffusers-bfloat16"], None) as peers:
        assert list(peers) == [
            *("diffusers eager", "diffusers compiled", "OpenVINO"),
            *("diffusers eager bfloat16", "diffusers compiled bfloat16"),
        ]
        contender = peers["diffusers compiled bfloat16"].make(plan_of(steps=1))
        assert (contender.dtype, contender.compiled) == ("bfloat16", True)
    with pytest.raises(UsageError, match="no peer 'torch': choose from diffusers"), find_peers(["torch"], None):
        pass


def test_the_checkpoint_is_the_demos_or_must_be_given(tmp_path, demo_copy):
    assert find_checkpoint(None) == DEMO
    assert find_checkpoint(demo_copy, DEMO_CHECKPOINT, DEMO_STUDENT) == DEMO
    with pytest.raises(UsageError, match="--checkpoint FOLDER"):
        find_checkpoint(demo_copy)
    with pytest.raises(UsageError, match="--checkpoint FOLDER"):
        find_checkpoint(None, None, DEMO_STUDENT)
    with pytest.raises(UsageError, match=r"has no model_index\.json"):
        find_checkpoint(None, tmp_path)


def test_an_earlier_record_becomes_references(tmp_path):
    record = run_small({}, min_runs=16)
    slower = json.loads(json.dumps(record.to_json()))
    slower["versions"]["numpy"] = "0.1"
    for name, samples in slower["rows"][0]["warm"]["samples"].items():
        slower["rows"][0]["warm"]["samples"][name] = [2 * sample for sample in samples]
        slower["rows"][0]["warm"]["stages"][name]["median"] *= 2
    earlier = Record.model_validate_json(json.dumps(slower))
    both = with_earlier(record, [(Path("old.json"), earlier), (Path("older.json"), earlier)])
    name = record.rows[0].name
    assert [row.name for row in both.rows] == [name, f"before: {name}", f"before: before: {name}"]
    assert len(record.rows) == 1
    found = both.comparisons[0]
    assert (found.first, found.second, found.in_turns, found.rounds) == (f"before: {name}", name, False, 16)
    assert found.ratio == pytest.approx(0.5)
    assert found.low <= 0.5 <= found.high
    assert any("numpy" in note for note in both.notes)
    assert read_record(write_record(both, tmp_path)).rows[1].name == f"before: {name}"


def test_earlier_rows_keep_what_their_clips_were_compared_with():
    """The first row of another record is not the first row of this one; older records name no reference."""
    from helpers import bench_records as records

    quality = Quality(source="none", psnr_to_first_db=20.0)
    named = quality.model_copy(update={"psnr_to_reference_db": 40.0})
    rows = [records.make_row("a"), records.make_row("b", quality=quality)]
    rows.append(records.make_row("c", quality=named, reference="b"))
    both = with_earlier(records.make_record(records.make_row("now")), [(Path("old.json"), records.make_record(*rows))])
    earlier = both.rows[1:]
    assert [row.reference for row in earlier] == [None, "before: a", "before: b"]
    assert [row.quality.psnr_to_reference_db for row in earlier] == [None, 20.0, 40.0]
    assert [row.quality.psnr_to_first_db for row in earlier] == [None, None, None]
    assert quality_text(earlier[1], both) == "20.0 dB to before: a"
