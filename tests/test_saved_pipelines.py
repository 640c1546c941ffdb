"""Pipelines that earlier versions saved still load, and still mean the same."""

import json
from pathlib import Path

import pytest
import torch

from difflm_hf import DiffLMPipeline


FOLDER = Path(__file__).parent / "data" / "saved_by_0_1_0"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(params=EXPECTED)
def kind(request) -> str:
    return request.param


@torch.no_grad()
def test_posteriors_and_records_are_the_same(kind, recwarn):
    pipe, expected = DiffLMPipeline.from_pretrained(FOLDER / kind), EXPECTED[kind]
    batch = pipe.processor(expected["records"])
    posterior = pipe.vae.encode(batch["input_ids"], batch.get("attention_mask"))
    for tensor, name in zip(posterior, ("mean", "logvar")):
        torch.testing.assert_close(tensor, torch.tensor(expected[name]), rtol=1e-4, atol=1e-5)
    latents = torch.linspace(-1, 1, 8 * 4).view(8, 4)
    length = pipe.vae.config.max_record_length - 1
    uniforms = torch.rand(8, length, generator=torch.Generator().manual_seed(0))
    offsets = torch.full((8, pipe.processor.num_offsets), 0.5)
    table, is_valid = pipe.decode_latents(latents, uniforms, offsets)
    assert json.loads(table.to_json(orient="records")) == expected["written"]
    assert is_valid.tolist() == expected["valid"]


def test_they_generate_and_are_saved_anew(kind, tmp_path):
    pipe = DiffLMPipeline.from_pretrained(FOLDER / kind)
    pipe.save_pretrained(tmp_path)
    again = DiffLMPipeline.from_pretrained(tmp_path)
    first, second = (p(5, generator=torch.Generator().manual_seed(0)).records for p in (pipe, again))
    assert len(first) == 5 and first == second
