"""Which form of a hot module runs: compiled, unless its source was edited or HV_PURE asks for source.

A throw-away package stands in for ours, with a real extension module compiled by gcc: whether Python
would load it is exactly what is at stake. Every case runs in a process of its own, as imports do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest

import hypervisor
from hypervisor._source import digest, source_of

SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
SOURCE = "FORM = 'source'\n"
HOST = Path(hypervisor.__file__).parents[1]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package ``toy`` with one module in both forms, and ``toy.ext`` with one that must stay compiled."""
    # An extension without Python.h: the loader needs one exported function, and an exception from it
    # tells as well as a module that the compiled form was chosen.
    c = tmp_path / "m.c"
    c.write_text("void *PyInit_m(void) { return 0; }\n")
    for folder in ("toy", "toy/ext"):
        directory = tmp_path / folder
        directory.mkdir()
        (directory / "__init__.py").touch()
        (directory / "m.py").write_text(SOURCE)
        subprocess.run(
            [os.environ.get("CC", "gcc"), "-shared", "-fPIC", "-o", directory / ("m" + SUFFIX), c], check=True
        )
    record(tmp_path, SOURCE)
    return tmp_path


def record(package: Path, source: str) -> None:
    (package / "toy/compiled.json").write_text(
        json.dumps({"toy.m": digest(source.encode()), "toy.n": digest(b"")})
    )


def form(package: Path, module: str = "toy.m", **environment: str) -> tuple[str, str]:
    """Import ``module`` in a new process: which form was it, and what was said on stderr?"""
    program = textwrap.dedent(f"""
        import importlib, sys
        sys.path[:0] = [{str(HOST)!r}, {str(package)!r}]
        from pathlib import Path
        from hypervisor._source import SourceFinder
        sys.meta_path.insert(0, SourceFinder("toy", Path({str(package / "toy/compiled.json")!r})))
        try:
            print(importlib.import_module({module!r}).FORM)
        except SystemError:
            print("compiled")   # PyInit returned NULL without an exception
    """)
    clean = {k: v for k, v in os.environ.items() if k != "HV_PURE"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip(), done.stderr


def test_the_compiled_form_is_taken_when_it_was_made_from_this_source(package):
    assert form(package) == ("compiled", "")


def test_hv_pure_takes_the_source(package):
    assert form(package, HV_PURE="1") == ("source", "")


@pytest.mark.parametrize("off", ["", "0"])
def test_hv_pure_switched_off_is_as_if_absent(package, off):
    assert form(package, HV_PURE=off) == ("compiled", "")


def test_an_edited_source_is_taken_with_one_line_that_says_so(package):
    with (package / "toy/m.py").open("a") as source:
        source.write("# a student was here\n")
    which, said = form(package)
    assert which == "source"
    assert said.count("\n") == 1
    assert said.startswith("hv: toy.m was edited")


def test_a_new_time_on_an_unchanged_source_changes_nothing(package):
    later = (package / "toy" / ("m" + SUFFIX)).stat().st_mtime + 1000
    os.utime(package / "toy/m.py", (later, later))
    assert form(package) == ("compiled", "")


def test_an_edit_is_seen_even_if_its_file_looks_old(package):
    (package / "toy/m.py").write_text(SOURCE + "#\n")
    os.utime(package / "toy/m.py", (0, 0))
    assert form(package)[0] == "source"


@pytest.mark.parametrize("manifest", [None, "", "not json", "{}"])
def test_a_compiled_form_of_unknown_origin_is_not_trusted(package, manifest):
    path = package / "toy/compiled.json"
    path.unlink() if manifest is None else path.write_text(manifest)
    assert form(package)[0] == "source"


def test_ext_stays_compiled_whatever_is_asked(package):
    assert form(package, "toy.ext.m", HV_PURE="1") == ("compiled", "")


def test_a_compiled_form_without_source_is_left_to_python(package):
    (package / "toy/m.py").unlink()
    assert form(package, HV_PURE="1") == ("compiled", "")


def test_one_edited_source_takes_all_others_along(package):
    """A compiled module beside an edited one would not see its attributes: all run compiled, or none."""
    (package / "toy/n.py").write_text("# was empty when it was compiled\n")
    which, said = form(package)
    assert which == "source"
    assert said.startswith("hv: toy.n was edited")


def test_many_edited_sources_give_one_notice(package):
    (package / "toy/n.py").write_text("FORM = 'source'\n")
    (package / "toy" / ("n" + SUFFIX)).write_bytes(b"not even an extension")
    (package / "toy/m.py").write_text("import toy.n\nFORM = toy.n.FORM\n")
    which, said = form(package)
    assert (which, said.count("\n")) == ("source", 1)


@pytest.mark.parametrize("suffix", [SUFFIX, ".abi3.so", ".so"])
def test_every_extension_suffix_leads_to_the_source(suffix):
    assert source_of(f"/x/decode{suffix}") == Path("/x/decode.py")
