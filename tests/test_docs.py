"""The documents: their code compiles and runs, their commands and links exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main
import yaml

from difflm_hf.commands.program import app


ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(document: Path, language: str) -> list[tuple[int, str]]:
    """The fenced blocks of a language, each with the number of the line before its first."""
    text = document.read_text(encoding="utf-8")
    matches = [match for match in FENCE.finditer(text) if match[1] == language]
    return [(text.count("\n", 0, match.start(2)), match[2]) for match in matches]


def compile_blocks(document: Path) -> list:
    """The Python blocks as code whose tracebacks name lines of the document."""
    return [compile("\n" * line + code, str(document), "exec") for line, code in blocks(document, "python")]


def name(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def test_documents_are_found():
    assert {"README.md", "MODEL_CARD.md", "docs/index.md"} <= {name(document) for document in DOCUMENTS}
    assert len(blocks(ROOT / "README.md", "python")) >= 2


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_fences_are_closed_and_name_a_language(document):
    fences = re.findall(r"^```.*$", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert all(fence != "```" for fence in fences[::2])
    assert all(fence == "```" for fence in fences[1::2])
    assert len(fences) % 2 == 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_python_blocks_compile(document):
    compile_blocks(document)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_commands_exist(document):
    """Every `difflm ...` line names a command, its arguments and its options."""
    commands = typer.main.get_command(app).commands
    for _, code in blocks(document, "bash"):
        for line in code.replace("\\\n", " ").splitlines():
            program, *words = shlex.split(line, comments=True) or [""]
            if program == "difflm":
                command = commands[words[0]]
                command.make_context(words[0], words[1:])


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), f"{name(document)} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{name(document)} links to {target}"


def test_citation_names_both_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    urls = {reference["url"] for reference in citation["references"]}
    assert {"https://arxiv.org/abs/2411.03250", "https://arxiv.org/abs/2205.14217"} <= urls


def test_model_card_has_metadata():
    metadata = yaml.safe_load((ROOT / "MODEL_CARD.md").read_text(encoding="utf-8").split("---\n")[1])
    assert metadata["license"] == "apache-2.0"
    assert metadata["library_name"] == "difflm_hf"


@pytest.mark.slow
def test_readme_runs(tmp_path, monkeypatch):
    """The Python blocks of the README in order, as in one script, in a folder that has nothing but the examples."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for code in compile_blocks(ROOT / "README.md"):
        exec(code, namespace)
