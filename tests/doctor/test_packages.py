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


def test_what_another_machine_needs_is_left_out(monkeypatch):
    lines = [
        "tomli>=2; python_version < '3.11'",
        "left; python_version >= '3.10' and extra == 'gpu'",
        "tensorrt>=10.3; platform_machine != 'aarch64' and extra == 'gpu'",
        "bindings; (sys_platform == 'linux' and platform_machine == 'x86_64') and extra == 'gpu'",
    ]

    def names(version, system, machine):
        monkeypatch.setattr("sys.version_info", (*version, 0, "final", 0))
        monkeypatch.setattr("sys.platform", system)
        monkeypatch.setattr("platform.machine", lambda: machine)
        return [requirement.name for requirement in parse_requirements(lines)]

    assert names((3, 11), "linux", "x86_64") == ["left", "tensorrt", "bindings"]
    assert names((3, 10), "linux", "aarch64") == ["tomli", "left"]
    assert names((3, 9), "win32", "AMD64") == ["tomli", "tensorrt"]


@pytest.mark.parametrize(
    ("version", "fine"),
    [("1.26", True), ("1.26.0", True), ("1.26.1+cu1", True), ("2.0rc1", True), ("1.25.9", False), ("1.3", False)],
)
def test_versions_are_compared_as_numbers(version, fine):
    (numpy, *_) = REQUIREMENTS
    assert (installed.complaint(numpy, {"numpy": version}) == "") is fine
