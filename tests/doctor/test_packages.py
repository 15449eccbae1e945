"""Requirements and versions as packages' metadata states them."""

from __future__ import annotations

import pytest
from helpers.requirements import REQUIREMENTS

from edgereel.doctor import packages as installed
from edgereel.doctor.packages import parse_requirements

pytestmark = pytest.mark.lean


def test_requirements_are_read():
    assert [(r.name, r.least, r.extra) for r in REQUIREMENTS[:3]] == [
        ("numpy", "1.26", ""),
        ("av", "12", ""),
        ("onnxruntime", "1.23", "cpu"),
    ]
    names = [requirement.name for requirement in installed.needed_by("dev", REQUIREMENTS)]
    assert names == ["onnxruntime", "torch", "onnxruntime", "matplotlib", "pytest"]
    (odd,) = parse_requirements(["Foo.Bar_baz [a, b] >= 2.0, <3", "???"])
    assert (odd.name, odd.least, odd.extras_of) == ("foo-bar-baz", "2.0", ("a", "b"))
    assert installed.requirements_of("no-such-package-at-all") is None


@pytest.mark.parametrize(
    ("version", "fine"),
    [("1.26", True), ("1.26.0", True), ("1.26.1+cu1", True), ("2.0rc1", True), ("1.25.9", False), ("1.3", False)],
)
def test_versions_are_compared_as_numbers(version, fine):
    (numpy, *_) = REQUIREMENTS
    assert (installed.complaint(numpy, {"numpy": version}) == "") is fine
