"""Training in both phases: what it takes, what it leaves, and that a killed run ends like any other."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import make_table, seeded, train, weights
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)
from transformers.utils import logging

from difflm_hf import (
    BetaSchedule,
    DiffLMDenoiser,
    DiffLMModel,
    DiffLMPipeline,
    DiffLMProcessor,
    DiffLMTrainer,
    DiffLMTrainingArguments,
    JSONCodec,
    LatentDiffusionTrainer,
    LatentDiffusionTrainingArguments,
    LatentEDMScheduler,
)
from difflm_hf.batches import collate_records, record_lengths
from difflm_hf.callbacks import LossProgressCallback, Preemption, TensorBoardLog
from difflm_hf.latents import encode_latents, to_dataset
from difflm_hf.records import write_table
from difflm_hf.training import DOCUMENT_RECIPES, RECIPES, Recipe, TensorDataset, fit


EARLY_STOPPING_PATIENCE = 5
TIMES = ("runtime", "per_second", "total_flos", "train_loss")  # of a call, not of a run


def scalars(log: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a phase."""
    events = EventAccumulator(str(log)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.endswith(TIMES)
    }


def values(log: Path, tag: str) -> list[float]:
    return [value for _, value in scalars(log)[tag]]


def edited(name: str, vae: dict | None = None, denoiser: dict | None = None, **fields) -> str:
    """A variant of the tiny recipe, which is then `recipe=name`."""
    tiny = RECIPES["tiny"]
    fields |= {"vae": tiny.vae | (vae or {}), "denoiser": tiny.denoiser | (denoiser or {})}
    RECIPES[name] = dataclasses.replace(tiny, **fields)
    DOCUMENT_RECIPES[name] = dataclasses.replace(DOCUMENT_RECIPES["tiny"], **fields)
    return name


@pytest.fixture(scope="module")
def brief() -> str:
    """A recipe of two steps a phase."""
    return edited("brief", min_steps=2, denoiser={"max_steps": 2})


@pytest.fixture(scope="module")
def run(tiny_run) -> Path:
    return tiny_run


# One call


def test_output_folder(run):
    for name in ("model_index.json", "processor/processor_config.json", "scheduler/scheduler_config.json"):
        assert (run / name).is_file()
    assert set(weights(run)) == {"vae/model.safetensors", "denoiser/diffusion_pytorch_model.safetensors"}
    assert not (run / "complete").exists()


def test_what_train_returns_is_what_it_saves(brief, tmp_path):
    pipe = train(make_table(), tmp_path / "model", recipe=brief)
    loaded = DiffLMPipeline.from_pretrained(tmp_path / "model")
    assert pipe.name_or_path == loaded.name_or_path == str(tmp_path / "model")
    for name in ("vae", "denoiser"):
        part, same = getattr(pipe, name), getattr(loaded, name)
        assert not part.training and part.dtype == same.dtype
        # Nothing is left of what training needed of it, such as another forward under autocast.
        assert part.forward.__func__ is same.forward.__func__ is type(part).forward
    for part in ("encoder", "decoder.lm"):
        config, same = (p.vae.get_submodule(part).config for p in (pipe, loaded))
        assert config._attn_implementation == same._attn_implementation
    first, second = (p(20, generator=seeded(), output_type="pandas").records for p in (pipe, loaded))
    pd.testing.assert_frame_equal(first, second)


def test_losses_fall(run):
    # Not those of the denoiser: it starts as the best linear one, and a few steps on other noise each time say little.
    for tag in ("loss", "eval_loss", "eval_bound"):
        curve = values(run / "logs" / "vae", tag)
        assert np.mean(curve[-3:]) < np.mean(curve[:3])


def test_logs(run):
    log = scalars(run / "logs" / "vae")
    assert {"loss", "kl_loss", "reconstruction_loss", "beta", "learning_rate", "eval_bound", "eval_kl_loss"} <= set(
        log
    )
    steps = [step for step, _ in log["loss"]]
    assert steps == sorted(set(steps))
    for step, bound in log["eval_bound"]:
        parts = (dict(log[f"eval_{name}"])[step] for name in ("reconstruction_loss", "kl_loss"))
        assert bound == pytest.approx(sum(parts), rel=1e-5)
    assert {"loss", "eval_loss"} <= set(scalars(run / "logs" / "denoiser"))


def test_latents_are_standardised(run):
    pipe = DiffLMPipeline.from_pretrained(run)
    batch = pipe.processor(make_table())
    mean, logvar = pipe.vae.encode(batch["input_ids"], batch["attention_mask"])
    latents = mean + torch.randn(mean.shape, generator=seeded()) * (0.5 * logvar).exp()
    normal = pipe.denoiser.normalize_latents(latents.detach())
    assert normal.mean(0).abs().max() < 0.1
    assert normal.std(0).sub(0.5).abs().max() < 0.1


def test_same_seed_same_weights(run, brief, tmp_path):
    table = make_table(60)
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        train(table, tmp_path / name, recipe=brief, seed=seed)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert all(a != c for a, c in zip(weights(tmp_path / "a").values(), weights(tmp_path / "c").values()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dataset", "csv", "parquet", "jsonl"])
def test_kinds_of_data(kind, brief, tmp_path):
    table = make_table(60)
    if kind == "dataset":
        data = Dataset.from_pandas(table)
    else:
        data = tmp_path / f"data.{kind}"
        write_table(table, data)
    pipe = train(data, tmp_path / "model", recipe=brief)
    types = {field.name: field.type for field in pipe.processor.schema}
    assert list(types) == list(table.columns)
    assert types == types | {
        **{"age": "integer", "price": "number", "score": "number", "color": "category", "member": "boolean"},
        **{"joined": "datetime", "birthday": "datetime", "size": "category", "note": "text", "nothing": "null"},
    }
    assert len(pipe(3).records) == 3


def test_given_validation(brief, tmp_path):
    pipe = train(make_table(60), tmp_path / "a", validation=make_table(20, seed=1), recipe=brief)
    # The schema covers both.
    assert pipe.processor.schema["age"].minimum <= min(make_table(60)["age"].min(), make_table(20, 1)["age"].min())
    with pytest.raises(ValueError, match="'age' is in only one of data and validation"):
        train(make_table(60), tmp_path / "b", validation=make_table(20).drop(columns="age"), recipe=brief)
    with pytest.raises(ValueError, match="validation table has no rows"):
        train(make_table(60), tmp_path / "b", validation=make_table(20).iloc[:0], recipe=brief)
    with pytest.raises(ValueError, match="the table has no rows"):
        train(make_table(60).iloc[:0], tmp_path / "b", validation=make_table(20), recipe=brief)
    assert not (tmp_path / "b").exists()


def test_validation_is_split_off(run):
    # A tenth of the rows is held out: 216 rows in batches of 64 are four steps an epoch.
    assert dict(scalars(run / "logs" / "vae")["epoch"])[4] == 1.0


@pytest.mark.slow
def test_steps_of_recipes(tmp_path):
    """216 records in batches of 8, of which 4 make a step, are 7 steps an epoch; and steps may be given."""
    batch = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "max_steps": -1}
    for name, vae, num_steps in (
        ("epochs", batch | {"num_train_epochs": 2, "metric_for_best_model": "eval_bound"}, 14),
        ("steps", batch | {"max_steps": 3}, 3),
    ):
        recipe = edited(name, vae, batch | {"num_train_epochs": 1}, min_steps=1 if name == "epochs" else 64)
        pipe = train(make_table(), tmp_path / name, recipe=recipe, max_minutes=5)
        phases = pipe.config.training["phases"]
        assert [phase["num_steps"] for phase in phases] == [num_steps, 7]
        assert all("eval_loss" in phase["metrics"] for phase in phases)


def test_categorical(brief, tmp_path):
    pipe = train(make_table(60), tmp_path / "model", categorical=["code"], recipe=brief)
    field = pipe.processor.schema["code"]
    assert (field.type, field.categories) == ("category", [0, 1, 2, 3, 4])
    assert {record["code"] for record in pipe(20).records} <= {0, 1, 2, 3, 4}


def test_one_row(brief, tmp_path):
    table = make_table(2).iloc[1:].drop(columns=["member", "size"])
    pipe = train(table, tmp_path / "model", recipe=brief)
    # One value of each column is all there is.
    record = pipe(2).records[1]
    assert record == json.loads(JSONCodec(pipe.processor.schema).encode(table)[0])
    assert pipe.generate_latents(5).isfinite().all()


@pytest.mark.parametrize(
    "injection", ["prefix_soft_prompt", "kv_memory", pytest.param("input_embed", marks=pytest.mark.slow)]
)
def test_injections(injection, brief, tmp_path):
    pipe = train(make_table(60), tmp_path / "model", injection=injection, recipe=brief)
    assert pipe.vae.config.injection == injection
    assert len(pipe(2).records) == 2


def test_max_minutes(tmp_path):
    recipe = edited("long", min_steps=10**6, denoiser={"max_steps": 10**6})
    start = time.monotonic()
    train(make_table(), tmp_path / "model", recipe=recipe, max_minutes=2 / 60)
    assert time.monotonic() - start < 60
    for phase in ("vae", "denoiser"):
        [state] = (tmp_path / "model" / "checkpoints" / phase).glob("*/trainer_state.json")
        # The steps fit the time, so that the schedule of the learning rate fits it too.
        assert 1 < TrainerState.load_from_json(str(state)).max_steps < 10**5


@pytest.mark.slow
def test_max_minutes_leaves_time_after_encoding(tmp_path, monkeypatch):
    modules = [sys.modules[f"difflm_hf.training.{name}"] for name in ("fit", "train")]

    def slow(model, dataset, *args):
        time.sleep(0.006 * len(dataset))
        return encode_latents(model, dataset, *args)

    for module in modules:
        monkeypatch.setattr(module, "encode_latents", slow)
    recipe = edited("long", min_steps=10**6, denoiser={"max_steps": 10**6})
    pipe = train(make_table(1024), tmp_path / "model", recipe=recipe, max_minutes=18 / 60)
    assert pipe.config.training["phases"][1]["num_steps"] > 10


@pytest.mark.slow
def test_max_minutes_is_not_for_validation(tmp_path, monkeypatch):
    compute_loss = DiffLMTrainer.compute_loss

    def slow(self, model, inputs, *args, **kwargs):
        time.sleep(len(inputs["input_ids"]) / (1000 if torch.is_grad_enabled() else 2000))
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(DiffLMTrainer, "compute_loss", slow)
    recipe = edited("long", min_steps=10**6, denoiser={"max_steps": 1})
    data, validation = make_table(100), make_table(1000)
    pipe = train(data, tmp_path / "model", validation=validation, recipe=recipe, max_minutes=15 / 60)
    assert pipe.config.training["phases"][0]["num_steps"] > 30
    assert len(scalars(tmp_path / "model" / "logs" / "vae")["eval_bound"]) <= 6


def test_records_that_take_the_time_to_encode(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(fit, "_seconds_to_encode", lambda *args, **kwargs: 1560)
    brief = edited("brief", min_steps=2, denoiser={"max_steps": 2})
    with caplog.at_level("WARNING", "difflm_hf"):
        pipe = train(make_table(60), tmp_path / "model", recipe=brief, max_minutes=13)
    warned = "to encode 54 records takes some 26 of the 13 minutes that are left: 5 of them are learnt from"
    assert warned in caplog.text
    assert pipe.config.training["data"]["num_records"] == 5
    assert "- **A sample** of 60 records" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    # What goes on takes the same records, however fast the processor is by now.
    monkeypatch.setattr(fit, "_seconds_to_encode", lambda *args, **kwargs: 0)
    for name in ("model_index.json", "checkpoints/denoiser"):
        path = tmp_path / "model" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = train(make_table(60), tmp_path / "model", recipe=brief, max_minutes=13, resume=True)
    assert again.config.training["data"]["num_records"] == 5
    assert torch.equal(again.denoiser.latent_mean, pipe.denoiser.latent_mean)


def test_a_sample_is_validated_by_one(tmp_path, monkeypatch):
    """To encode and to validate by 300 records takes as long as to learn from them."""
    monkeypatch.setattr(fit, "_seconds_to_encode", lambda *args, **kwargs: 1560)
    brief = edited("brief", min_steps=2, denoiser={"max_steps": 2})
    pipe = train(make_table(60), tmp_path / "model", recipe=brief, validation=make_table(300, 1), max_minutes=13)
    data = pipe.config.training["data"]
    assert (data["num_records"], data["num_validation_records"]) == (5, 128)


def test_less_time_for_a_run_that_goes_on(tmp_path, monkeypatch):
    """It had begun with all records, and keeps them, but has to encode them in the time that it has now."""
    recipe, measured = edited("short", min_steps=8, denoiser={"max_steps": 2}), []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, "autoencoder", 6)
        train(make_table(60), tmp_path / "model", recipe=recipe)
    monkeypatch.setattr(fit, "_seconds_to_encode", lambda vae, records, **_: measured.append(len(records)) or 1560)
    pipe = train(make_table(60), tmp_path / "model", recipe=recipe, max_minutes=13, resume=True)
    assert pipe.config.training["data"]["num_records"] == 54 and measured == [54]


def test_more_time_for_a_run_that_had_not_begun(tmp_path, monkeypatch):
    """What was left out for want of time is learnt from where no step was made without it."""
    recipe = edited("short", min_steps=8, denoiser={"max_steps": 2})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fit, "_seconds_to_encode", lambda *args, **kwargs: 1560)
        interrupt(patch, "autoencoder", 1)
        train(make_table(60), tmp_path / "model", recipe=recipe, max_minutes=13)
    pipe = train(make_table(60), tmp_path / "model", recipe=recipe, max_minutes=60, resume=True)
    assert pipe.config.training["data"]["num_records"] == 54


def test_max_minutes_is_over_at_once(tmp_path, caplog):
    with caplog.at_level("WARNING", "difflm_hf"):
        pipe = train(make_table(60), tmp_path / "model", recipe="tiny", max_minutes=0)
    assert "only 1 of the 64 steps of the autoencoder fit into the time" in caplog.text
    assert len(scalars(tmp_path / "model" / "logs" / "vae")["eval_bound"]) == 1
    assert len(pipe(2).records) == 2


def test_measuring_speed_changes_nothing(brief, tmp_path):
    for name, minutes in {"a": None, "b": 60}.items():
        train(make_table(60), tmp_path / name, recipe=brief, max_minutes=minutes)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert scalars(tmp_path / "a" / "logs" / "vae") == scalars(tmp_path / "b" / "logs" / "vae")


def test_speed_is_measured_as_training_goes(brief, tmp_path, monkeypatch):
    compute_loss, calls = DiffLMTrainer.compute_loss, []

    def spy(self, model, inputs, *args, **kwargs):
        loss = compute_loss(self, model, inputs, *args, **kwargs)
        if torch.is_grad_enabled():
            calls.append((model.training, torch.is_autocast_enabled("cpu")))
        return loss

    monkeypatch.setattr(DiffLMTrainer, "compute_loss", spy)
    monkeypatch.setattr(sys.modules["difflm_hf.training.fit"], "supports_bf16", lambda: True)
    train(make_table(60), tmp_path / "model", recipe=brief, max_minutes=1)
    assert all(is_training for is_training, _ in calls)
    # Measurements come first; training wraps the model's forward instead.
    assert [has_autocast for _, has_autocast in calls] == [True] * 2 + [False] * 2


@pytest.mark.parametrize(("phase", "loss"), [("vae", "kl_loss|loss"), ("denoiser", "loss")])
def test_a_run_that_diverges_ends(phase, loss, tmp_path):
    recipe = edited("too fast", min_steps=8, **{"denoiser": {"max_steps": 8}} | {phase: {"learning_rate": 1e30}})
    with pytest.raises(RuntimeError, match=rf"diverged: at step \d, \w*({loss}) is (nan|inf); .*=1e\+30 of {phase}"):
        train(make_table(), tmp_path / "model", recipe=recipe)
    assert not (tmp_path / "model" / "model_index.json").exists()


def test_best_checkpoint_and_early_stopping(tmp_path):
    """A few rows are soon known by heart: the last weights are then not the best."""
    recipe = edited("greedy", vae={"learning_rate": 0.05}, min_steps=320)
    train(make_table(40), tmp_path / "model", recipe=recipe)
    log = scalars(tmp_path / "model" / "logs" / "vae")
    losses = [loss for _, loss in log["eval_loss"]]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + EARLY_STOPPING_PATIENCE
    assert log["eval_loss"][-1][0] < 320
    [checkpoint] = (tmp_path / "model" / "checkpoints" / "vae").glob("checkpoint-*")
    assert checkpoint.name == f"checkpoint-{log['eval_loss'][best][0]}"
    saved = (DiffLMModel.from_pretrained(folder) for folder in (checkpoint, tmp_path / "model" / "vae"))
    assert all(map(torch.equal, *(model.state_dict().values() for model in saved)))


def misspelled(group: str, name: str) -> Recipe:
    """The tiny recipe with one field more in a group of its fields."""
    return dataclasses.replace(RECIPES["tiny"], **{group: getattr(RECIPES["tiny"], group) | {name: 1}})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "huge"}, "recipe='huge' is not one of 'small', 'base'"),
        ({"injection": "telepathy"}, "injection='telepathy' is not one of 'soft_prompt'"),
        ({"categorical": ["shoe"]}, "no column 'shoe'"),
        ({"base_encoder": "bert"}, "base_encoder goes with base_model"),
        ({"data": pd.DataFrame()}, "the table has no columns"),
        ({"data": make_table().iloc[:0]}, "the table has no rows"),
        ({"data": []}, "the table has no columns"),
        ({"recipe": 3}, "recipe=3 is not one of 'small'.*nor a Recipe"),
        ({"recipe": misspelled("decoder_config", "n_embed")}, "decoder_config of the recipe has 'n_embed'"),
        ({"recipe": misspelled("encoder_config", "nope")}, "encoder_config of the recipe has 'nope'"),
        ({"recipe": misspelled("text_decoder_config", "nope")}, "which GPT2Config does not know"),
        ({"recipe": misspelled("text_encoder_config", "model_type")}, "text_encoder_config of the .* no model_type"),
        ({"recipe": DOCUMENT_RECIPES["tiny"]}, "encoder_config .* is missing; recipes of rows start from RECIPES"),
        ({"recipe": misspelled("denoiser_config", "nope")}, "denoiser_config of the recipe: .*nope"),
        ({"recipe": misspelled("vae", "nope")}, "vae of the recipe: .*nope"),
        ({"recipe": misspelled("denoiser", "nope")}, "denoiser of the recipe: .*nope"),
        ({"recipe": misspelled("vae", "beta_schedule")}, "beta_schedule=1 is not one of"),
        ({"categorical": "color"}, "categorical='color' is one name"),
        ({"max_length": "10"}, "max_length='10' is not a positive integer"),
        ({"min_category_count": 0}, "min_category_count=0 is not a positive integer"),
        ({"max_minutes": float("nan")}, "max_minutes=nan is no number of minutes"),
        ({"max_minutes": -1}, "max_minutes=-1 is no number of minutes"),
        ({"seed": 1.5}, "seed is a float, 1.5; give a int"),
        ({"schema": {}}, "schema is a dict"),
        ({"push_to_hub": True, "hub_strategy": "often"}, "hub_strategy='often' is not one of"),
        ({"push_to_hub": True, "hub_model_id": "a/b/c"}, "Repo id"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(**{"data": make_table(60), "output_dir": tmp_path / "model", "recipe": "tiny", **arguments})
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("sizes", [{"latent_size": 0}, {"num_latent_tokens": 0}, {"min_steps": -1}])
def test_sizes_of_recipes(sizes):
    with pytest.raises(ValueError, match="is not a positive integer"):
        dataclasses.replace(RECIPES["tiny"], **sizes)


def test_output_dir_is_a_file(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        train(make_table(60), tmp_path / "model", recipe="tiny")


def test_folder_not_empty(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; choose another folder, delete it, or resume"):
        train(make_table(60), tmp_path, recipe="tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.slow
def test_many_columns(brief, tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.integers(0, 3, (40, 300)), columns=[f"c{i}" for i in range(300)])
    pipe = train(table, tmp_path / "model", recipe=brief)
    assert pipe(2, output_type="pandas").records.shape == (2, 300)


# Resuming


def interrupt(monkeypatch, phase: str, at_step: int, with_what=KeyboardInterrupt) -> None:
    """Training then stops after a step of a phase, before the evaluation and checkpoint that belong to it."""
    on_step_end = LossProgressCallback.on_step_end

    def stop(self, args, state, control, **kwargs):
        on_step_end(self, args, state, control, **kwargs)
        if self.description == phase and state.global_step == at_step:
            raise with_what

    monkeypatch.setattr(LossProgressCallback, "on_step_end", stop)


def assert_same_run(run: Path, other: Path) -> None:
    for phase in ("vae", "denoiser"):
        assert scalars(other / "logs" / phase) == scalars(run / "logs" / phase)
    assert weights(other) == weights(run)


@pytest.mark.parametrize(
    ("phase", "at_step"),
    [
        pytest.param("autoencoder", 2, marks=pytest.mark.slow),
        ("autoencoder", 30),
        ("latent diffusion", 2),
        pytest.param("latent diffusion", 18, marks=pytest.mark.slow),
    ],
)
def test_resumed_run_is_the_same(phase, at_step, run, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, phase, at_step)
        train(make_table(), folder, recipe="tiny")
    assert not (folder / "model_index.json").exists()
    with pytest.raises(FileNotFoundError, match="holds no pipeline.*resume"):
        DiffLMPipeline.from_pretrained(folder)
    # Killed as it wrote a checkpoint: this one is not complete.
    (folder / "checkpoints" / "vae" / "checkpoint-63").mkdir(parents=True)
    (folder / "checkpoints" / "vae" / "checkpoint-63" / "model.safetensors").write_bytes(b"cut")
    torch.rand(1)  # another process has other random numbers
    train(make_table(), folder, recipe="tiny", resume=True)
    assert_same_run(run, folder)


def test_resuming_with_the_optimizer_of_another_version(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, "autoencoder", 41)
        train(make_table(), tmp_path, recipe="tiny")
    for file in tmp_path.glob("checkpoints/vae/checkpoint-*/optimizer.pt"):
        state = torch.load(file)
        state["param_groups"].pop()
        torch.save(state, file)
    with pytest.raises(ValueError, match="the optimizer of .*checkpoint-.* other groups .*; train into a new folder"):
        train(make_table(), tmp_path, recipe="tiny", resume=True)


def train_until(name: str, folder: Path) -> subprocess.CompletedProcess:
    """Trains in a process that gets a signal at step 41 of its first phase."""
    script = f"""
import os, signal
from tiny import make_table, train
from difflm_hf.callbacks import LossProgressCallback

def end(self, args, state, control, **kwargs):
    if state.global_step == 41:
        os.kill(os.getpid(), signal.{name})

LossProgressCallback.on_step_end = end
train(make_table(), {str(folder)!r}, recipe="tiny")
"""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_killed_process(run, tmp_path):
    folder = tmp_path / "model"
    assert train_until("SIGKILL", folder).returncode == -signal.SIGKILL
    train(make_table(), folder, recipe="tiny", resume=True)
    assert_same_run(run, folder)


@pytest.mark.slow
def test_terminated_process(run, tmp_path):
    """As schedulers take machines back: with a checkpoint of the step that it is at."""
    folder = tmp_path / "model"
    done = train_until("SIGTERM", folder)
    assert done.returncode == 143 and "ended by SIGTERM after step 4" in done.stderr
    [last] = {41, 42} & {int(path.name.split("-")[1]) for path in folder.glob("checkpoints/vae/checkpoint-*")}
    assert f"step {last}" in done.stderr
    train(make_table(), folder, recipe="tiny", resume=True)
    assert weights(folder) == weights(run)


def test_a_table_of_identifiers_and_texts(brief, tmp_path):
    """Of which no field before the texts can be known."""
    table = pd.DataFrame({"id": range(100), "note": [f"word {k % 37} of {k % 11}" for k in range(100)]})
    pipe = train(table, tmp_path / "model", recipe=brief, find_rules=True)
    assert pipe.vae.config.condition_size == 0 and len(pipe(5).records) == 5


def test_signals_are_those_of_the_process_again():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError, match="of training"), Preemption():
        assert signal.getsignal(signal.SIGTERM) != before
        raise RuntimeError("of training")
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("max_minutes", [None, 60])  # with a limit, steps are measured first
def test_short_memory(max_minutes, tmp_path, monkeypatch, caplog):
    sizes, compute_loss = [], DiffLMTrainer.compute_loss

    def compute(self, model, inputs, *args, **kwargs):
        size = len(inputs["input_ids"])
        if model.training:
            sizes.append(size)
            if size > 20:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(DiffLMTrainer, "compute_loss", compute)
    logging.enable_propagation()
    recipe = edited("short", min_steps=8, denoiser={"max_steps": 2})
    pipe = train(make_table(), tmp_path / "model", recipe=recipe, max_minutes=max_minutes)
    logging.disable_propagation()
    assert len(pipe(5).records) == 5
    assert sizes[:3] == [64, 32, 16] and max(sizes[2:]) == 16
    [phase, _] = pipe.config.training["phases"]
    assert (phase["num_steps"], phase["arguments"]["per_device_train_batch_size"]) == (8, 16)
    assert "out of memory with 64 records at a time: it goes on with 32" in caplog.text


def test_logs_of_one_second(tmp_path, monkeypatch):
    """A run that goes on at once, in a process with a smaller number."""
    for process, steps in ((900, range(1, 6)), (100, range(5, 8))):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        log, state = TensorBoardLog(tmp_path), TrainerState(global_step=steps[0] - 1)
        log.on_train_begin(None, state, None)
        for state.global_step in steps:
            log.on_log(None, state, None, {"loss": float(process)})
        log.on_train_end(None, state, None)
    assert scalars(tmp_path)["loss"] == [(step, 900) for step in range(1, 5)] + [(step, 100) for step in range(5, 8)]


def test_resume_after_the_last_step(brief, tmp_path, monkeypatch):
    """Killed after the last checkpoint of a phase, but before its best weights were saved."""
    run, folder = tmp_path / "run", tmp_path / "model"
    train(make_table(60), run, recipe=brief)
    save_pretrained = DiffLMModel.save_pretrained

    def cut_off(self, path, *args, **kwargs):
        if Path(path).name == ".best":
            raise KeyboardInterrupt
        return save_pretrained(self, path, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DiffLMModel, "save_pretrained", cut_off)
        train(make_table(60), folder, recipe=brief)
    folder = folder.rename(tmp_path / "moved")
    train(make_table(60), folder, recipe=brief, resume=True)
    assert_same_run(run, folder)


def test_resume_a_finished_run(run, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "denoiser")
    train(make_table(), folder, recipe="tiny", resume=True)
    assert_same_run(run, folder)


# The trainers by themselves


@pytest.fixture(scope="module")
def parts() -> tuple[DiffLMProcessor, TensorDataset]:
    table = make_table(64).drop(columns="note")
    processor = DiffLMProcessor.from_records(table)
    return processor, TensorDataset(input_ids=processor(table)["input_ids"])


def vae_trainer(parts, folder: Path, callbacks=(), **fields) -> DiffLMTrainer:
    processor, dataset = parts
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    sizes |= {"vocab_size": processor.codec.vocab_size, "max_position_embeddings": processor.codec.max_length + 4}
    tokens = {f"{name}_token_id": getattr(processor.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    model = DiffLMModel(
        processor.model_config(
            encoder_config=AutoConfig.for_model("bert", **sizes, **tokens),
            decoder_config=AutoConfig.for_model("llama", **sizes, **tokens),
            latent_size=4,
        )
    )
    arguments = {
        **{"max_steps": 12, "learning_rate": 1e-3, "per_device_train_batch_size": 16, "logging_steps": 1},
        **{"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "use_cpu": True},
        **{"restore_callback_states_from_checkpoint": True, "remove_unused_columns": False, "report_to": "none"},
        "disable_tqdm": True,
    }
    args = DiffLMTrainingArguments(output_dir=str(folder), **arguments | fields)
    return DiffLMTrainer(model, args, train_dataset=dataset, eval_dataset=dataset, callbacks=list(callbacks))


def denoiser_trainer(folder: Path, **fields) -> LatentDiffusionTrainer:
    mean = 0.5 * torch.randn(64, 4, generator=seeded())
    dataset = TensorDataset(mean=mean, std=torch.zeros_like(mean))
    arguments = {
        **{"max_steps": 12, "learning_rate": 1e-2, "per_device_train_batch_size": 16, "save_strategy": "steps"},
        **{"save_steps": 4, "use_cpu": True, "report_to": "none", "remove_unused_columns": False},
        **{"disable_tqdm": True, "logging_steps": 1},
    }
    torch.manual_seed(0)
    denoiser = DiffLMDenoiser(latent_size=4, width=16, num_layers=1)
    args = LatentDiffusionTrainingArguments(output_dir=str(folder), **arguments | fields)
    return LatentDiffusionTrainer(denoiser, args, LatentEDMScheduler(), train_dataset=dataset, eval_dataset=dataset)


def test_one_process_has_one_device(parts, tmp_path):
    trainer = vae_trainer(parts, tmp_path)
    trainer.args._n_gpu = 2
    trainer = DiffLMTrainer(trainer.model, trainer.args, train_dataset=parts[1], eval_dataset=parts[1])
    assert trainer.args.n_gpu == 1
    trainer.train()


def test_trainers_take_a_dataset(parts, tmp_path):
    processor, tensors = parts
    dataset = Dataset.from_dict({name: column.tolist() for name, column in processor(make_table(64)).items()})
    assert "within_bin_offsets" in dataset.column_names  # which is no input of the model
    trainer = vae_trainer((processor, dataset), tmp_path)
    losses = [trainer.evaluate(data)["eval_loss"] for data in (dataset, dataset.with_format("torch"), tensors)]
    assert losses == pytest.approx(losses[:1] * 3)
    trainer.train()
    assert trainer.state.global_step == 12


def test_documents_of_several_lengths_in_a_dataset(tmp_path):
    """As `Dataset.map(batched=True)` gives them: padded within its batches, and not beyond."""
    texts = ["a", "b c", "d e f", "g h i j k l m n"] * 4
    table = pd.DataFrame({"text": [f"{i} {text}" for i, text in enumerate(texts)]})
    processor = DiffLMProcessor.from_records(table)
    rows = Dataset.from_pandas(table).map(
        lambda batch: {**processor(pd.DataFrame({"text": batch["text"]}), return_tensors="np")},
        batched=True,
        batch_size=2,
    )
    dataset = rows.remove_columns("text")
    assert len({len(ids) for ids in dataset["decoder_input_ids"]}) > 1
    whole, one_by_one = collate_records(to_dataset(processor, table)[range(16)]), collate_records(list(dataset))
    for name, tensor in whole.items():
        assert torch.equal(one_by_one[name][:, : tensor.shape[1]], tensor)
    assert record_lengths(dataset).tolist() == record_lengths(to_dataset(processor, table)).tolist()


def test_padding_is_masked_where_a_dataset_has_no_mask():
    batch = collate_records([{"input_ids": [1, 5, 6, 7]}, {"input_ids": [1, 5]}])
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert "attention_mask" not in collate_records([{"input_ids": [1, 5]}, {"input_ids": [1, 6]}])


def test_columns_that_are_no_tensors():
    with pytest.raises(ValueError, match=r"column 'text' of the dataset holds 'abc'.*remove_columns\('text'\)"):
        collate_records([{"input_ids": [1, 5], "text": "abc"}])


def test_trainers_take_a_collator(parts, tmp_path):
    processor, dataset = parts
    sizes = []

    def collate(examples):
        sizes.append(len(examples["input_ids"]))
        return examples

    given = vae_trainer(parts, tmp_path, eval_strategy="no")
    DiffLMTrainer(given.model, given.args, data_collator=collate, train_dataset=dataset).train()
    assert sizes == [16] * 12


def test_a_trainer_leaves_attention_alone(parts, tmp_path):
    trainer = vae_trainer(parts, tmp_path, bf16=True)
    assert trainer.model.config.encoder_config._attn_implementation == "sdpa"
    trainer.train()
    assert trainer.model.config.encoder_config._attn_implementation == "sdpa"


class StopAt(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def history(trainer: DiffLMTrainer) -> list[dict]:
    kept = [{k: v for k, v in entry.items() if not k.endswith(TIMES)} for entry in trainer.state.log_history]
    return [entry for entry in kept if "loss" in entry or "eval_loss" in entry]


@pytest.mark.slow
def test_resumed_schedule_of_beta(parts, tmp_path):
    # A learning rate of 0 stalls the reconstruction for good.
    fields = {"learning_rate": 0.0, "beta_schedule": "decreasing", "beta_patience": 2, "beta_min": 0.1}
    whole = vae_trainer(parts, tmp_path / "whole", **fields)
    whole.train()
    killed = vae_trainer(parts, tmp_path / "killed", callbacks=[StopAt(6)], **fields)
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = vae_trainer(parts, tmp_path / "killed", **fields)
    resumed.train(resume_from_checkpoint=True)
    assert history(resumed) == history(whole)
    betas = [entry["beta"] for entry in history(whole) if "beta" in entry]
    # The first evaluation improves on nothing; each two after it do not, and the next step has the new β.
    assert betas == pytest.approx(np.maximum(0.5 * 0.7 ** np.array([0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]), 0.1))
    assert resumed.beta == whole.beta


@pytest.mark.slow
def test_resumed_weights(parts, tmp_path):
    whole = vae_trainer(parts, tmp_path / "whole", beta_schedule="cyclical")
    whole.train()
    killed = vae_trainer(parts, tmp_path / "killed", callbacks=[StopAt(7)], beta_schedule="cyclical")
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = vae_trainer(parts, tmp_path / "killed", beta_schedule="cyclical")
    resumed.train(resume_from_checkpoint=True)
    assert history(resumed) == history(whole)
    assert all(map(torch.equal, resumed.model.state_dict().values(), whole.model.state_dict().values()))


def test_losses_are_comparable(parts, tmp_path):
    trainer = vae_trainer(parts, tmp_path)
    first, second = trainer.evaluate(), trainer.evaluate(metric_key_prefix="test")
    assert first["eval_bound"] == second["test_bound"]
    assert first["eval_bound"] == first["eval_reconstruction_loss"] + first["eval_kl_loss"]
    assert first["eval_loss"] == pytest.approx(
        first["eval_reconstruction_loss"] + trainer.beta * first["eval_kl_loss"], rel=1e-5
    )


def test_checkpoints_have_no_token(parts, tmp_path):
    trainer = vae_trainer(parts, tmp_path, max_steps=2, hub_token="hf_secret")
    trainer.train()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in files)
    assert not [path for path in files if b"hf_secret" in path.read_bytes()]
    assert trainer.args.hub_token == "hf_secret"


def test_moving_average_is_resumed(tmp_path):
    whole = denoiser_trainer(tmp_path / "whole")
    whole.train()
    killed = denoiser_trainer(tmp_path / "killed", num_train_epochs=1)
    killed.add_callback(StopAt(6))
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = denoiser_trainer(tmp_path / "killed")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.ema.optimization_step == whole.ema.optimization_step == 12
    assert all(map(torch.equal, resumed.ema.shadow_params, whole.ema.shadow_params))


def test_denoiser_ends_with_the_moving_average(tmp_path):
    trainer = denoiser_trainer(tmp_path)
    trainer.train()
    assert all(map(torch.equal, trainer.model.parameters(), trainer.ema.shadow_params))
    assert trainer.evaluate()["eval_loss"] == trainer.evaluate()["eval_loss"]


def test_perfect_denoiser_loss_of_gaussian_latents(tmp_path):
    """For latents from N(0, σ_data²) the linear denoiser F = 0, as which the network starts, is the best one."""
    trainer = denoiser_trainer(tmp_path, per_device_eval_batch_size=4096)
    mean = 0.5 * torch.randn(4096, 4, generator=seeded())
    loss = trainer.evaluate(TensorDataset(mean=mean, std=torch.zeros_like(mean)))["eval_loss"]
    assert loss == pytest.approx(1.0, abs=0.05)


# Schedules of β


def evaluate(schedule: BetaSchedule, *losses: float) -> list[float]:
    betas = []
    for loss in losses:
        schedule.on_evaluate(None, TrainerState(), TrainerControl(), {"eval_reconstruction_loss": loss})
        betas.append(schedule.beta)
    return betas


def test_decreasing_beta():
    schedule = BetaSchedule("decreasing", beta_max=0.1, beta_min=0.04, patience=2)
    assert evaluate(schedule, 9, 8, 8, 7) == [0.1] * 4  # one stalled evaluation is not two
    assert evaluate(schedule, 7, 7.5) == pytest.approx([0.1, 0.07])
    assert evaluate(schedule, 7.2, 6) == pytest.approx([0.07, 0.07])
    assert evaluate(schedule, 6, 6, 6, 6, 6, 6) == pytest.approx([0.07, 0.049, 0.049, 0.04, 0.04, 0.04])


def test_constant_beta():
    schedule = BetaSchedule("constant", beta_max=0.3)
    assert evaluate(schedule, *[1.0] * 10) == [0.3] * 10


def test_cyclical_beta():
    schedule = BetaSchedule("cyclical", beta_max=1.0, beta_min=0.2, num_cycles=2)
    betas = []
    for step in range(16):
        schedule.on_step_begin(None, TrainerState(global_step=step, max_steps=16), TrainerControl())
        betas.append(schedule.beta)
    assert betas == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0] * 2)


def test_state_of_a_schedule():
    schedule = BetaSchedule("decreasing", patience=3)
    evaluate(schedule, 3, 2, 2, 2)
    copy = BetaSchedule.from_state(json.loads(json.dumps(schedule.state())))
    assert vars(copy) == vars(schedule)
    assert evaluate(copy, 2) == evaluate(schedule, 2) == [0.35]


def test_evaluation_under_another_name_leaves_beta_alone():
    schedule = BetaSchedule("decreasing", patience=1)
    schedule.on_evaluate(None, TrainerState(), TrainerControl(), {"test_loss": 1.0})
    assert schedule.num_stalled == 0


@pytest.mark.parametrize("arguments", [{"schedule": "random"}, {"beta_max": 0.1, "beta_min": 0.2}, {"beta_min": -1}])
def test_bad_schedules(arguments):
    with pytest.raises(ValueError, match="beta"):
        BetaSchedule(**arguments)


# Pretrained language models


def save_pretrained_pair(texts: list[str], folder: Path, decoder_type: str, num_steps: int, **fields) -> None:
    """A causal LM that has learnt the texts for some steps, and an encoder, each with a tokenizer of its own."""
    for name, specials in {"encoder": ["[PAD]", "[CLS]", "[SEP]"], "decoder": ["<pad>", "<s>", "</s>"]}.items():
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        bpe.train_from_iterator(
            texts,
            trainers.BpeTrainer(
                vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
            ),
        )
        bpe.decoder = decoders.ByteLevel()
        pad, bos, eos = specials
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=pad, bos_token=bos, eos_token=eos)
        tokenizer.save_pretrained(folder / name)
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32} | ids
    AutoModel.from_config(AutoConfig.for_model("bert", **sizes)).save_pretrained(folder / "encoder")
    torch.manual_seed(0)
    if decoder_type == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2} | ids
    lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(decoder_type, **sizes | fields))
    batch = tokenizer([f"<s>{text}</s>" for text in texts], padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.Adam(lm.parameters(), 1e-2)
    for _ in range(num_steps):
        lm(batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    lm.save_pretrained(folder / "decoder")


# GPT-2 has learnt where its first token stands: virtual ones before it would need more training than two steps.
@pytest.mark.parametrize("with_encoder", [True, False])
@pytest.mark.parametrize(("decoder_type", "injection"), [("gpt2", "input_embed"), ("llama", "soft_prompt")])
def test_base_model(decoder_type, injection, with_encoder, brief, tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"color": rng.choice(["rot", "grün"], 32), "big": rng.random(32) < 0.5})
    table["count"] = rng.integers(0, 3, 32)
    codec = JSONCodec(DiffLMProcessor.from_records(table).schema)
    save_pretrained_pair(codec.encode(table), tmp_path, decoder_type, num_steps=60)
    base = {"base_model": str(tmp_path / "decoder")}
    if with_encoder:
        base["base_encoder"] = str(tmp_path / "encoder")
    pipe = train(table, tmp_path / "model", recipe=brief, injection=injection, **base)

    before = AutoModelForCausalLM.from_pretrained(base["base_model"]).state_dict()
    after = pipe.vae.decoder.lm.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name].to(after[name].dtype), after[name]) for name in before)
    assert isinstance(pipe.processor.codec, JSONCodec)
    # Each reads in its own vocabulary, after loading too.
    assert pipe.processor.tokenizer.eos_token == "</s>"
    assert pipe.processor.encoder_tokenizer.bos_token == ("[CLS]" if with_encoder else "<s>")
    generated = pipe(20, generator=seeded(), output_type="pandas").records
    assert generated.dtypes.equals(table.dtypes)
    assert all(set(generated[name]) <= set(table[name]) for name in table)
    again = pipe(3, generator=seeded(), batch_size=5, output_type="pandas").records
    pd.testing.assert_frame_equal(again, generated.head(3))


def test_records_too_long_for_the_base_model(brief, tmp_path):
    table = pd.DataFrame({"color": ["red", "green"] * 8})
    codec = JSONCodec(DiffLMProcessor.from_records(table).schema)
    save_pretrained_pair(codec.encode(table), tmp_path, "gpt2", num_steps=0, n_positions=64)
    table["text"] = [chr(97 + i) * 9 + "xyz" * 30 for i in range(16)]
    with pytest.raises(
        ValueError, match=r"the longest record takes \d+ tokens and .*decoder reads at most 64; shorten"
    ):
        train(table, tmp_path / "model", recipe=brief, base_model=str(tmp_path / "decoder"))


def test_no_base_model(brief, tmp_path):
    with pytest.raises(OSError, match="nowhere is no base model with a tokenizer: "):
        train(make_table(), tmp_path / "model", recipe=brief, base_model=str(tmp_path / "nowhere"))
    assert not (tmp_path / "model").exists()


@torch.no_grad()
def test_latents_are_posterior_samples_or_means(run):
    pipe = DiffLMPipeline.from_pretrained(run)
    records = to_dataset(pipe.processor, make_table())
    samples, means = (
        encode_latents(pipe.vae, records, sample_posterior).tensors for sample_posterior in (True, False)
    )
    mean, logvar = pipe.vae.encode(**records[slice(None)])
    torch.testing.assert_close(samples["mean"], mean)
    torch.testing.assert_close(samples["std"], (0.5 * logvar).exp())
    torch.testing.assert_close(means["mean"], mean)
    assert not means["std"].any()


@pytest.mark.parametrize(
    ("change", "name"),
    [({"seed": 1}, "seed"), ({"min_category_count": 3}, "min_category_count"), ({"data": make_table(90)}, "data")],
)
def test_resuming_another_run(change, name, run, tmp_path):
    shutil.copytree(run, tmp_path / "model")
    arguments = {"data": make_table(), "output_dir": tmp_path / "model", "recipe": "tiny"}
    with pytest.raises(ValueError, match=f"holds a run with {name}=.* train into another folder"):
        train(**{**arguments, **change}, resume=True)
    train(**arguments, resume=True, max_minutes=1)
