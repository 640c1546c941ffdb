"""The documents as a site: every page is in it, and it builds without a warning."""

import re
import subprocess
import sys

import pytest
from test_docs import ROOT

import difflm_hf
from difflm_hf import control, diffusion_lm, evaluation, records, training
from difflm_hf.diffusion_lm import controls


DOCS = ROOT / "docs"


def pages_of(page: str) -> set[str]:
    """The pages in the lists of a page, by their paths without an ending."""
    folder = page.rpartition("/")[0]
    lists = re.findall(r"<!-- \{toctree\}\n(.*?)-->", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
    names = [line for text in lists for line in text.splitlines() if line and not line.startswith(":")]
    return {f"{folder}/{name}".lstrip("/") for name in names}


def test_every_page_is_in_a_list():
    listed = {"index"} | pages_of("index") | pages_of("api/index")
    assert listed == {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.glob("**/*.md")}


def test_every_public_name_has_a_place():
    """The names that packages offer are in the pages of the API, by one of their paths."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCS.glob("api/*.md"))
    described = set(re.findall(r"^\.\. auto\w+:: .*\.(\w+)$", text, re.MULTILINE))
    packages = (difflm_hf, control, controls, diffusion_lm, evaluation, records, training)
    public = {name for package in packages for name in package.__all__}
    values = {name for name in public if name.isupper()}  # constants, which have no docstrings
    assert public - values <= described


@pytest.mark.slow
def test_site_builds(tmp_path):
    pytest.importorskip("sphinx", reason="the site takes the extra docs")
    arguments = ["-n", "-W", "--keep-going", "-q", "-b", "html", "docs", str(tmp_path)]
    built = subprocess.run([sys.executable, "-m", "sphinx", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "DiffLMPipeline" in (tmp_path / "api/pipelines.html").read_text(encoding="utf-8")
