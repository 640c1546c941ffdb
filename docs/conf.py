"""
The documents as a site.

    pip install -c constraints.txt -e ".[docs]"
    sphinx-build -n -W --keep-going -b html docs build/site

Sphinx reads the Markdown that is there, by MyST, makes the pages of the API from docstrings, finds broken links and
references (`-n -W`), and has a search that needs no server. The theme, furo, has a light and a dark scheme, and fits
on a phone. All three are maintained. Material for MkDocs is in maintenance only, and its successor Zensical not yet at
1.0.

The same pages are read on GitHub, too. What is for Sphinx alone, such as a list of pages, stands in comments there:
`<!-- {toctree} ... -->`.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

import difflm_hf


ROOT = Path(__file__).parents[1]

project = "difflm_hf"
version = release = difflm_hf.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]

myst_heading_anchors = 4  # as GitHub has them
myst_enable_extensions = ["dollarmath"]

html_theme = "furo"
html_title = "difflm_hf"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0969da", "color-brand-content": "#0969da"},
    "dark_css_variables": {"color-brand-primary": "#58a6ff", "color-brand-content": "#58a6ff"},
}
html_show_sourcelink = False
html_copy_source = False

autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "special-members": "__call__",
    "inherited-members": True,
}
autodoc_typehints = "none"  # docstrings say the types
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True

# What docstrings refer to that has no page: other libraries, and what is not for users
nitpick_ignore_regex = [
    (
        "py:obj",
        r"(PushToHubMixin|SchedulerMixin|ConfigMixin|EDM\w+Scheduler|LoraConfig|BlockwisePipeline|ImputationMixin"
        r"|BaseTrainingArguments|DiffLMPreTrainedModel|EmbeddingClassifier|KnownFields|GenerationProfile"
        r"|LatentEDMSchedulerOutput|RecordLayout|NestedTables|NumberFormat|DatetimeFormat)(\.\w+)?"
        r"|tokenize|plot_files|load_spacy|initial_std|solve_equations|derive_paths|METRICS|TOOL_CRITERIA"
        r"|difflm_hf\.control",
    )
]

# Pages that stand for files beside this folder, which GitHub shows there.
FILES = {"index": "README.md", "contributing": "CONTRIBUTING.md", "model_card": "MODEL_CARD.md"}


def read_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Takes the texts of files beside this folder, and directives out of their comments."""
    text = source[0]
    if page in FILES and page != "index":
        text = (ROOT / FILES[page]).read_text(encoding="utf-8").split("\n---\n\n")[-1]
        text = re.sub(r"\]\((?![a-z]+:|#)", "](../", text).replace("](../docs/", "](")
    for name, file in FILES.items():
        text = text.replace(f"](../{file}", f"]({name}.md")
    text = re.sub(r"\]\((\.\./examples/.*?\.md)\)", r"](path:\1)", text)  # no page of the site
    text = re.sub(r"\[([^\]]*)\]\((\.\./examples/[\w/]+)/?\)", r"\1", text)  # a folder
    source[0] = re.sub(r"^<!-- (\{[a-z-]+\}.*?)-->$", r"```\1```", text, flags=re.DOTALL | re.MULTILINE)


def read_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Makes reStructuredText of a docstring in the format of Hugging Face's libraries."""
    text = "\n".join(lines)
    text = re.sub(r"^( *)```(\w+)\n(.*?)^ *```$", code_block, text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^(Args|Attributes|Returns|Raises):\n((?: {4}.*\n|\n)*)", section, text, flags=re.MULTILINE)
    text = re.sub(r"^(?! *(?:- |\*\*))( *)(\S.*)\n(?=\1 +- )", r"\1\2\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"\[([^\]`]+)\]\((https?:[^)]+)\)", r":web:`\1 <\2>`", text)
    text = re.sub(r"(``) ?(.+?) ?``|\[`(~?)([\w.]+)`\](\w?)|(:web:)?`([^`]+)`(\w?)|\|", inline, text)
    lines[:] = text.split("\n")


def code_block(match: re.Match) -> str:
    """A fenced block of Markdown as one of reStructuredText."""
    indent, language, code = match.groups()
    return f"{indent}.. code-block:: {language}\n\n" + re.sub(r"^(?=.)", "    ", code, flags=re.MULTILINE)


def section(match: re.Match) -> str:
    """A section of a docstring as a field, whose entries are a list of definitions."""
    title, body = match.groups()
    if title == "Raises":
        body = re.sub(r"^    (?!`)", "        ", body, flags=re.MULTILINE)
    if title != "Returns":
        body = re.sub(r"^    (\w[\w, ]*|`.+?`)( \(.*?\))?:(?= (\S)|\n)", definition, body, flags=re.MULTILINE)
    return f":{title}:\n{body}\n"


def definition(match: re.Match) -> str:
    name, type, text = match.groups()
    head = f"**{name}**{type or ''}".replace("**`", "`").replace("`**", "`")
    head = re.sub(r"_(?=[ *])", r"\\_", head)  # a name that ends with it is no link
    return f"    {head}" + ("\n       " if text else "")


def inline(match: re.Match) -> str:
    """A reference, a link or a literal of Markdown as one of reStructuredText."""
    twice, quoted, is_short, name, after_name, link, literal, after = match.groups()
    if twice:
        return f"``{quoted}``"
    if link:
        return f"`{literal}`__" + (after and f"\\ {after}")
    if literal:
        return f"``{literal}``" + (after and f"\\ {after}")
    if name is None:
        return "\\|"
    short = re.search(r"([A-Z]\w*\.)?\w+$", name)[0] if is_short else name
    return f":py:obj:`{short.rpartition('.')[2] if is_short else name} <.{short}>`" + (
        after_name and f"\\ {after_name}"
    )


def skip_member(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool:
    """Leaves out what classes inherit from other libraries."""
    of = getattr(obj, "fget", None) or obj
    return skip or not str(getattr(of, "__module__", "")).startswith("difflm_hf")


def setup(app: Sphinx) -> None:
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-skip-member", skip_member)
