"""Set-up promises that need no network: one place for versions, a wheel that needs no compiler."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hypervisor
from hypervisor import images
from hypervisor.errors import ImageError

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirement(lines: list[str], name: str) -> str:
    (line,) = [line for line in lines if re.match(rf"{name}\b", line)]
    return line


@pytest.mark.parametrize("name", ["unicorn", "capstone"])
def test_headers_compiled_against_are_of_the_library_run_with(name):
    assert requirement(PROJECT["build-system"]["requires"], name) == requirement(
        PROJECT["project"]["dependencies"], name
    )


def test_every_requirement_has_a_lower_and_an_upper_bound():
    wanted = [
        *PROJECT["build-system"]["requires"],
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["dev"],
    ]
    assert [line for line in wanted if not re.fullmatch(r"[\w-]+>=[\d.]+,<[\d.]+", line)] == []


def test_no_versions_are_named_outside_pyproject():
    for name in ("Makefile", "setup.py", "tools/setup_venv.py", ".ci/run"):
        text = (ROOT / name).read_text()
        assert not re.search(r"\b(unicorn|capstone|cython|pytest|msgspec)\s*[=<>~]=", text, re.IGNORECASE), (
            name
        )


def test_readme_opens_with_the_two_commands():
    commands = re.findall(r"^    (make \w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert commands[:2] == ["make demo", "make test"]


def test_every_make_target_in_the_documents_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md", ".ci/run"):
        used = set(
            re.findall(r"(?:^|`|step |    )make (?:-s )?([a-z-]+)", (ROOT / name).read_text(), re.MULTILINE)
        )
        assert used <= targets, name


def test_shipped_image_is_found_by_name():
    assert images.find("tern").read_bytes()[:4] == b"\x7fELF"
    assert "tern" in images.names()


def test_a_path_wins_over_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tern").write_bytes(b"mine")
    assert images.find("tern").read_bytes() == b"mine"


@pytest.mark.parametrize("image", ["no-such", "/no/such/tern", "../tern", "."])
def test_an_image_that_is_not_there_is_refused_in_one_line(image):
    with pytest.raises(ImageError) as caught:
        images.find(image)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{image}: ")


def test_importing_the_package_twice_installs_one_finder():
    program = (
        "import sys, hypervisor, hypervisor._source as s; s.install();"
        "print(sum(isinstance(f, s.SourceFinder) for f in sys.meta_path))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"


def test_version_is_written_once():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", hypervisor.__version__)
