"""The record: it comes back as it was written, its schema is the published one, and damage is one line of words."""

from __future__ import annotations

import copy
import json
import math

import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgereel.bench.contenders.stages import ClipTimes
from edgereel.bench.records.folder import prepare_folder, write_record
from edgereel.bench.records.record import Conditions, Power, Record, StageResources, read_record, schema_text
from edgereel.bench.report import markdown_table
from edgereel.bench.rows import timing_of
from edgereel.core.errors import OutputError, UsageError


def record() -> Record:
    """A record by hand, with every part of the schema in it."""
    clips = [
        ClipTimes(0.5 + place / 100, {"text": 0.1, "denoise": 0.4}, {"denoise_step": [0.2, 0.2]}) for place in range(9)
    ]
    row = {
        "contender": "edgereel",
        "bundle": {"name": "demo", "digest": "00" * 32, "precision": "bf16", "bytes": 10},
        "engine": {"engine": "cpu", "version": "1", "provider": ["p"], "precision": ["float32"], "threads": 2},
        "settings": {
            **{"width": 64, "height": 64, "frames": 17, "fps": 8, "steps": 2, "recipe": "r", "sampler": "euler"},
            **{"guidance": [1.0], "prompts": 1, "prompts_sha256": "00", "seeds": [0]},
        },
        "warm": timing_of(clips, 17, 8).model_dump(),
        "cold": None,
        "quality": {"source": "bundle", "figures": {"shown": 1.0}},
        "stages": {"text": StageResources(flops=3, bytes=4, fraction_of_compute=0.5, bound="compute").model_dump()},
        "memory_timeline": [(0.0, 100), (0.5, 200)],
        "power": Power(source="rapl", average_watts=3.0, peak_watts=4.0, joules_per_clip=1.5).model_dump(),
        "conditions": Conditions(clock_mhz={"cpu": [1000.0]}, throttled=False).model_dump(),
    }
    comparison = {"first": "a", "second": "b", "stage": "total", "ratio": 1.0, "low": 0.9, "high": 1.1, "rounds": 9}
    return Record.model_validate(
        {
            "schema": 1,
            "started": "2026-01-01T00:00:00+00:00",
            "seconds": 9.0,
            "command": ["edgereel", "bench", "run"],
            "machine": {
                **{"system": "Linux", "processor": "p", "cores": 2, "instruction_sets": ["AVX2"], "memory": 1},
                "gpus": [{"name": "g", "memory": None, "compute_capability": "9.0", "driver": "1"}],
            },
            "versions": {"python": "3.11"},
            "limits": {"flops_per_second": {"float32": 1e9}, "bytes_per_second": 1e9, "threads": 2, "method": "m"},
            "rows": [{"name": "a", **row}, {"name": "b", **row}],
            "comparisons": [{**comparison, "verdict": "no difference found"}],
        }
    )


DATA = record().to_json()


def places(data, here=()):
    """Yield the place of every value in JSON data, the outermost excepted."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*here, key)
        yield from places(value, (*here, key))


def read(tmp_path, content: bytes) -> Record:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    return read_record(path)


def test_it_comes_back_as_it_was_written(tmp_path):
    path = write_record(record(), prepare_folder(tmp_path / "new" / "folder"))
    assert read_record(path) == record()
    assert [each.name for each in path.parent.iterdir()] == ["record.json"]


def test_what_is_unknown_is_kept(tmp_path):
    changed = copy.deepcopy(DATA)
    changed["rows"][0]["tomorrow"] = {"x": 1}
    assert read(tmp_path, json.dumps(changed).encode()).to_json()["rows"][0]["tomorrow"] == {"x": 1}


def test_the_schema_is_the_published_one():
    """Drifted: python -m edgereel.bench.records.record > docs/bench.schema.json"""
    assert (ROOT / "docs" / "bench.schema.json").read_text(encoding="utf-8") == schema_text() + "\n"


def test_the_schema_describes_what_is_written():
    """Every key that a record has is in the schema, and every key that the schema wants is in the record."""
    schema = json.loads(schema_text())
    row = schema["$defs"]["Row"]
    assert set(schema["required"]) <= set(DATA) <= set(schema["properties"])
    assert set(row["required"]) <= set(DATA["rows"][0]) <= set(row["properties"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "written by a newer edgereel"),
        ({"schema": 0}, "no schema version"),
        ({"schema": True}, "no schema version"),
        ({"schema": None}, "no schema version"),
        ({"seconds": math.nan}, "damaged: seconds"),
        ({"seconds": -1.0}, "damaged: seconds"),
        ({"rows": {}}, "damaged: rows"),
        ({"started": 5}, "damaged: started"),
    ],
)
def test_wrong_values_are_named(tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        read(tmp_path, json.dumps({**DATA, **change}).encode())


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"null", b"9" * 5000])
def test_what_is_no_record_is_refused(tmp_path, content):
    with pytest.raises(UsageError):
        read(tmp_path, content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nothing\.json: cannot be read"):
        read_record(tmp_path / "nothing.json")


def read_or_message(tmp_path, content: bytes) -> tuple[Record | None, str]:
    try:
        return read(tmp_path, content), ""
    except UsageError as error:
        return None, str(error)


WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@given(place=st.sampled_from(list(places(DATA))), wrong=WRONG, remove=st.booleans())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_record_is_a_usage_error_of_one_line(tmp_path, place, wrong, remove):
    changed = copy.deepcopy(DATA)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    if remove:
        del inner[place[-1]]
    else:
        inner[place[-1]] = wrong
    back, message = read_or_message(tmp_path, json.dumps(changed).encode())
    assert "\n" not in message
    assert "record.json" in message or (back is not None and markdown_table(back))


@given(cut=st.integers(0, 20_000), flip=st.integers(0, 20_000), byte=st.integers(0, 255))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_bytes_are_a_usage_error_of_one_line(tmp_path, cut, flip, byte):
    content = bytearray(json.dumps(DATA).encode())
    content[flip % len(content)] = byte
    if cut % 3 == 0:
        content = content[: len(content) - cut % len(content)]
    back, message = read_or_message(tmp_path, bytes(content))
    assert "\n" not in message
    assert (back is None) == ("record.json" in message)


@pytest.mark.parametrize("earlier", ["record.json", "report.html", "report.md", "performance/mlperf_log_detail.txt"])
def test_a_report_goes_only_where_a_report_was_or_nothing(tmp_path, earlier):
    folder = tmp_path / "frames"
    assert prepare_folder(folder) == folder == prepare_folder(folder)  # new, then empty
    for name in ("b.png", "a.png"):
        (folder / name).write_bytes(b"x")
    with pytest.raises(OutputError, match=r"frames: holds other files \(a\.png, …\) and no earlier report: choose"):
        prepare_folder(folder)
    assert sorted(each.name for each in folder.iterdir()) == ["a.png", "b.png"]
    (folder / earlier).parent.mkdir(exist_ok=True)
    (folder / earlier).write_text("")
    assert prepare_folder(folder) == folder


def test_a_folder_that_cannot_be_is_found_out(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="it is a file"):
        prepare_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot write"):
        prepare_folder(tmp_path / "file" / "below")
    (tmp_path / "taken" / "record.json").mkdir(parents=True)
    with pytest.raises(OutputError, match="it is a folder"):
        prepare_folder(tmp_path / "taken")
