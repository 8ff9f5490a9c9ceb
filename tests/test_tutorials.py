"""Every example of the tutorials runs and shows what the page says; what the pages name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tutorial import ROOT, Mismatch, Runner, blocks, matches

PAGES = sorted((ROOT / "tutorials").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_example_shows_what_the_page_says(page: Path, tmp_path: Path) -> None:
    Runner(page, tmp_path).run()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    linked = [page.parent / target for target in re.findall(r"\]\(([^):#]+)\)", text)]
    named = re.findall(r"`((?:hypervisor|ext|guests|tests|tutorials)/[\w./-]*)`", text)
    assert [str(path) for path in [*linked, *(ROOT / name for name in named)] if not path.exists()] == []


def test_the_reading_order_names_every_page() -> None:
    index = (ROOT / "tutorials" / "README.md").read_text()
    assert [page.name for page in PAGES if page.name != "README.md" and f"]({page.name})" not in index] == []


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("```python\nprint(1)\n```\n```output\n2\n```\n", "shows something else"),
        ("```python\nprint(1)\n```\n", "shows something else"),
        ("```python\n1 / 0\n```\n", "page.md.*line 2"),
        ("```console\n$ echo a\nb\n```\n", "shows something else"),
        ("```console\n$ hv run tern --prompt\n(hv) run 100\ntern\n```\n", "shows something else"),
        ("```console\nb\n```\n", "no command"),
        ("```pyhton\n1\n```\n", "kind"),
        ("```python\n1\n", "not closed"),
    ],
)
def test_an_example_that_shows_something_else_is_found(wrong: str, complaint: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(wrong)
    with pytest.raises(Mismatch, match=re.compile(complaint, re.DOTALL)):
        Runner(page, tmp_path).run()


def test_a_page_is_one_program_and_one_directory(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nfrom pathlib import Path\nPath('a').write_text('hello')\nb = 2\n```\n"
        "```console\n$ cat a; echo\nhello\n```\n"
        "```python\nprint(b)\n```\n```output\n2\n```\n"
    )
    assert Runner(page, tmp_path).run() == 3


def test_wildcards_match_within_a_line_and_whole_lines() -> None:
    assert matches("a ... c\n", "a b c\n")
    assert not matches("a ... c\n", "a b\nc\n")
    assert matches("a\n...\nc\n", "a\nc\n")
    assert matches("a\n...\nc\n", "a\nb\nb\nc\n")
    assert not matches("a.c\n", "abc\n")


def test_blocks_know_their_lines() -> None:
    (block,) = blocks("one\n```python\nprint(1)\n```\n")
    assert (block.kind, block.line, block.text) == ("python", 3, "print(1)\n")
