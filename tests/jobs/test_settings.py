"""What may be asked of a job: every wrong value is refused by its name, and what is right comes through as it was."""

from __future__ import annotations

import pytest

from edgereel.jobs.settings import LONGEST_PROMPT, JobSettings, SettingError, parse_size

pytestmark = pytest.mark.lean


def test_numbers_of_forms_are_numbers():
    settings = JobSettings.of({"prompt": "a", "seed": "7", "seconds": "2.5", "size": "128x64", "fps": "24"})
    assert (settings.seed, settings.seconds, settings.fps) == (7, 2.5, 24.0)
    assert parse_size(settings.size) == (128, 64)
    assert parse_size("wide") == "wide"


def test_width_and_height_are_a_size():
    assert JobSettings.of({"prompt": "a", "width": 64, "height": "32"}).size == "64x32"


def test_settings_come_back_as_they_were():
    settings = JobSettings.of({"prompt": "ä \N{FROG FACE}", "seed": 0, "guidance_scale": 1}, picture=True)
    assert JobSettings.from_json(settings.to_json()) == settings
    assert settings.again("b").seed == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "a\0b"}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"prompt": "a" * (LONGEST_PROMPT + 1)}, "prompt"),
        ({"prompt": "a", "colour": 1}, "colour"),
        ({"prompt": "a", "picture": True}, "picture"),
        ({"prompt": "a", "seed": -1}, "seed"),
        ({"prompt": "a", "seed": 2**32}, "seed"),
        ({"prompt": "a", "seed": True}, "seed"),
        ({"prompt": "a", "seed": 1.5}, "seed"),
        ({"prompt": "a", "seed": "1e9"}, "seed"),
        ({"prompt": "a", "seed": "９"}, "seed"),
        ({"prompt": "a", "size": "0x64"}, "size"),
        ({"prompt": "a", "size": "64x64x64"}, "size"),
        ({"prompt": "a", "size": [64, 64]}, "size"),
        ({"prompt": "a", "width": 64}, "height"),
        ({"prompt": "a", "size": "64x64", "width": 64, "height": 64}, "size"),
        ({"prompt": "a", "seconds": "nan"}, "seconds"),
        ({"prompt": "a", "seconds": float("inf")}, "seconds"),
        ({"prompt": "a", "seconds": 0}, "seconds"),
        ({"prompt": "a", "seconds": 1, "num_frames": 9}, "seconds"),
        ({"prompt": "a", "num_frames": 10**9}, "num_frames"),
        ({"prompt": "a", "fps": 0}, "fps"),
        ({"prompt": "a", "guidance_scale": -1}, "guidance_scale"),
        ({"prompt": "a", "fit": "crop"}, "fit"),
        ({"prompt": "a", "recipe": "x" * 101}, "recipe"),
        ({"prompt": "a", "num_inference_steps": None, "decoder": 3}, "decoder"),
    ],
)
def test_what_is_wrong_is_named(fields, param):
    with pytest.raises(SettingError) as error:
        JobSettings.of(fields)
    assert error.value.param == param
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200
