"""The types that mypy sees of hypervisor.ext are those of the compiled modules: same names, none missing."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import hypervisor.ext

FOLDER = Path(hypervisor.ext.__file__).parent
STUBS = sorted(path.stem for path in FOLDER.glob("*.pyi"))


def names(body: list[ast.stmt]) -> set[str]:
    """Public names that a stub's statements declare."""
    found = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    found |= {
        node.target.id
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return {name for name in found if not name.startswith("_")}


def public(thing: object, inherited: object = object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_") and name not in dir(inherited)}


@pytest.mark.parametrize("stub", STUBS)
def test_a_stub_names_what_the_module_has(stub):
    module = importlib.import_module(f"hypervisor.ext.{stub}")
    tree = ast.parse((FOLDER / f"{stub}.pyi").read_text())
    assert names(tree.body) <= public(module)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not any(True for base in node.bases):
            assert names(node.body) == public(getattr(module, node.name)), node.name


def test_every_extension_has_a_stub():
    extensions = {path.name.partition(".")[0] for path in FOLDER.glob("*.so")}
    assert extensions <= set(STUBS)
