"""Repositories that bring their code along, where the package is not installed."""

import ast
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from diffusers import EDMDPMSolverMultistepScheduler
from diffusers.utils import dynamic_modules_utils as diffusers_loader
from test_training import save_pretrained_pair
from tiny import make_table, seeded
from transformers import AutoTokenizer
from transformers import dynamic_module_utils as transformers_loader

import difflm_hf
from difflm_hf import (
    DiffLMDenoiser,
    DiffLMForCausalLM,
    DiffLMModel,
    DiffLMPipeline,
    DiffLMProcessor,
    JSONCodec,
    LatentEDMScheduler,
    RecordSchema,
)
from difflm_hf.hub.remote_code import add_code, code_modules


# What each subprocess begins with. `refused` gives the message of the error.
PREAMBLE = """
import sys

sys.modules["difflm_hf"] = None  # as if it were not installed: to import it is an error

import copy
import json
import pickle

import diffusers
import torch
from diffusers import DiffusionPipeline
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor

diffusers.utils.logging.disable_progress_bar()


def texts_of(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe(20, generator=torch.Generator().manual_seed(0), output_type="text").records


def refused(load, *args, **kwargs):
    try:
        load(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


"""
TRUST = "trust_remote_code=True"


def run(code: str, home: Path, **variables: str) -> str:
    """Runs code in a process without the package, and with empty caches. Returns what it prints."""
    unwanted = ("HF_", "TRANSFORMERS_", "DIFFUSERS_", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    environment |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", **variables}
    process = subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code)],
        env=environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Expected types" not in process.stderr  # of a class and its copy
    return process.stdout


def texts_of(pipe: DiffLMPipeline) -> list[str]:
    pipe.set_progress_bar_config(disable=True)
    return pipe(20, generator=seeded(), output_type="text").records


def denoiser() -> DiffLMDenoiser:
    return DiffLMDenoiser(latent_size=4, width=16, num_layers=1)


@pytest.fixture(scope="module")
def compact(tmp_path_factory) -> Path:
    """A pipeline with a decoder of its own, and code."""
    folder = tmp_path_factory.mktemp("remote") / "compact"
    torch.manual_seed(0)
    processor = DiffLMProcessor.from_records(make_table(60))
    ids = {f"{name}_token_id": getattr(processor.tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, **ids}
    sizes["vocab_size"] = len(processor.tokenizer)
    config = processor.model_config(
        encoder_config={"model_type": "bert", **sizes},
        decoder_config={"model_type": "llama", **sizes},
        latent_size=4,
    )
    pipe = DiffLMPipeline(DiffLMModel(config).eval(), denoiser(), LatentEDMScheduler(), processor, block_size=16)
    pipe.save_pretrained(folder)
    add_code(folder)
    return folder


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """A pipeline with a pretrained decoder that writes JSON, and code."""
    folder = tmp_path_factory.mktemp("remote")
    torch.manual_seed(0)
    table = make_table(60)[["age", "color", "member"]]
    save_pretrained_pair(JSONCodec(RecordSchema.infer(table)).encode(table), folder, "llama", num_steps=0)
    tokenizers = {name: AutoTokenizer.from_pretrained(folder / name) for name in ("encoder", "decoder")}
    processor = DiffLMProcessor.from_records(
        table, tokenizer=tokenizers["decoder"], encoder_tokenizer=tokenizers["encoder"], max_length=128
    )
    vae = DiffLMModel.from_encoder_decoder_pretrained(
        str(folder / "encoder"), str(folder / "decoder"), latent_size=4, max_record_length=128
    )
    pipe = DiffLMPipeline(vae, denoiser(), EDMDPMSolverMultistepScheduler(), processor, block_size=16)
    pipe.save_pretrained(folder / "pipeline")
    add_code(folder / "pipeline")
    return folder / "pipeline"


# Without the package


@pytest.mark.slow
def test_pipeline_gives_the_same_records(compact, pretrained, tmp_path):
    folders = {"compact": str(compact), "pretrained": str(pretrained)}
    output = run(
        f"""
        for kind, folder in {folders!r}.items():
            pipe = DiffusionPipeline.from_pretrained(folder, {TRUST})
            first = texts_of(pipe)
            assert texts_of(DiffusionPipeline.from_pretrained(folder, {TRUST})) == first
            assert texts_of(pipe) == first  # with a second copy of it there
            pipe.save_pretrained(f"{{kind}} again")
            assert texts_of(DiffusionPipeline.from_pretrained(f"{{kind}} again")) == first
            print(json.dumps(first))
        """,
        tmp_path,
    )
    for (kind, folder), line in zip(folders.items(), output.splitlines(), strict=True):
        expected = texts_of(DiffLMPipeline.from_pretrained(folder))
        assert json.loads(line) == expected
        # What code from a repository saves, the package loads.
        assert texts_of(DiffLMPipeline.from_pretrained(tmp_path / f"{kind} again")) == expected


@pytest.mark.slow
def test_parts_load_by_auto_classes(compact, tmp_path):
    processor = DiffLMProcessor.from_pretrained(compact / "processor")
    model = DiffLMModel.from_pretrained(compact / "vae")
    inputs = processor(make_table(60).head(5))
    mean, logvar = model.encode(inputs["input_ids"], inputs.get("attention_mask"))
    torch.save({"latents": mean, "logvar": logvar, **inputs}, tmp_path / "expected.pt")
    make_table(60).head(5).to_pickle(tmp_path / "records.pkl")
    run(
        f"""
        import pandas as pd

        folder = {str(compact)!r}
        config = AutoConfig.from_pretrained(folder, subfolder="vae", {TRUST})
        model = AutoModel.from_pretrained(folder, subfolder="vae", {TRUST})
        processor = AutoProcessor.from_pretrained(folder, subfolder="processor", {TRUST})
        assert type(config) is type(model.config)
        assert type(processor).__module__.startswith("transformers_modules.")

        expected = torch.load("expected.pt")
        for processor in (processor, copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
            inputs = processor(pd.read_pickle("records.pkl"))
            assert torch.equal(inputs["input_ids"], expected["input_ids"])
        mean, logvar = model.encode(inputs["input_ids"], inputs.get("attention_mask"))
        assert torch.equal(mean, expected["latents"]) and torch.equal(logvar, expected["logvar"])

        # A pipeline beside them has the code again, under another name.
        pipe = DiffusionPipeline.from_pretrained(folder, {TRUST})
        assert type(pipe.vae) is not type(model)
        assert texts_of(pipe) and processor.decode_records(inputs["input_ids"])[1].all()
        """,
        tmp_path,
    )


@pytest.mark.slow
def test_pushing_takes_the_package(compact, tmp_path):
    output = run(
        f"""
        pipe = DiffusionPipeline.from_pretrained({str(compact)!r}, {TRUST})
        print("\\n" + refused(pipe.push_to_hub, "alice/model"))
        """,
        tmp_path,
    )
    assert output.splitlines()[-1] == "ImportError: to push a model, install the package difflm_hf"


@pytest.mark.slow
def test_nothing_loads_without_the_flag(compact, tmp_path):
    output = run(
        f"""
        folder = {str(compact)!r}
        messages = [
            refused(DiffusionPipeline.from_pretrained, folder),
            refused(AutoConfig.from_pretrained, folder),
            refused(AutoConfig.from_pretrained, folder, subfolder="vae"),
            refused(AutoModel.from_pretrained, folder, subfolder="vae"),
            refused(AutoModel.from_pretrained, folder, subfolder="vae", trust_remote_code=False),
            refused(AutoModelForCausalLM.from_pretrained, folder, subfolder="vae"),
            refused(AutoProcessor.from_pretrained, folder, subfolder="processor"),
        ]
        assert not any(name.endswith(".difflm_hf") for name in sys.modules)
        print("\\n" + json.dumps(messages))
        """,
        tmp_path,
    )
    messages = json.loads(output.splitlines()[-1])
    for message in messages:
        assert "contains custom code" in message and "trust_remote_code=True" in message
    assert not list(tmp_path.rglob("difflm_hf*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("auto_class", ["AutoModel", "AutoModelForCausalLM"])
def test_a_model_alone(auto_class, tiny_model, tmp_path):
    model = tiny_model()
    model = model if auto_class == "AutoModel" else model.decoder
    model.save_pretrained(tmp_path / "model")
    add_code(tmp_path / "model")
    run(
        f"""
        message = refused({auto_class}.from_pretrained, "model")
        assert "contains custom code" in message and "trust_remote_code=True" in message
        model, info = {auto_class}.from_pretrained("model", output_loading_info=True, {TRUST})
        assert not info["missing_keys"] and not info["unexpected_keys"]
        torch.save(model.state_dict(), "weights.pt")
        model.save_pretrained("again")  # transformers copies the code
        {auto_class}.from_pretrained("again", {TRUST})
        """,
        tmp_path,
    )
    weights = torch.load(tmp_path / "weights.pt")
    expected = model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    # The package loads it too, whatever code is there.
    cls = DiffLMModel if auto_class == "AutoModel" else DiffLMForCausalLM
    assert cls.from_pretrained(tmp_path / "model").state_dict().keys() == expected.keys()


# With the package


def test_the_package_needs_no_flag(compact):
    for kwargs in ({}, {"trust_remote_code": True}):
        pipe = DiffLMPipeline.from_pretrained(compact, **kwargs)
        assert type(pipe) is DiffLMPipeline
        assert [type(part) for part in (pipe.vae, pipe.denoiser, pipe.scheduler, pipe.processor)] == [
            DiffLMModel,
            DiffLMDenoiser,
            LatentEDMScheduler,
            DiffLMProcessor,
        ]


@pytest.mark.slow
def test_the_package_after_code_from_a_repository(compact, tmp_path):
    """Each takes its own classes, whichever was loaded last."""
    run(
        f"""
        folder = {str(compact)!r}
        remote = DiffusionPipeline.from_pretrained(folder, {TRUST})
        del sys.modules["difflm_hf"]
        import difflm_hf

        for _ in range(2):
            pipe = difflm_hf.DiffLMPipeline.from_pretrained(folder)
            assert type(pipe.vae) is difflm_hf.DiffLMModel
            assert texts_of(pipe) == texts_of(remote)
            remote = DiffusionPipeline.from_pretrained(folder, {TRUST})
            assert type(remote.vae).__module__.startswith("diffusers_modules.")
        """,
        tmp_path,
        PYTHONPATH=str(Path(__file__).parents[1]),
    )


def test_code_added_again_is_the_same(compact):
    before = {path: path.read_bytes() for path in compact.rglob("*") if path.is_file()}
    (compact / "difflm_hf_cache.py").write_text("of another version")
    add_code(compact)
    assert {path: path.read_bytes() for path in compact.rglob("*") if path.is_file()} == before


def test_other_folders_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(FileNotFoundError, match="holds no pipeline, model or processor of difflm_hf"):
        add_code(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


# The code


def test_modules_stand_alone():
    modules = code_modules()
    for name, source in modules.items():
        for node in ast.walk(ast.parse(source, name)):
            if isinstance(node, ast.ImportFrom) and node.level > 0:
                assert node.level == 1 and node.module in modules
            elif isinstance(node, ast.ImportFrom):
                assert not node.module.startswith("difflm_hf")
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("difflm_hf") for alias in node.names)
        compile(source, name, "exec")


def test_modules_are_those_of_inference():
    assert not [
        name
        for name in code_modules()
        if name.removeprefix("difflm_hf_").startswith(("training", "evaluation", "hub_cards", "commands"))
    ]


def test_loaders_find_all_modules(compact):
    """They look for imports by regular expressions: at what the first module imports, and transformers beyond."""
    modules = set(code_modules()) - {"difflm_hf"}
    entry = compact / "difflm_hf.py"
    assert {path.stem for path in compact.glob("*.py")} == modules | {"difflm_hf"}
    assert set(diffusers_loader.get_relative_imports(entry)) == modules
    assert {Path(path).stem for path in transformers_loader.get_relative_import_files(entry)} == modules
    # Those of the others are not followed: all paths through them are too many.
    for name in modules:
        assert not diffusers_loader.get_relative_imports(compact / f"{name}.py")


def test_only_imports_differ_from_the_package():
    modules = code_modules()
    package = Path(difflm_hf.__file__).parent
    paths = {
        "_".join(part for part in path.relative_to(package.parent).with_suffix("").parts if part != "__init__"): path
        for path in package.rglob("*.py")
    }
    for name in modules.keys() - {"difflm_hf", "difflm_hf_hub_publishing"}:
        lines = paths[name].read_text(encoding="utf-8").splitlines()
        for line, copy in zip(lines, modules[name].splitlines(), strict=True):
            imports = line.lstrip().startswith("from .") and copy.lstrip().startswith("from . difflm_hf_")
            assert line == copy or imports
