"""The pipeline: what it gives, that a seed means the same everywhere, and what may be put in its parts' place."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from tiny import make_table, seeded
from transformers import AutoConfig, pipeline

import difflm_hf
from difflm_hf import (
    DiffLMDenoiser,
    DiffLMModel,
    DiffLMPipeline,
    DiffLMPipelineOutput,
    DiffLMProcessor,
    JSONCodec,
    LatentEDMScheduler,
)
from difflm_hf.modeling_latent_lm import DiffLMForCausalLM
from difflm_hf.profiling import profile_generation


BLOCK = 64


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory) -> Path:
    """A trained pipeline with small blocks."""
    folder = tmp_path_factory.mktemp("pipeline")
    pipe = DiffLMPipeline.from_pretrained(tiny_run)
    DiffLMPipeline(**pipe.components, block_size=BLOCK).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder) -> DiffLMPipeline:
    pipe = DiffLMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(loaded) -> DiffLMPipeline:
    return copy.deepcopy(loaded)  # which takes less time than to load it


def table_of(pipe: DiffLMPipeline, num_records: int, seed: int = 0, **kwargs) -> pd.DataFrame:
    return pipe(num_records, generator=seeded(seed), output_type="pandas", **kwargs).records


def assert_valid(pipe: DiffLMPipeline, records: list[dict]) -> None:
    validator = jsonschema.Draft202012Validator(pipe.processor.schema.to_json_schema())
    for record in records:
        validator.validate(record)


# Output


@pytest.mark.parametrize("num_records", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
@pytest.mark.parametrize("output_type", ["dict", "pandas", "dataset", "text"])
def test_number_of_records(pipe, num_records, output_type):
    output = pipe(num_records, num_inference_steps=2, output_type=output_type)
    assert isinstance(output, DiffLMPipelineOutput)
    assert len(output.records) == num_records


def test_default_block_size(folder):
    """1, a block, and one more."""
    pipe = DiffLMPipeline(**DiffLMPipeline.from_pretrained(folder).components)
    assert pipe.config.block_size == 1024
    for num_records in (1, 1024, 1025):
        assert len(pipe(num_records, num_inference_steps=2).records) == num_records


def test_output_types_agree(pipe):
    records, table, dataset, texts = (
        pipe(100, generator=seeded(), output_type=output_type).records
        for output_type in ("dict", "pandas", "dataset", "text")
    )
    assert isinstance(records, list) and isinstance(records[0], dict)
    assert isinstance(dataset, Dataset) and isinstance(texts[0], str)
    assert records == [json.loads(text) for text in texts]
    assert records == [json.loads(text) for text in JSONCodec(pipe.processor.schema).encode(table)]
    assert dataset.column_names == list(table.columns) == list(records[0])
    reread = dataset.to_pandas()
    for name in table:
        assert reread[name].astype(object).where(reread[name].notna(), None).tolist() == (
            table[name].astype(object).where(table[name].notna(), None).tolist()
        )
    assert_valid(pipe, records)


def test_dtypes_of_the_training_table(pipe):
    table, generated = make_table(), table_of(pipe, 200)
    pd.testing.assert_series_equal(generated.dtypes, table.dtypes)
    assert (generated.index == range(200)).all()
    # What may be null is so now and then, and nothing else.
    for name in table:
        assert generated[name].isna().any() == table[name].isna().any()


def test_values_are_those_of_the_data(pipe):
    table, generated = make_table(), table_of(pipe, 300)
    for name in ("age", "price", "score", "joined", "income", "code"):
        assert generated[name].min() >= table[name].min() and generated[name].max() <= table[name].max()
    for name in ("color", "size", "member", "birthday"):
        assert set(generated[name].dropna()) <= set(table[name])
    assert (generated["price"].round(2) == generated["price"]).all()
    # It has learnt something: the frequent color is frequent.
    assert generated["color"].value_counts(normalize=True)["red"] == pytest.approx(0.7, abs=0.15)


def test_tuple(pipe):
    output = pipe(2, return_dict=False)
    assert isinstance(output, tuple) and len(output) == 1 and len(output[0]) == 2


def test_one_record_is_the_default(pipe):
    assert len(pipe().records) == 1


@pytest.mark.parametrize("injection", ["soft_prompt", "prefix_soft_prompt", "kv_memory", "input_embed"])
def test_untrained_models_write_valid_records(injection):
    table = make_table(80)
    processor = DiffLMProcessor.from_records(table)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    sizes |= {"vocab_size": processor.codec.vocab_size, "max_position_embeddings": processor.codec.max_length + 16}
    tokens = {f"{name}_token_id": getattr(processor.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = processor.model_config(
        encoder_config=AutoConfig.for_model("bert", **sizes, **tokens),
        decoder_config=AutoConfig.for_model("llama", **sizes, **tokens, initializer_range=1.0),
        latent_size=3,
        injection=injection,
    )
    denoiser = DiffLMDenoiser(latent_size=3, width=16, num_layers=1)
    pipe = DiffLMPipeline(DiffLMModel(config), denoiser, LatentEDMScheduler(), processor, block_size=50)
    records = pipe(120, generator=seeded()).records
    assert len(records) == 120
    assert_valid(pipe, records)


# Seeds


def test_same_seed_same_records(pipe):
    pd.testing.assert_frame_equal(table_of(pipe, 100), table_of(pipe, 100))
    assert not table_of(pipe, 100).equals(table_of(pipe, 100, seed=1))


@pytest.mark.parametrize("batch_size", [1, 7, BLOCK, 1000])
def test_records_do_not_depend_on_the_batch_size(pipe, batch_size):
    pd.testing.assert_frame_equal(table_of(pipe, 80, batch_size=batch_size), table_of(pipe, 80))


@pytest.mark.parametrize("num_records", [1, 10, BLOCK, BLOCK + 1])
def test_records_do_not_depend_on_their_number(pipe, num_records):
    pd.testing.assert_frame_equal(table_of(pipe, num_records), table_of(pipe, 3 * BLOCK).head(num_records))


def test_no_two_blocks_are_alike(pipe):
    scores = table_of(pipe, 3 * BLOCK)["score"]
    assert scores.nunique() > 0.95 * len(scores)


def test_one_generator_goes_on(pipe):
    generator = seeded()
    first, second = (pipe(20, generator=generator, output_type="text").records for _ in range(2))
    assert first != second
    generator = seeded()
    assert [pipe(20, generator=generator, output_type="text").records for _ in range(2)] == [first, second]


def test_global_seed(pipe):
    tables = []
    for _ in range(2):
        torch.manual_seed(3)
        tables.append(pipe(20, output_type="pandas").records)
    pd.testing.assert_frame_equal(*tables)


def test_blocks_by_themselves(pipe):
    second, first = (pipe.generate_block(7, block) for block in (1, 0))
    assert len(first) == len(second) == BLOCK and not first.equals(second)
    pd.testing.assert_frame_equal(pipe.generate_block(7, 1), second)
    pd.testing.assert_frame_equal(pipe.generate_block(7, 1, num_records=5), second.head(5))


def test_saved_and_loaded_pipeline_is_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    for cls in (DiffLMPipeline, DiffusionPipeline):
        loaded = cls.from_pretrained(tmp_path)
        assert type(loaded) is DiffLMPipeline
        assert loaded.config.block_size == BLOCK
        pd.testing.assert_frame_equal(table_of(loaded, 100), table_of(pipe, 100))


@pytest.mark.slow
def test_new_process(pipe, folder):
    script = f"""
import torch
from difflm_hf import DiffLMPipeline

pipe = DiffLMPipeline.from_pretrained({str(folder)!r}, dtype=torch.float32)
print(*pipe(100, generator=torch.Generator().manual_seed(0), output_type="text").records, sep="\\n")
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"}
    printed = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=True, text=True)
    assert printed.stdout.splitlines() == pipe(100, generator=seeded(), output_type="text").records


# Sampling


def test_temperature_0_is_greedy(pipe):
    latents = pipe.generate_latents(20, generator=seeded())
    within_bin_offsets = torch.full((20, pipe.processor.num_offsets), 0.5)
    tables = []
    for seed, kwargs in ((0, {"temperature": 0}), (1, {"temperature": 0}), (2, {"top_p": 1e-6})):
        uniforms = torch.rand(20, pipe.vae.config.max_record_length - 1, generator=seeded(seed))
        table, is_valid = pipe.decode_latents(latents, uniforms, within_bin_offsets, **kwargs)
        assert is_valid.all()
        tables.append(table)
    pd.testing.assert_frame_equal(tables[0], tables[1])
    # So is sampling from the likeliest token alone.
    pd.testing.assert_frame_equal(tables[0], tables[2])


def test_temperature_and_top_p_narrow_the_choice(pipe):
    def share_of_red(**kwargs) -> float:
        return table_of(pipe, 192, **kwargs)["color"].eq("red").mean()

    usual = share_of_red()
    assert share_of_red(temperature=0.3) > usual + 0.05
    assert share_of_red(top_p=0.5) > usual + 0.05
    assert share_of_red(temperature=5.0) < usual - 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_records": 0}, "num_records=0 is not a positive integer"),
        ({"num_records": -3}, "num_records=-3 is not"),
        ({"num_records": 2.0}, "num_records=2.0 is not"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 is not"),
        ({"batch_size": 0}, "batch_size=0 is not"),
        ({"temperature": -0.1}, "temperature=-0.1 is not 0 or more; 0 is greedy"),
        ({"temperature": float("nan")}, "temperature=nan is not 0 or more"),
        ({"temperature": float("inf")}, "temperature=inf is not 0 or more"),
        ({"temperature": "hot"}, "temperature='hot' is not 0 or more"),
        ({"temperature": None}, "temperature=None is not 0 or more"),
        ({"temperature": 1e-40}, "temperature=1e-40 is not 0 or more; .* from 1e-30 to 1e"),
        ({"temperature": 10**400}, "temperature=1000.* is not 0 or more"),
        ({"temperature": "hot" * 9999}, "temperature='(hot){20,32}.*[.]{3}.*(hot){20,32}' is not 0 or more"),
        ({"top_p": "all"}, "top_p='all' is not in"),
        ({"top_p": float("nan")}, "top_p=nan is not in"),
        ({"num_records": True}, "num_records=True is not a positive integer"),
        ({"top_p": 0.0}, r"top_p=0.0 is not in \(0, 1\]"),
        ({"top_p": 1.1}, "top_p=1.1 is not"),
        ({"output_type": "csv"}, "output_type='csv' is not one of 'dict', 'pandas', 'dataset', 'text'"),
        ({"output_type": np.zeros((2, 0))}, r"output_type=array\(\[\], .* is not one of"),
        ({"num_inference_steps": 10**12}, "num_inference_steps=1000000000000 is more than 10,000"),
        ({"generator": 0}, r"generator=0 is no torch.Generator; give torch.Generator\(\).manual_seed\(seed\)"),
        ({"generator": [0]}, "generator=0 is no torch.Generator"),
        ({"callback_on_step_end": "print"}, "callback_on_step_end='print' is no function"),
        ({"callback_on_step_end": lambda *_: "latents"}, "callback_on_step_end, step 0: return .* not a str"),
        ({"callback_on_step_end": lambda *given: given[3]["latents"]}, "step 0: return .* not a Tensor"),
    ],
)
def test_bad_arguments(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [{}, {"conditions": {"color": "red"}}])
def test_integers_of_numpy(pipe, arguments):
    expected = pipe(3, num_inference_steps=100, batch_size=2, generator=seeded(), **arguments).records
    given = {"num_inference_steps": np.int8(100), "batch_size": np.int64(2)}
    assert pipe(np.int64(3), **given, generator=seeded(), **arguments).records == expected


@pytest.mark.parametrize("num_threads", [1, 3])
def test_records_do_not_depend_on_the_number_of_threads(num_threads, pipe):
    expected = table_of(pipe, 3 * BLOCK + 1)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        pd.testing.assert_frame_equal(table_of(pipe, 3 * BLOCK + 1), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_stages_add_up(pipe):
    profile = profile_generation(pipe, 2 * BLOCK)
    assert list(profile.stages) == ["latents", "prefill", "step", "head", "sampling", "records"]
    assert sum(profile.stages.values()) == pytest.approx(1)
    # A multiplication and an addition for each weight that a position meets.
    decoder, length = pipe.vae.decoder, pipe.vae.config.max_record_length
    weights = sum(p.numel() for name, p in decoder.lm.named_parameters() if ".h." in name and p.ndim == 2)
    positions = length - 1 + decoder.injection.num_virtual_tokens
    denoiser = sum(
        p.numel() for name, p in pipe.denoiser.named_parameters() if p.ndim == 2 and "modulation" not in name
    )
    assert 2 * weights * positions < profile.flops_per_record < 2 * (2 * weights * positions + 12 * denoiser) * 2
    assert 0 < profile.share_of_limit < 1


def test_callback(pipe):
    seen = []

    def watch(pipeline, step, timestep, kwargs):
        assert pipeline is pipe
        seen.append((step, timestep.item(), kwargs["latents"].shape))
        return {}

    table = table_of(pipe, BLOCK + 1, num_inference_steps=3, callback_on_step_end=watch)
    assert [step for step, _, _ in seen] == [0, 1, 2] * 2  # in each of two blocks
    assert [timestep for _, timestep, _ in seen[:3]] == pipe.scheduler.timesteps.tolist()
    assert {shape for _, _, shape in seen} == {(BLOCK, 4)}
    pd.testing.assert_frame_equal(table, table_of(pipe, BLOCK + 1, num_inference_steps=3))


def test_callback_changes_latents(pipe):
    def same(pipeline, step, timestep, kwargs):
        return {"latents": kwargs["latents"][:1].expand_as(kwargs["latents"])}

    colors = ["color", "size", "code"]
    assert len(table_of(pipe, 50, callback_on_step_end=same, temperature=0)[colors].drop_duplicates()) == 1
    latents = pipe.generate_latents(8, generator=seeded(), callback_on_step_end=same)
    torch.testing.assert_close(latents, latents[:1].expand(8, -1))
    expected = pipe(9, generator=seeded()).records
    for nothing in (None, {}):
        assert pipe(9, generator=seeded(), callback_on_step_end=lambda *_, n=nothing: n).records == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: z[:-1], r"step 0: latents of shape \(64, 4\) are needed, not \(63, 4\)"),
        (lambda z: torch.cat([z, z]), "are needed, not"),
        (lambda z: z[:, :2], "are needed, not"),
        (lambda z: z.tolist(), "are needed, not list"),
        (lambda z: z * float("nan"), "latents are not finite"),
    ],
)
def test_callbacks_that_give_no_latents(pipe, change, message):
    with pytest.raises(ValueError, match=message):
        pipe(5, callback_on_step_end=lambda *args: {"latents": change(args[3]["latents"])})


def test_half_a_character_among_dates(pipe):
    with pytest.raises(ValueError, match="column 'birthday': '.ud800' has half a character"):
        pipe.vary(make_table(3).astype(object).assign(birthday="\ud800"))


# Parts


@pytest.mark.parametrize("scheduler", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler])
def test_schedulers_of_diffusers(pipe, scheduler, tmp_path):
    latents = pipe.generate_latents(100, 50, seeded())
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    others = pipe.generate_latents(100, 200, seeded())
    # They solve the same equation from the same noise.
    assert (others - latents).norm() < 0.05 * latents.norm()
    assert_valid(pipe, pipe(30).records)
    pipe.save_pretrained(tmp_path)
    loaded = DiffLMPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded.scheduler, scheduler)
    pd.testing.assert_frame_equal(table_of(loaded, 30), table_of(pipe, 30))


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler])
def test_schedulers_of_other_families_are_refused(pipe, scheduler):
    """Their latents are of another scale."""
    others = DiffLMPipeline(**{**pipe.components, "scheduler": scheduler()})
    with pytest.raises(ValueError, match=f"{scheduler.__name__} is no scheduler of EDM.*take LatentEDMScheduler"):
        others(5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "num_inference_steps"), [(None, 12), (EDMEulerScheduler, 1000), (LatentEDMScheduler, 50)]
)
def test_latents_are_as_wide_as_those_of_training(pipe, monkeypatch, scheduler, num_inference_steps):
    """With a denoiser that is exact for a normal distribution."""
    monkeypatch.setattr(pipe.denoiser, "forward", lambda scaled, *args: torch.zeros_like(scaled))
    if scheduler is not None:
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    latents = pipe.generate_latents(100_000, num_inference_steps, seeded())
    spread = pipe.denoiser.normalize_latents(latents).std(0) / pipe.scheduler.config.sigma_data
    torch.testing.assert_close(spread, torch.ones(4), atol=0.01, rtol=0)


def test_churn(pipe):
    calm = pipe.generate_latents(50, generator=seeded())
    pipe.scheduler = LatentEDMScheduler.from_config(pipe.scheduler.config, s_churn=10)
    churned = pipe.generate_latents(50, generator=seeded())
    assert not torch.allclose(calm, churned)
    torch.testing.assert_close(pipe.generate_latents(50, generator=seeded()), churned)
    assert len(pipe(3).records) == 3


def test_another_denoiser(pipe, folder, tmp_path):
    denoiser = DiffLMDenoiser(latent_size=4, architecture="transformer", width=16, num_layers=1)
    other = DiffLMPipeline.from_pretrained(folder, denoiser=denoiser)
    assert other.denoiser is denoiser
    other.save_pretrained(tmp_path)
    pd.testing.assert_frame_equal(table_of(DiffLMPipeline.from_pretrained(tmp_path), 30), table_of(other, 30))
    # A given part need not be in the folder.
    shutil.rmtree(tmp_path / "denoiser")
    assert len(DiffLMPipeline.from_pretrained(tmp_path, denoiser=denoiser)(3).records) == 3


def test_bfloat16(folder):
    for pipe in (
        DiffLMPipeline.from_pretrained(folder).to(torch.bfloat16),
        DiffLMPipeline.from_pretrained(folder, dtype=torch.bfloat16),
    ):
        assert {pipe.vae.dtype, pipe.denoiser.dtype} == {torch.bfloat16}
        records = pipe(80, generator=seeded()).records
        assert_valid(pipe, records)
        assert records == pipe(80, generator=seeded()).records


def test_latents_follow_the_denoiser(pipe, monkeypatch):
    """Wherever the rest of the pipeline is."""
    expected = pipe.generate_latents(5, generator=seeded())
    monkeypatch.setattr(DiffLMPipeline, "device", torch.device("meta"))
    torch.testing.assert_close(pipe.generate_latents(5, generator=seeded()), expected)


@pytest.mark.parametrize("scheduler", [LatentEDMScheduler, EDMDPMSolverMultistepScheduler])
def test_density_of_latents(pipe, scheduler, monkeypatch):
    """That of the Gaussian that a new denoiser stands for; and 1 in all, whatever the weights."""
    monkeypatch.setattr(pipe, "scheduler", scheduler.from_config(pipe.scheduler.config))
    denoiser = DiffLMDenoiser(latent_size=3, width=8, num_layers=1)
    denoiser.latent_mean.copy_(torch.tensor([1.0, -2.0, 0.5]))
    denoiser.latent_std.copy_(torch.tensor([0.5, 3.0, 1.0]))
    monkeypatch.setattr(pipe, "denoiser", denoiser)
    latents = denoiser.latent_mean + denoiser.latent_std * torch.randn(20, 3, generator=seeded())
    config = pipe.scheduler.config
    std = denoiser.latent_std * (config.sigma_data**2 + config.sigma_min**2) ** 0.5
    expected = torch.distributions.Normal(denoiser.latent_mean, std).log_prob(latents).sum(1)
    torch.testing.assert_close(pipe.latent_log_prob(latents, 160), expected, atol=0.01, rtol=0)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = DiffLMDenoiser(latent_size=1, width=8, num_layers=1)
        torch.nn.init.normal_(denoiser.proj_out.weight, 0, 0.5)
    denoiser.latent_std.fill_(2.0)
    monkeypatch.setattr(pipe, "denoiser", denoiser)
    grid = torch.linspace(-12, 12, 1201)[:, None]
    log_probs = pipe.latent_log_prob(grid, num_inference_steps=100)
    assert (log_probs - torch.distributions.Normal(0, 1).log_prob(grid[:, 0])).abs().max() > 0.3
    assert torch.trapezoid(log_probs.exp(), grid[:, 0]).item() == pytest.approx(1, abs=0.01)


def test_latents_follow_the_decoder(pipe, monkeypatch):
    devices, length = [], pipe.vae.config.max_record_length - 1

    def sample_records(self, latents, uniforms, *args):
        devices.append(latents.device.type)  # where random numbers follow them
        return torch.ones(len(latents), length + 1, dtype=torch.long)

    monkeypatch.setattr(DiffLMForCausalLM, "sample_records", sample_records)
    monkeypatch.setattr(pipe.processor, "decode_records", lambda ids, within_bin_offsets: (ids, within_bin_offsets))
    pipe.vae.to("meta")
    latents = pipe.generate_latents(6, generator=seeded())
    pipe.decode_latents(latents, torch.rand(6, length), torch.rand(6, pipe.processor.num_offsets), batch_size=4)
    assert devices == ["meta", "meta"]


# Files


def test_saving_leaves_the_pipeline_alone(pipe, folder, tmp_path, monkeypatch):
    """While it is saved, too, when another thread may read its name."""
    names = []
    save_pretrained = DiffLMModel.save_pretrained
    monkeypatch.setattr(
        DiffLMModel,
        "save_pretrained",
        lambda self, *args, **kwargs: names.append(pipe.name_or_path) or save_pretrained(self, *args, **kwargs),
    )
    config = dict(pipe.config)
    pipe.save_pretrained(tmp_path)
    assert names == [str(folder)]
    assert dict(pipe.config) == config
    assert str(folder) not in (tmp_path / "model_index.json").read_text()


def test_only_safetensors(folder):
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")]


def test_pickled_weights_are_not_loaded(folder, tmp_path, monkeypatch):
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    weights = DiffLMPipeline.from_pretrained(model).vae.state_dict()
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("unpickles"))
    DiffLMPipeline.from_pretrained(model)
    (model / "vae" / "model.safetensors").unlink()
    torch.save(weights, model / "vae" / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"vae/model\*.safetensors is missing"):
        DiffLMPipeline.from_pretrained(model)
    with pytest.raises(OSError, match="model.safetensors"):
        DiffusionPipeline.from_pretrained(model, use_safetensors=True)


FILES = [
    "vae/config.json",
    "vae/model.safetensors",
    "denoiser/config.json",
    "denoiser/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
    "processor/processor_config.json",
    "processor/tokenizer.json",
    "processor/tokenizer_config.json",
    "processor/encoder_tokenizer/tokenizer.json",
]


@pytest.mark.parametrize("name", FILES)
def test_missing_files(folder, name, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    (model / name).unlink()
    with pytest.raises(OSError, match=rf"{Path(name).with_suffix('')}.* is missing; copy the model anew, or train it"):
        DiffLMPipeline.from_pretrained(model)


@pytest.mark.parametrize("size", [0, 0.5])
@pytest.mark.parametrize("name", ["model_index.json", *FILES])
def test_truncated_files(folder, name, size, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(folder, model)
    content = (model / name).read_bytes()
    (model / name).write_bytes(content[: int(size * len(content))])
    with pytest.raises(OSError, match=rf"{name} is damaged \(.*\); copy the model anew, or train it again"):
        DiffLMPipeline.from_pretrained(model)


def test_dtype(folder, in_fastest_dtype):
    """Without one, the fastest that this machine generates in."""
    models = [DiffLMPipeline.from_pretrained(folder, **given) for given in ({}, {"dtype": torch.float32})]
    models += [DiffLMPipeline.from_pretrained(folder, torch_dtype=torch.float32)]
    assert [pipe.vae.dtype for pipe in models] == [in_fastest_dtype, torch.float32, torch.float32]
    assert [pipe.denoiser.dtype for pipe in models] == [in_fastest_dtype, torch.float32, torch.float32]
    fast, exact, _ = (table_of(pipe, 200) for pipe in models)
    # A seed means the same: where rounding tips no choice, so are the records.
    assert (fast["color"].astype(str) == exact["color"].astype(str)).mean() > 0.9


@pytest.mark.parametrize("scheduler", [LatentEDMScheduler(), LatentEDMScheduler(s_churn=10.0)])
def test_few_latents_are_the_first_of_a_block(pipe, scheduler, monkeypatch):
    pipe = DiffLMPipeline(**{**pipe.components, "scheduler": scheduler}, block_size=BLOCK)
    sizes = []
    forward = DiffLMDenoiser.forward
    monkeypatch.setattr(DiffLMDenoiser, "forward", lambda self, z, *a: sizes.append(len(z)) or forward(self, z, *a))
    first = table_of(pipe, 2)
    # Where the scheduler draws noise, that of a record depends on its place in the block.
    assert set(sizes) == ({2} if scheduler.config.s_churn == 0 else {2, BLOCK})
    pd.testing.assert_frame_equal(first, table_of(pipe, BLOCK).iloc[:2])


def test_no_pipeline(tmp_path):
    with pytest.raises(OSError, match="holds no pipeline: model_index.json is missing"):
        DiffLMPipeline.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="nowhere is neither a folder nor a model that the Hub gives"):
        DiffLMPipeline.from_pretrained(tmp_path / "nowhere")


def test_batches_of_the_task(folder, monkeypatch):
    sizes = []
    sample_records = DiffLMForCausalLM.sample_records
    monkeypatch.setattr(
        DiffLMForCausalLM, "sample_records", lambda self, z, *a: sizes.append(len(z)) or sample_records(self, z, *a)
    )
    difflm_hf.register()
    generate = pipeline("record-generation", model=str(folder))
    expected = generate(20, seed=0)
    assert set(sizes) == {20}
    sizes.clear()
    assert generate(20, seed=0, batch_size=8) == expected
    assert pipeline("record-generation", model=str(folder), batch_size=8)(20, seed=0) == expected
    assert generate([20, 5], seed=0, batch_size=8)[0] == expected
    assert set(sizes) == {8, 4, 5}  # of 20 and of 5 no more than that
