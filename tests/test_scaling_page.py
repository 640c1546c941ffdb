"""docs/scaling.md is what `python -m benchmarks.scaling` writes from the figures that are saved."""

import re
import sys
from dataclasses import replace

import pytest
from test_docs import ROOT


sys.path.insert(0, str(ROOT))  # benchmarks are no part of the package, and other packages have such a name

from benchmarks import scaling  # noqa: E402 (of the path above)
from benchmarks.markdown import fill  # noqa: E402 (of the path above)


PAGE = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", scaling.SECTIONS)
def test_page_is_what_the_script_writes(name):
    assert f"<!-- {name} -->\n{scaling.SECTIONS[name]()}\n<!-- /{name} -->" in PAGE


def test_every_constant_has_a_source_on_the_page():
    section = scaling.given_section()
    for name, value in scaling.GIVEN.items():
        assert re.search(
            rf"^\| `{name}` \|.*\| {re.escape(value.what)} \| {re.escape(value.source)} \|$", section, re.M
        )
        assert (
            value.source.startswith("assumed")
            or "NVIDIA" in value.source
            or "AMD" in value.source
            or "S3" in value.source
        )


def test_fill_replaces_what_is_between_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\nkept\n<!-- /y -->\n", encoding="utf-8")
    fill(page, "x", r"new \1")
    text = page.read_text(encoding="utf-8")
    assert text == "a\n<!-- x -->\nnew \\1\n<!-- /x -->\nb\n<!-- y -->\nkept\n<!-- /y -->\n"


def test_an_lm_takes_as_long_as_its_tightest_limit():
    for decoder in scaling.decoders()[1:]:
        assert decoder.seconds == decoder.limits[decoder.bound_by] == max(decoder.limits.values())


def test_limits_of_rows_add_up_to_the_measured_time():
    decoder = scaling.row_decoder()
    parts = [decoder.limits[name] for name in ("arithmetic", "memory", "single operations and Python")]
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(decoder.seconds * scaling.CORE_SHARE)


def test_larger_batches_share_weights_and_starts():
    for name in scaling.LMS:
        small, large = (scaling.lm_decoder(name, size).limits for size in scaling.BATCHES)
        assert large["memory"] < small["memory"]
        assert large["single operations and Python"] < small["single operations and Python"]


def test_batches_fit_into_a_gpu():
    for name, lm in scaling.load_result("scaling")["lms"].items():
        assert scaling.memory_of(lm, max(scaling.BATCHES)) < scaling.GPU_MEMORY * scaling.GPU_MEMORY_SHARE, name


def test_a_machine_holds_what_the_steps_take():
    record = sum(scaling.load_result("scaling")["rows"]["memory_bytes"].values())
    assert max(max(decoder.seen) for decoder in scaling.decoders()) * record < scaling.MACHINE_MEMORY


def test_machines_end_in_time():
    decoder = scaling.row_decoder()
    day = scaling.SHORT_DEADLINE
    assert decoder.machines(day * scaling.CORES, 10**9) == 1
    assert decoder.machines(day * scaling.CORES + 1, 10**9) == 2
    assert replace(decoder, kind="GPU").machines(3 * day * scaling.GPUS, 10**9) == 3


def test_amounts_have_two_digits():
    assert [scaling.amount(x) for x in (0, 0.0123, 1.26, 45.6, 1234.5)] == ["0", "0.012", "1.3", "46", "1,234"]
    assert [scaling.scaled(x) for x in (12, 1500, 64e12, 2e15)] == ["12 B", "1.5 kB", "64 TB", "2.0 PB"]
