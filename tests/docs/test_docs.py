"""What the documents promise is there: commands, flags, targets, files, links, and help for everything."""

import argparse
import dataclasses
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from components import config
from pipelines.flags import from_flags
from pipelines.parser import build_parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("samples/*.md")])
TREE_LINE = re.compile(r"^([\s│├└─]*)([\w./*-]+)(?:\s+#?\s*(.+))?$")


def code_lines(text: str) -> list[str]:
    """Lines of fenced and of indented code blocks, continuation lines joined, and code within the text."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    lines = "\n".join([*fenced, *indented, *inline]).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ") for line in lines]


def commands(program: str) -> list[list[str]]:
    """The words of each command line of the documents that calls `program`."""
    found = []
    for document in DOCUMENTS:
        for line in code_lines(document.read_text(encoding="utf-8")):
            for part in re.split(r"&&|\|\||[|;]", line):
                words = shlex.split(part, comments=True) if part.strip().split(" ")[0].endswith(program) else []
                if words:
                    found.append(words)
    return found


def parsers() -> dict[str, argparse.ArgumentParser]:
    (choices,) = (
        action.choices for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    return dict(choices)


def targets() -> dict[str, str]:
    """What `make help` lists, with what it says."""
    said = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return dict(line.split(maxsplit=1) for line in said.splitlines())


def test_the_readme_shows_how_to_use_it() -> None:
    assert len(commands("everbert")) >= 5
    assert {words[1] for words in commands("make") if len(words) > 1} >= {"run", "test"}


@pytest.mark.parametrize("words", commands("everbert"), ids=" ".join)
def test_each_command_of_the_documents_parses(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command, *flags = [*words[1:], "--help"]
    if command == "--help" or flags[0] == "--help":  # only named, not shown with what it needs
        assert command in {"--help", *parsers()}
        return
    parsed = build_parser().parse_args(words[1:])  # exits, which fails the test, on a flag that does not exist
    from_flags(argparse.Namespace(**{k: v for k, v in vars(parsed).items() if k != "config"}))


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_each_make_target_of_the_documents_exists(words: list[str]) -> None:
    assert {word for word in words[1:] if "=" not in word} <= set(targets())


def test_make_alone_lists_every_target_with_what_it_does() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert set(targets()) == set(phony.split())
    assert all(targets().values())
    alone = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "make run" in alone or re.search(r"^\s*run\s", alone, re.MULTILINE)


def test_each_command_has_help_and_so_has_each_of_its_flags() -> None:
    for name, parser in parsers().items():
        assert parser.description, name
        for action in parser._actions:
            assert action.help, f"everbert {name} {action.dest}"


def test_each_setting_has_help_and_is_a_flag_of_some_command() -> None:
    flags = {flag for parser in parsers().values() for action in parser._actions for flag in action.option_strings}
    for section in config.SECTIONS:
        for f in dataclasses.fields(getattr(config.Settings, section)):
            assert len(f.metadata["help"]) > 10, f"{section}.{f.name}"
            assert "--" + f.name.replace("_", "-") in flags, f"{section}.{f.name}"


def tree() -> Iterator[tuple[str, str]]:
    """(path, what it says) of each line of the README's file tree: the code block with components/ in it."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```|((?:^(?:    [^\n]*)?\n)+)", README, re.MULTILINE | re.DOTALL)
    (block,) = [one for pair in blocks for one in pair if re.search(r"^[\s│├└─]*components/\s", one, re.MULTILINE)]
    parents: list[tuple[int, str]] = []
    for line in filter(str.strip, block.splitlines()):
        matched = TREE_LINE.match(line.rstrip())
        assert matched, line
        lead, name, what = matched.groups()
        parents = [(depth, parent) for depth, parent in parents if depth < len(lead)]
        yield "".join(parent for _, parent in parents) + name, what or ""
        if name.endswith("/"):
            parents.append((len(lead), name))


def test_the_file_tree_is_the_tree() -> None:
    lines = dict(tree())
    assert len(lines) > 10
    assert not [path for path in lines if not (ROOT / path).exists()]
    assert not [path for path, what in lines.items() if not what]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    folders = {path.split("/")[0] + "/" for path in tracked if "/" in path and not path.startswith(".")}
    steps = {"/".join(path.split("/")[:2]) + "/" for path in tracked if re.match(r"components/\w+/", path)}
    assert folders | steps <= set(lines)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_each_relative_link_resolves(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    for link in links:
        if not re.match(r"[a-z]+:", link):
            path, _, anchor = link.partition("#")
            there = document.parent / path if path else document
            assert there.exists(), link
            assert not anchor or anchor in anchors(there), link


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.casefold()).replace(" ", "-") for heading in headings}


def test_each_path_that_the_readme_names_exists() -> None:
    named = re.findall(r"`((?:components|pipelines|serving|samples|docs|tests|benchmarks|manifests)/[\w./-]*)`", README)
    assert not [path for path in named if not (ROOT / path).exists()]
