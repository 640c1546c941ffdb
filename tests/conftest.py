"""Models small enough to run anywhere, all from configurations."""

import gc
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hub_server import HubServer
from hypothesis import settings


# Tests run in a process for each core. Libraries read this when they are imported.
os.environ["OMP_NUM_THREADS"] = "1"
# Clients read where their Hub is when they are imported, which is from here on.
HUB = HubServer()
for name, value in HUB.environment(token=HUB.add_user("alice")).items():
    if name.startswith("HF_"):
        os.environ[name] = value

import torch  # noqa: E402
from tiny import make_table, train  # noqa: E402
from transformers import AutoConfig  # noqa: E402
from transformers.utils import logging  # noqa: E402

from difflm_hf.commands.main import main  # noqa: E402
from difflm_hf.configuration_difflm import DiffLMConfig  # noqa: E402
from difflm_hf.modeling_difflm import DiffLMModel  # noqa: E402
from difflm_hf.utils import default_dtype  # noqa: E402


logging.disable_progress_bar()
settings.register_profile("quick", deadline=None, max_examples=20)
settings.register_profile("thorough", deadline=None, max_examples=200)  # by --hypothesis-profile
settings.load_profile("quick")

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
VOCABULARY = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
# Weights are large, so that latents and tokens matter without training.
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 80,
    "initializer_range": 0.2,
    **VOCABULARY,
}
LLAMA = {**SIZES, "num_key_value_heads": 2}
GEMMA = {**LLAMA, "head_dim": 16, "sliding_window": 64}
GPT2 = {
    **{"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 80, "initializer_range": 0.2},
    **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    **VOCABULARY,
}
BERT = {**SIZES, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CONFIGS = {
    "llama": LLAMA,
    "mistral": {**LLAMA, "sliding_window": 64},
    "qwen2": LLAMA,
    "qwen3": {**LLAMA, "head_dim": 16},
    "gpt2": GPT2,
    "gemma": {**LLAMA, "head_dim": 16},
    "gemma2": GEMMA,
    "gemma3_text": {**GEMMA, "layer_types": ["sliding_attention", "full_attention"]},
    "running_sum": {
        **{"embedding_size": 40, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 40},
        **VOCABULARY,
    },
    "albert": {**BERT, "embedding_size": 32},
    "bert": BERT,
    "roberta": BERT,
    "distilbert": {
        **{"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 80},
        **{"dropout": 0.0, "attention_dropout": 0.0, "initializer_range": 0.2},
        **VOCABULARY,
    },
    "t5": {
        **{"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0},
        **VOCABULARY,
    },
}


@pytest.fixture(scope="module", autouse=True)
def less_garbage() -> None:
    """Each phase of training ends with a search for garbage, which passes over all that is there now."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # whatever the test before asked for


@pytest.fixture(scope="session", autouse=True)
def in_float32() -> None:
    """Pipelines are loaded in float32, in which figures compare."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("difflm_hf.pipeline_difflm.default_dtype", lambda: torch.float32)
        yield


@pytest.fixture
def in_fastest_dtype(monkeypatch) -> torch.dtype:
    """Pipelines are loaded as they are outside of tests."""
    monkeypatch.setattr("difflm_hf.pipeline_difflm.default_dtype", default_dtype)
    return default_dtype()


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[..., Path]:
    """`once("run", make)`: a folder that `make(folder)` fills, once for all processes. Tests only read it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def get(name: str, make: Callable[[Path], object]) -> Path:
        folder, is_complete = root / "once" / name, root / "once" / f"{name}.complete"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not is_complete.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                is_complete.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def tiny_run(once) -> Path:
    """The folder of a run on `make_table()` with the tiny recipe that nothing interrupted."""
    return once("table", lambda folder: train(make_table(), folder, recipe="tiny"))


@pytest.fixture(scope="module")
def hub() -> HubServer:
    """A Hub without repositories on the loopback interface, whose client this process is with the token of `alice`."""
    HUB.repos.clear()
    return HUB


@pytest.fixture(scope="module")
def browser():
    """Chromium, without a window."""
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)


@pytest.fixture
def tiny_config():
    """`tiny_config("gpt2")`: a small configuration of a model type in `CONFIGS`."""

    def make(model_type="llama", **fields):
        return AutoConfig.for_model(model_type, **{**CONFIGS[model_type], **fields})

    return make


@pytest.fixture
def tiny_difflm_config(tiny_config):
    """`tiny_difflm_config("gpt2", injection="kv_memory")`: a small DiffLM with that decoder."""

    def make(decoder="llama", encoder="bert", **fields):
        sizes = {"latent_size": 3, "num_latent_tokens": 2, "num_prefix_tokens": 3}
        return DiffLMConfig(tiny_config(encoder), tiny_config(decoder), **{**sizes, **fields})

    return make


@pytest.fixture
def tiny_model(tiny_difflm_config):
    """As `tiny_difflm_config`, but the model, in evaluation mode and the same each time."""

    def make(*args, **fields):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return DiffLMModel(tiny_difflm_config(*args, **fields)).eval()

    return make


def call(monkeypatch: pytest.MonkeyPatch, *arguments) -> int:
    """Runs the command in this process, and returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["difflm", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        main()
    return exit.value.code or 0


@pytest.fixture
def error_of(monkeypatch, capsys):
    """Runs the command, which must fail, and returns the one line that it says."""

    def run(*arguments) -> str:
        capsys.readouterr()
        assert call(monkeypatch, *arguments) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = [line for line in captured.err.splitlines() if "%|" not in line]  # a bar is none
        assert len(lines) == 1, lines
        line = lines[0]
        assert line.startswith("error: ")
        return line

    return run
