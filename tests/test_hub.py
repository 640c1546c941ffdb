"""What users do with the Hub: push, load, train, generate, and what they are told where that fails."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from hub_server import HubServer
from huggingface_hub import HfApi
from tiny import make_table, seeded, train
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor

import difflm_hf
import difflm_hf.blocks
from difflm_hf import (
    DiffLMDenoiser,
    DiffLMForCausalLM,
    DiffLMModel,
    DiffLMPipeline,
    DiffLMProcessor,
    DiffLMTrainer,
    DiffLMTrainingArguments,
    LatentDiffusionTrainer,
    LatentDiffusionTrainingArguments,
    LatentEDMScheduler,
    push_dataset,
)
from difflm_hf.commands.main import main
from difflm_hf.latents import to_dataset
from difflm_hf.training import DOCUMENT_RECIPES, RECIPES, TensorDataset


TINY = RECIPES["tiny"]
# A few steps a phase, with two checkpoints
for recipes in (RECIPES, DOCUMENT_RECIPES):
    recipes["brief"] = dataclasses.replace(recipes["tiny"], min_steps=8, denoiser={**TINY.denoiser, "max_steps": 8})

MODEL = "alice/model"
SECRETS = (b"Rareville", b"Quixotic", b"Zaphod9931")  # in few records
NOTHING_LOST = "No half commit is left behind, and files that were sent whole are not sent again."


def secretive_table() -> pd.DataFrame:
    """A table in which a category and some words are so rare that they may not be published."""
    table = make_table(400)
    table.loc[[11, 12, 13], "color"] = "Rareville"
    table.loc[17, "note"] = "Quixotic Zaphod9931"
    return table


def texts_of(pipe: DiffLMPipeline, num_records: int = 20) -> list[str]:
    pipe.set_progress_bar_config(disable=True)
    return pipe(num_records, generator=seeded(), output_type="text").records


def digest(model: torch.nn.Module) -> str:
    """A hash of all weights."""
    weights = sorted((name, tensor.float().numpy().tobytes()) for name, tensor in model.state_dict().items())
    return hashlib.sha256(repr(weights).encode()).hexdigest()


def message_of(call: Callable, *args, **kwargs) -> str:
    """The message of the error that a call must end in."""
    try:
        call(*args, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def vary(pipe: DiffLMPipeline, shift: float) -> DiffLMPipeline:
    """The pipeline with other weights, and so other records."""
    pipe.denoiser.latent_mean.add_(shift)
    return pipe


# This process is a client. Where a cache must be empty, or the environment another one, functions of this module are
# run in another process.


@pytest.fixture(scope="module", autouse=True)
def users(hub) -> None:
    hub.add_user("alice", token="hf_alice_read", can_write=False)
    hub.add_user("bob")


@pytest.fixture(autouse=True)
def no_faults_are_left(hub) -> Iterator[None]:
    yield
    hub.clear_faults()


def run(hub: HubServer, function: Callable, *args, **kwargs) -> Any:
    """What the function returns in a new process, with empty caches unless `home` is given."""
    code = f"import json, test_hub; print(); print(json.dumps(test_hub.{function.__name__}(*{args!r})))"
    return json.loads(hub.run_python(code, timeout=600, **kwargs).splitlines()[-1])


def api(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.url, token="hf_alice")


@pytest.fixture(scope="module")
def trained(hub, users, tmp_path_factory) -> SimpleNamespace:
    """A model that was pushed by its training, its folder, and what was seen when it was trained."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    # A push while it is trained, and one of the next model
    hub.fail("POST", "alice/model/commit/", 429, headers={"Retry-After": "7"})
    hub.fail("POST", "alice/stumbles/commit/", 500)
    with pytest.MonkeyPatch.context() as patch:
        # Few records a block, which are soon generated
        patch.setattr(sys.modules["difflm_hf.training.train"], "COMPACT_BLOCK_SIZE", 32)
        return SimpleNamespace(folder=folder, **train_and_push(str(folder)))


@pytest.fixture(scope="module")
def loaded(trained) -> DiffLMPipeline:
    return DiffLMPipeline.from_pretrained(trained.folder)


@pytest.fixture
def pipe(loaded) -> DiffLMPipeline:
    return copy.deepcopy(loaded)


def train_and_push(folder: str) -> dict[str, Any]:
    options = {"min_category_count": 10, "push_to_hub": True, "hub_token": "hf_alice"}
    pipe = train(secretive_table(), folder, recipe="tiny", license="mit", **options)
    texts = {"main": texts_of(pipe)}
    api = HfApi()
    api.create_tag(MODEL, tag="v1")
    commit = api.model_info(MODEL).sha
    for shift, revision in ((1.0, "dev"), (-2.0, "refs/pr/1")):
        where = {"create_pr": True} if revision == "refs/pr/1" else {"revision": revision}
        vary(pipe, shift).push_to_hub("model", **where)
        texts[revision] = texts_of(pipe)
    others = Path(folder).parent
    train(
        secretive_table(),
        others / "stumbles",
        recipe="brief",
        hub_strategy="checkpoint",
        hub_private_repo=True,
        **options,
    )
    train(secretive_table(), others / "ends", recipe="brief", hub_strategy="end", hub_revision="dev", **options)
    return {"texts": {**texts, "v1": texts["main"], commit: texts["main"]}, "commit": commit}


# Round trip


def load_revisions(revisions: list[str]) -> dict[str, Any]:
    from diffusers import DiffusionPipeline
    from transformers import pipeline

    difflm_hf.register()
    pipes = {revision: DiffLMPipeline.from_pretrained(MODEL, revision=revision) for revision in revisions}
    result = {"texts": {name: texts_of(pipe) for name, pipe in pipes.items()}}
    result["commits"] = {name: pipe.revision for name, pipe in pipes.items()}
    result["by id"] = texts_of(DiffLMPipeline.from_pretrained(MODEL))
    by_diffusers = DiffusionPipeline.from_pretrained(MODEL)
    result["by diffusers"] = [type(by_diffusers).__name__, texts_of(by_diffusers)]
    result["local_files_only"] = texts_of(DiffLMPipeline.from_pretrained(MODEL, local_files_only=True))
    result["cache_dir"] = texts_of(DiffLMPipeline.from_pretrained(MODEL, cache_dir="elsewhere"))
    result["in elsewhere"] = os.listdir("elsewhere")
    for revision in ("main", "dev"):
        generate = pipeline("record-generation", model=MODEL, revision=revision)
        generate.model.set_progress_bar_config(disable=True)
        result[f"record-generation {revision}"] = generate(20, seed=0, output_type="text")
    result["bfloat16"] = str(DiffLMPipeline.from_pretrained(MODEL, dtype=torch.bfloat16).vae.dtype)
    return result


def load_offline() -> dict[str, Any]:
    from transformers import pipeline

    difflm_hf.pipeline_difflm.default_dtype = lambda: torch.float32  # in which records compare
    difflm_hf.register()
    generate = pipeline("record-generation", model=MODEL)
    generate.model.set_progress_bar_config(disable=True)
    return {
        "by id": texts_of(DiffLMPipeline.from_pretrained(MODEL)),
        "dev": texts_of(DiffLMPipeline.from_pretrained(MODEL, revision="dev")),
        "record-generation": generate(20, seed=0, output_type="text"),
        "vae": digest(AutoModel.from_pretrained(MODEL, subfolder="vae")),
        "unknown": message_of(DiffLMPipeline.from_pretrained, "alice/unknown"),
    }


def test_round_trip(hub, trained, tmp_path, monkeypatch):
    assert len(set(map(tuple, trained.texts.values()))) == 3
    monkeypatch.chdir(tmp_path)
    loaded = load_revisions(list(trained.texts))
    assert loaded["texts"] == trained.texts
    assert loaded["commits"] == {name: hub.repo(MODEL).commit_at(name).id for name in trained.texts}
    main = trained.texts["main"]
    assert loaded["by id"] == loaded["local_files_only"] == loaded["cache_dir"] == main
    assert loaded["by diffusers"] == ["DiffLMPipeline", main]
    assert "models--alice--model" in loaded["in elsewhere"]
    assert loaded["record-generation main"] == main
    assert loaded["record-generation dev"] == trained.texts["dev"]
    assert loaded["bfloat16"] == "torch.bfloat16"


@pytest.mark.slow
def test_without_network(hub, trained):
    main = trained.texts["main"]
    for revision in ("main", "dev"):
        DiffLMPipeline.from_pretrained(MODEL, revision=revision)
    num_requests = len(hub.requests)
    offline = run(hub, load_offline, home=os.environ["HF_HOME"], HF_HUB_OFFLINE="1")
    assert len(hub.requests) == num_requests
    assert offline["by id"] == offline["record-generation"] == main
    assert offline["dev"] == trained.texts["dev"]
    assert offline["vae"] == digest(DiffLMModel.from_pretrained(trained.folder / "vae"))
    assert "alice/unknown is not in the cache: load it once with the network" in offline["unknown"]


def test_pushed_repository(hub, trained):
    files = hub.files(MODEL)
    local = {str(p.relative_to(trained.folder)): p.read_bytes() for p in trained.folder.rglob("*") if p.is_file()}
    assert {name for name in local if not name.startswith(("logs/", "checkpoints/"))} == files.keys()
    for name in files.keys() - {"README.md"}:
        # transformers writes into those of tokenizers how they were loaded.
        assert files[name] == local[name] or name.endswith("tokenizer_config.json")
    card = files["README.md"].decode()
    assert "license: mit" in card and f'from_pretrained("{MODEL}")' in card
    # A branch of its own, and a pull request, leave main as it was.
    assert [commit.title for commit in hub.repo(MODEL).commit_at("dev").history()][:2] == [
        "Upload DiffLMPipeline",
        "End of training",
    ]
    [request] = api(hub).get_repo_discussions(MODEL)
    assert (request.is_pull_request, request.status, request.title) == (True, "open", "Upload DiffLMPipeline")


def test_pushed_files_name_no_folder(hub, trained):
    folder = str(trained.folder.parent).encode()
    assert not [name for name, data in hub.files(MODEL).items() if folder in data]


# Parts


@pytest.fixture
def parts(hub, pipe) -> SimpleNamespace:
    """Each part in a repository of its own."""
    pipe.vae.push_to_hub("vae", max_shard_size="50KB", private=True, token="hf_alice", commit_message="In shards")
    pipe.denoiser.push_to_hub("parts", subfolder="denoiser", commit_message="The denoiser", commit_description="Ours")
    pipe.processor.push_to_hub("parts", subfolder="processor")
    LatentEDMScheduler(sigma_max=0.3).push_to_hub("alice/parts", subfolder="scheduler")
    pipe.denoiser.push_to_hub("parts", subfolder="other/denoiser", max_shard_size="5KB")
    vary(pipe, 1.0).denoiser.push_to_hub("parts", revision="dev")
    pipe.denoiser.push_to_hub("parts", create_pr=True)
    return SimpleNamespace(vae="alice/vae", others="alice/parts")


def load_parts(vae: str, others: str) -> dict[str, Any]:
    from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler

    model = {"pretrained_model_name_or_path": MODEL, "subfolder": "vae"}
    models = {
        "AutoModel": AutoModel.from_pretrained(MODEL, subfolder="vae"),
        "in shards": DiffLMModel.from_pretrained(vae),
        "device_map": DiffLMModel.from_pretrained(**model, device_map="cpu", low_cpu_mem_usage=True),
        "AutoModelForCausalLM": AutoModelForCausalLM.from_pretrained(MODEL, subfolder="vae"),
        "DiffLMForCausalLM": DiffLMForCausalLM.from_pretrained(**model),
        "denoiser": DiffLMDenoiser.from_pretrained(MODEL, subfolder="denoiser"),
        "denoiser of parts": DiffLMDenoiser.from_pretrained(others, subfolder="denoiser", low_cpu_mem_usage=False),
        "denoiser in shards": DiffLMDenoiser.from_pretrained(others, subfolder="other/denoiser"),
        "denoiser of dev": DiffLMDenoiser.from_pretrained(others, revision="dev"),
        "denoiser of PR": DiffLMDenoiser.from_pretrained(others, revision="refs/pr/1"),
    }
    processors = [
        AutoProcessor.from_pretrained(MODEL, subfolder="processor"),
        DiffLMProcessor.from_pretrained(others, subfolder="processor"),
    ]
    scheduler = LatentEDMScheduler.from_pretrained(others, subfolder="scheduler")
    schedulers = [
        cls.from_pretrained(MODEL, subfolder="scheduler").config.sigma_max
        for cls in (EDMDPMSolverMultistepScheduler, EDMEulerScheduler, LatentEDMScheduler)
    ]
    texts = {}
    for name, replacement in {
        "vae": {"vae": models["in shards"]},
        "denoiser": {"denoiser": models["denoiser in shards"]},
        "other denoiser": {"denoiser": models["denoiser of dev"]},
        "processor": {"processor": processors[1]},
        "scheduler": {"scheduler": scheduler},
    }.items():
        pipe = DiffLMPipeline.from_pretrained(MODEL, **replacement)
        [(part, given)] = replacement.items()
        assert getattr(pipe, part) is given
        texts[name] = texts_of(pipe)
    return {
        "types": {name: type(model).__name__ for name, model in models.items()},
        "digests": {name: digest(model) for name, model in models.items()},
        "dtypes": [
            str(AutoModel.from_pretrained(MODEL, subfolder="vae", dtype=torch.bfloat16).dtype),
            str(DiffLMDenoiser.from_pretrained(MODEL, subfolder="denoiser", torch_dtype=torch.bfloat16).dtype),
        ],
        "processors": [[type(processor).__name__, processor.codec.to_dict()] for processor in processors],
        "schedulers": [*schedulers, scheduler.config.sigma_max],
        "texts": texts,
    }


def test_parts(hub, trained, parts, pipe):
    pipe = DiffLMPipeline.from_pretrained(trained.folder)
    files = hub.files(parts.vae)
    assert len([name for name in files if name.startswith("model-")]) > 2
    assert hub.repo(parts.vae).private and not hub.repo(parts.others).private
    assert [commit.title for commit in hub.repo(parts.vae).commit_at("main").history()][0] == "In shards"
    assert set(hub.files(parts.others)) >= {
        "denoiser/config.json",
        "denoiser/diffusion_pytorch_model.safetensors",
        "processor/processor_config.json",
        "scheduler/scheduler_config.json",
        "other/denoiser/diffusion_pytorch_model.safetensors.index.json",
    }
    [*_, first, initial] = hub.repo(parts.others).commit_at("main").history()
    assert (first.title, first.message, len(initial.files)) == ("The denoiser", "Ours", 1)

    loaded = load_parts(parts.vae, parts.others)
    whole, decoder, denoiser = digest(pipe.vae), digest(pipe.vae.decoder), digest(pipe.denoiser)
    other = digest(vary(pipe, 1.0).denoiser)
    assert loaded["digests"] == {
        **dict.fromkeys(("AutoModel", "in shards", "device_map"), whole),
        **dict.fromkeys(("AutoModelForCausalLM", "DiffLMForCausalLM"), decoder),
        **dict.fromkeys(("denoiser", "denoiser of parts", "denoiser in shards"), denoiser),
        **dict.fromkeys(("denoiser of dev", "denoiser of PR"), other),
    }
    assert [loaded["types"][name] for name in ("AutoModel", "AutoModelForCausalLM")] == [
        "DiffLMModel",
        "DiffLMForCausalLM",
    ]
    assert loaded["dtypes"] == ["torch.bfloat16", "torch.bfloat16"]
    codec = json.loads(json.dumps(pipe.processor.codec.to_dict()))
    assert loaded["processors"] == [["DiffLMProcessor", codec]] * 2
    assert loaded["schedulers"] == [5.0, 5.0, 5.0, 0.3]
    texts = loaded["texts"]
    assert texts["vae"] == texts["denoiser"] == texts["processor"] == trained.texts["main"]
    assert texts["other denoiser"] == trained.texts["dev"]


def test_fewer_shards_leave_none_behind(hub, pipe):
    for push, stem in (
        (pipe.vae.push_to_hub, "model"),
        (pipe.denoiser.push_to_hub, "diffusion_pytorch_model"),
        (pipe.push_to_hub, "vae/model"),
    ):
        repo_id = f"alice/shards-{stem.replace('/', '-')}"
        push(repo_id, max_shard_size="5KB")
        api(hub).upload_file(path_or_fileobj=b"mine", path_in_repo="notes/mine.txt", repo_id=repo_id)
        assert len([name for name in hub.files(repo_id) if name.startswith(f"{stem}-")]) > 1
        push(repo_id)
        assert [name for name in hub.files(repo_id) if name.startswith(stem)] == [f"{stem}.safetensors"]
        assert not [name for name in hub.files(repo_id) if name.endswith(".index.json")]
        assert hub.files(repo_id)["notes/mine.txt"] == b"mine"


# A frozen base


def train_on_base(folder: str) -> dict[str, Any]:
    from test_training import save_pretrained_pair
    from transformers import AutoTokenizer

    from difflm_hf import JSONCodec, RecordSchema

    folder = Path(folder)
    table = make_table(40)[["color", "member"]]
    texts = JSONCodec(RecordSchema.infer(table)).encode(table)
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}
    save_pretrained_pair(texts, folder, "llama", num_steps=0, **sizes)
    lm = AutoModelForCausalLM.from_pretrained(folder / "decoder")
    lm.push_to_hub("alice/base")
    AutoTokenizer.from_pretrained(folder / "decoder").push_to_hub("alice/base")
    base_commit = HfApi().model_info("alice/base").sha

    options = {"recipe": "brief", "base_encoder": str(folder / "encoder"), "allow_rare_categories": True}
    pipe = train(
        table, folder / "adapted", base_model="alice/base", push_to_hub=True, hub_model_id="adapted", **options
    )
    pipe.push_to_hub("merged", include_base_weights=True, allow_rare_categories=True)
    with torch.no_grad():
        lm.get_input_embeddings().weight.add_(1.0)
    lm.push_to_hub("alice/base", commit_message="Moved on")

    local = DiffLMModel.from_encoder_decoder_pretrained(str(folder / "encoder"), str(folder / "decoder"))
    pipe.vae, whole = local, pipe.vae
    refused = [
        message_of(local.push_to_hub, "alice/refused"),
        message_of(pipe.push_to_hub, "alice/refused", allow_rare_categories=True),
        message_of(train, table, folder / "refused", base_model=str(folder / "decoder"), push_to_hub=True, **options),
    ]
    local.push_to_hub("alice/local", include_base_weights=True)
    pipe.vae = whole
    return {"texts": texts_of(pipe, 5), "base commit": base_commit, "refused": refused}


def load_on_base(folder: str) -> dict[str, Any]:
    import shutil

    from transformers import AutoConfig, AutoTokenizer

    folder = Path(folder)
    result = {"texts": texts_of(DiffLMPipeline.from_pretrained("alice/adapted"), 5)}
    copy = folder / "decoder"
    result["copy"] = texts_of(DiffLMPipeline.from_pretrained("alice/adapted", base_model=copy), 5)
    result["copy of vae"] = digest(DiffLMModel.from_pretrained("alice/adapted", subfolder="vae", base_model=copy))
    result["vae"] = digest(AutoModel.from_pretrained("alice/adapted", subfolder="vae"))

    config = AutoConfig.from_pretrained(copy)
    config.num_hidden_layers = 1
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "smaller")
    AutoTokenizer.from_pretrained(copy).save_pretrained(folder / "smaller")
    shutil.copytree(copy, folder / "foreign")
    path = folder / "foreign" / "tokenizer.json"
    vocabulary = json.loads(path.read_text())
    ids = vocabulary["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    path.write_text(json.dumps(vocabulary))
    for name in ("smaller", "foreign"):
        result[name] = message_of(DiffLMPipeline.from_pretrained, "alice/adapted", base_model=folder / name)

    # What is said of the Hub goes for the base too.
    api = HfApi(token=os.environ.pop("HF_TOKEN"))
    api.update_repo_settings("alice/base", private=True)
    given = {"token": api.token, "cache_dir": folder / "given"}
    result["token"] = message_of(DiffLMPipeline.from_pretrained, "alice/adapted", **given)
    result["given"] = os.listdir(folder / "given")

    api.delete_repo("alice/base")
    result["merged"] = texts_of(DiffLMPipeline.from_pretrained("alice/merged", cache_dir=folder / "new"), 5)
    result["local"] = type(DiffLMModel.from_pretrained("alice/local")).__name__
    result["gone"] = message_of(DiffLMPipeline.from_pretrained, "alice/adapted", cache_dir=folder / "newer")
    return result


@pytest.fixture(scope="module")
def based(hub, tmp_path_factory) -> SimpleNamespace:
    """What was seen when a model was trained on `alice/base`, and by a process that loaded it then."""
    folder = str(tmp_path_factory.mktemp("based"))
    pushed = train_on_base(folder)
    bases = {head.id: head for head in hub.repo("alice/base").commit_at("main").history()}
    num_requests = len(hub.requests)
    loaded = run(hub, load_on_base, folder, token="hf_alice")
    return SimpleNamespace(pushed=pushed, loaded=loaded, bases=bases, requests=hub.requests[num_requests:])


@pytest.mark.slow
def test_frozen_base(hub, based):
    pushed, loaded = based.pushed, based.loaded
    files = hub.files("alice/adapted")
    config = json.loads(files["vae/config.json"])
    assert (config["base_model"], config["base_revision"]) == ("alice/base", pushed["base commit"])
    newest, base, *_ = based.bases.values()
    assert (newest.title, base.id) == ("Moved on", pushed["base commit"])
    size = sum(map(len, files.values()))
    assert size < 0.05 * sum(len(file.data) for file in base.files.values()), size
    assert "alice/base" in files["README.md"].decode()
    for message in pushed["refused"]:
        assert message.startswith("ValueError: the base model is ") and "include_base_weights=True" in message
    assert ("model", "alice/refused") not in hub.repos

    assert loaded["texts"] == loaded["copy"] == loaded["merged"] == pushed["texts"]
    assert loaded["copy of vae"] == loaded["vae"]
    paths = [request.path for request in based.requests if "alice/base/resolve/" in request.path]
    weights = [path for path in paths if path.endswith(".safetensors")]
    assert weights and all(f"/resolve/{pushed['base commit']}/" in path for path in weights)
    assert "smaller is not the base model that this checkpoint was trained with" in loaded["smaller"]
    assert "num_hidden_layers is 1, not 4" in loaded["smaller"]
    assert "foreign has another vocabulary than the base model" in loaded["foreign"] and "'a'" in loaded["foreign"]
    assert json.loads(hub.files("alice/merged")["vae/config.json"]).get("base_model") is None


@pytest.mark.slow
def test_what_is_said_of_the_hub_goes_for_the_base(based):
    assert based.loaded["token"] == "no error"
    assert {"models--alice--adapted", "models--alice--base"} <= {*based.loaded["given"]}
    assert "alice/base" in based.loaded["gone"]


# Errors


ADVICE = {
    401: "Log in with `hf auth login`, or pass a token with {access} access to {repo}",
    403: "The token has no {access} access to {repo}",
    404: "There is no {repo} with what was asked for, or the token may not see it",
    409: "Someone else changed {repo} at the same moment",
    412: "Someone else changed {repo} at the same moment",
    429: "Too many requests in a short time. Nothing is wrong with yours: {again} in 7 seconds.",
    500: "The Hub has trouble of its own (500): {again} in some minutes.",
}
STEPS = {"create": "/api/repos/create", "preupload": "/preupload/", "storage": "/info/lfs/", "commit": "/commit/"}


# Not those that the client takes for success (what is to be created is there), or tries again for half a minute.
@pytest.mark.parametrize(
    ("step", "status"),
    [
        (step, status)
        for step in STEPS
        for status in ADVICE
        if (step, status) != ("create", 409) and not (step in ("preupload", "storage") and status in (429, 500))
    ],
)
def test_refused_uploads(status, step, hub, pipe):
    repo_id = f"alice/refused-{step}-{status}"
    if step != "create" and status != 404:
        pipe.denoiser.push_to_hub(repo_id)
    before = hub.files(repo_id) if ("model", repo_id) in hub.repos else None
    headers = {"Retry-After": "7"} if status == 429 else {}
    hub.fail("POST", STEPS[step], status, times=6, headers=headers)
    with pytest.raises(OSError) as error:
        vary(pipe, 1.0).push_to_hub(repo_id)
    assert ADVICE[status].format(access="write", repo=repo_id, again="push again") in str(error.value)
    assert (NOTHING_LOST in str(error.value)) == (status == 500)
    if ("model", repo_id) in hub.repos:
        assert hub.files(repo_id) == (before or {})


@pytest.mark.parametrize(
    ("repo_id", "token", "status"),
    [("alice/new", "hf_wrong", 401), ("x", "hf_wrong", 401), ("bob/new", None, 403), ("new", "hf_alice_read", 403)],
)
def test_tokens_that_may_not_write(repo_id, token, status, hub, pipe):
    num_repos = len(hub.repos)
    with pytest.raises(OSError) as error:
        pipe.push_to_hub(repo_id, token=token)
    full_id = repo_id if "/" in repo_id or status == 401 else f"alice/{repo_id}"
    assert ADVICE[status].format(access="write", repo=full_id) in str(error.value)
    assert len(hub.repos) == num_repos


def call_main(*arguments: str) -> list:
    """The exit code of the command, and the last line that it writes to stderr."""
    import contextlib
    import io

    sys.argv = ["difflm", *arguments]
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        try:
            main()
        except SystemExit as exit:
            code = exit.code or 0
    assert "Traceback" not in stderr.getvalue()
    return [code, stderr.getvalue().splitlines()[-1]]


def fail_to_load(folder: str, statuses: list[int]) -> dict[str, Any]:
    load = DiffLMPipeline.from_pretrained
    result = {str(status): message_of(load, f"alice/fails-{status}") for status in statuses}
    result |= {
        "cut off": message_of(load, "alice/cut-off"),
        "missing": message_of(load, "alice/missing"),
        "revision": message_of(load, MODEL, revision="v99"),
        "private": message_of(load, "alice/stumbles", token="hf_bob"),
        "token": message_of(load, MODEL, token="hf_wrong"),
        "no pipeline": message_of(load, "alice/no-pipeline"),
    }
    commands = {
        "generate 403": ("generate", "alice/fails-403", "--num-records", "2", "--output", "rows.csv"),
        "generate missing": ("generate", "alice/missing", "--num-records", "2", "--output", "rows.csv"),
        "push 403": ("push", folder, "bob/model"),
        "push 500": ("push", folder, "alice/fails-500"),
        "rows 429": ("generate", folder, "--num-records", "2", "--push-to-hub", "alice/fails-429"),
    }
    return {**result, **{name: call_main(*arguments) for name, arguments in commands.items()}}


def find_no_hub(folder: str) -> dict[str, Any]:
    return {
        "load": message_of(DiffLMPipeline.from_pretrained, MODEL),
        "push": message_of(DiffLMPipeline.from_pretrained(folder).push_to_hub, MODEL, token="hf_alice"),
        "generate": call_main("generate", MODEL, "--num-records", "2", "--output", "rows.csv"),
        "push command": call_main("push", folder, "model"),
    }


@pytest.mark.slow
def test_errors_of_loading_and_of_commands(hub, trained):
    statuses = [401, 403, 404, 429, 500]
    for status in statuses:
        headers = {"Retry-After": "7"} if status == 429 else {}
        hub.fail("GET", f"alice/fails-{status}", status, times=99, headers=headers)
    hub.lose_answer("GET", "alice/cut-off", times=99)
    hub.lose_answer("HEAD", "alice/cut-off", times=99)
    api(hub).create_repo("alice/no-pipeline")
    told = run(hub, fail_to_load, str(trained.folder), statuses, token="hf_alice")

    advice = {
        **{str(s): ADVICE[s].format(access="read", repo=f"alice/fails-{s}", again="try again") for s in statuses},
        "cut off": f"{hub.url} is out of reach: look at the network, or pass local_files_only=True",
        "missing": ADVICE[404].format(repo="alice/missing"),
        "revision": ADVICE[404].format(repo=MODEL),
        "private": ADVICE[404].format(repo="alice/stumbles"),
        "token": ADVICE[401].format(access="read", repo=MODEL),
        "no pipeline": "alice/no-pipeline",
    }
    for name, text in advice.items():
        assert text in told[name]
    lines = {
        "generate 403": ADVICE[403].format(access="read", repo="alice/fails-403"),
        "generate missing": ADVICE[404].format(repo="alice/missing"),
        "push 403": ADVICE[403].format(access="write", repo="bob/model"),
        "push 500": ADVICE[500].format(again="push again"),
        "rows 429": ADVICE[429].format(again="push again"),
    }
    for name, text in lines.items():
        code, line = told[name]
        assert code == 1 and line.startswith("error: ") and text in line
    assert not hub.files("alice/fails-500") and not hub.files("alice/fails-429", repo_type="dataset")


@pytest.mark.slow  # the client tries again for half a minute
def test_no_hub(hub, trained):
    nowhere = "http://127.0.0.1:9"
    told = run(hub, find_no_hub, str(trained.folder), token="hf_alice", HF_ENDPOINT=nowhere)
    reading = f"{nowhere} is out of reach: look at the network, or pass local_files_only=True"
    writing = f"The connection to {nowhere} was lost: push again. {NOTHING_LOST}"
    assert reading in told["load"] and MODEL in told["load"]
    assert told["push"].startswith("ConnectionError: ") and writing in told["push"]
    for name, text in {"generate": reading, "push command": writing}.items():
        code, line = told[name]
        assert code == 1 and line.startswith("error: ") and text in line


# Uploads that are cut off


def num_uploads(hub: HubServer, repo_id: str, start: int = 0) -> Counter:
    """How often each large file was stored."""
    paths = (r.path.split("?")[0] for r in hub.requests[start:] if r.method == "PUT" and r.status == 200)
    return Counter(path.rsplit("/", 1)[-1] for path in paths if path.startswith(f"/lfs/models/{repo_id}/"))


@pytest.mark.slow  # the client tries again for half a minute
def test_cut_off_uploads(hub, pipe):
    repo_id = "alice/cut"
    pipe.push_to_hub(repo_id, max_shard_size="20KB")
    sent = hub.repo(repo_id).commit_at("main").files.values()
    num_bytes = sum(len(file.data) for file in sent if file.lfs)
    rng = random.Random(0)
    # The last is in the commit, after all large files.
    for position in [1, *(rng.randrange(num_bytes) for _ in range(3)), num_bytes + rng.randrange(1, 500)]:
        with torch.no_grad():
            # No file of weights is as it was.
            for parameter in [*pipe.vae.parameters(), *pipe.denoiser.parameters()]:
                parameter.add_(0.01)
        before, head = hub.files(repo_id), hub.repo(repo_id).commit_at("main")
        start = len(hub.requests)
        hub.cut_off(position, times=None)
        with pytest.raises(ConnectionError, match=NOTHING_LOST):
            pipe.push_to_hub(repo_id, max_shard_size="20KB")
        assert hub.files(repo_id) == before
        hub.clear_faults()
        num_stored = sum(num_uploads(hub, repo_id, start).values())
        assert num_stored > 0 or position < num_bytes / 2
        pipe.push_to_hub(repo_id, max_shard_size="20KB")
        after = hub.repo(repo_id).commit_at("main")
        assert after.parent is head
        changed = {f.sha256 for n, f in after.files.items() if f.lfs and f != head.files.get(n)}
        assert num_uploads(hub, repo_id, start) == dict.fromkeys(changed, 1)
        assert texts_of(loaded_from(hub.files(repo_id)), 3) == texts_of(pipe, 3)


def loaded_from(files: dict[str, bytes]) -> DiffLMPipeline:
    """The pipeline of a repository's files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return DiffLMPipeline.from_pretrained(folder)


@pytest.mark.slow
def test_short_interruptions_are_bridged(hub, pipe):
    hub.cut_off(10_000)
    hub.fail("POST", "/preupload/", 503)
    hub.lose_answer("PUT", "/lfs/models/alice/bridged/")
    pipe.push_to_hub("bridged")
    assert texts_of(loaded_from(hub.files("alice/bridged")), 3) == texts_of(pipe, 3)


def test_lost_answer(hub, pipe):
    pipe.push_to_hub("lost", max_shard_size="20KB")
    first = hub.repo("alice/lost").commit_at("main")
    hub.lose_answer("POST", "/commit/")
    with pytest.raises(ConnectionError, match="was lost: push again"):
        vary(pipe, 1.0).push_to_hub("lost")
    second = hub.repo("alice/lost").commit_at("main")
    assert second.parent is first
    start = len(hub.requests)
    assert pipe.push_to_hub("lost").oid == second.id
    assert hub.repo("alice/lost").commit_at("main") is second
    assert not num_uploads(hub, "alice/lost", start)
    assert texts_of(loaded_from(hub.files("alice/lost")), 3) == texts_of(pipe, 3)


def test_two_pushes_at_once(hub, trained, pipe, monkeypatch):
    """Of each file one has the last word: a mixture would load, and generate nonsense."""
    pipe.push_to_hub("race")
    upload, theirs = HfApi.preupload_lfs_files, vary(DiffLMPipeline.from_pretrained(trained.folder), 1.0)

    def upload_late(self, *args, **kwargs):
        upload(self, *args, **kwargs)
        monkeypatch.setattr(HfApi, "preupload_lfs_files", upload)
        theirs.push_to_hub("race")

    monkeypatch.setattr(HfApi, "preupload_lfs_files", upload_late)
    with torch.no_grad():
        pipe.vae.to_posterior.bias.add_(1.0)
    with pytest.raises(OSError, match="Someone else changed alice/race at the same moment: push again"):
        pipe.push_to_hub("race")
    assert digest(loaded_from(hub.files("alice/race")).vae) == digest(theirs.vae)
    pipe.push_to_hub("race")
    ours = loaded_from(hub.files("alice/race"))
    assert (digest(ours.vae), digest(ours.denoiser)) == (digest(pipe.vae), digest(pipe.denoiser))


# Pushes while training


def load_while_trained(revisions: list[str]) -> dict[str, Any]:
    result = {}
    for repo_id, revision, folder in revisions:
        cls = AutoModel if folder.endswith("vae") else DiffLMDenoiser
        result[revision] = digest(cls.from_pretrained(repo_id, revision=revision, subfolder=folder))
    return result


def history(hub: HubServer, repo_id: str, revision: str = "main") -> list:
    """All commits but the first, which is empty, in order."""
    return [*hub.repo(repo_id).commit_at(revision).history()][-2::-1]


def test_pushes_while_training(hub, trained):
    titles = [commit.title for commit in history(hub, MODEL)]
    *in_progress, end = titles
    assert in_progress and end == "End of training"
    assert all(title.startswith("Training in progress, step ") for title in in_progress)
    commits = history(hub, MODEL)
    # What a repository held before is untouched until the end, and then nothing of this is left.
    assert all({Path(name).parts[0] for name in c.files} == {".gitattributes", "checkpoints"} for c in commits[:-1])
    assert not any(name.startswith("checkpoints/") for name in commits[-1].files)
    first = [MODEL, commits[0].id, "checkpoints/vae"]
    last = [MODEL, commits[-2].id, "checkpoints/denoiser"]
    digests = load_while_trained([first, last])
    assert digests[first[1]] != digest(DiffLMModel.from_pretrained(trained.folder / "vae"))
    assert len(digests[last[1]]) == 64


def test_training_goes_on_when_a_push_fails(hub, trained):
    assert hub.repo("alice/stumbles").private
    for repo_id, status in ((MODEL, 429), ("alice/stumbles", 500)):
        statuses = [r.status for r in hub.requests if f"{repo_id}/commit/main" in r.path and "create_pr" not in r.path]
        assert statuses[0] == status and set(statuses[1:]) == {200}
        commits = history(hub, repo_id)
        assert len(commits) == len(statuses) - 1
        assert commits[-1].title == "End of training" and "README.md" in commits[-1].files
    folder, files = "checkpoints/denoiser/last-checkpoint", commits[-2].files
    state = {"trainer_state.json", "optimizer.pt", "scheduler.pt", "ema.safetensors", "model.safetensors"}
    assert {name.removeprefix(f"{folder}/") for name in files} >= state
    best = json.loads(files[f"{folder}/trainer_state.json"].data)["best_model_checkpoint"]
    assert best.startswith("checkpoint-")  # and no path


def test_pushes_at_the_end_alone(hub, trained):
    assert hub.files("alice/ends") == {}
    assert [commit.title for commit in history(hub, "alice/ends", "dev")] == ["End of training"]


def test_pushed_files_give_nothing_away(hub, trained):
    for repo_id in (MODEL, "alice/stumbles", "alice/ends"):
        repo = hub.repo(repo_id)
        commits = {commit.id: commit for head in repo.refs.values() for commit in head.history()}
        files = {name: file for commit in commits.values() for name, file in commit.files.items()}
        assert len(files) > 10
        for data in {file.data for commit in commits.values() for file in commit.files.values()}:
            assert not [secret for secret in (*SECRETS, b"hf_alice") if secret in data]
        for file in repo.large_files.values():
            assert not [secret for secret in (*SECRETS, b"hf_alice") if secret in file.data]
        assert any(b"blue" in file.data for file in files.values())  # what is common is there


def test_trainers_alone(hub, pipe, tmp_path):
    records = to_dataset(pipe.processor, pipe(40, output_type="pandas").records)
    common = {
        **{"push_to_hub": True, "hub_token": "hf_alice", "max_steps": 2, "save_steps": 1, "use_cpu": True},
        **{"report_to": "none", "disable_tqdm": True, "remove_unused_columns": False, "logging_steps": 1},
    }
    folder = tmp_path / "autoencoder"  # and so the name of the repository
    arguments = DiffLMTrainingArguments(folder, hub_strategy="checkpoint", **common)
    processor = DiffLMProcessor.from_records(secretive_table())
    trainer = DiffLMTrainer(pipe.vae, arguments, train_dataset=records, processing_class=processor)
    trainer.train()
    info = trainer.push_to_hub(commit_message="Done")
    assert info.oid == hub.repo("alice/autoencoder").commit_at("main").id
    files = hub.files("alice/autoencoder")
    assert {"config.json", "model.safetensors", "last-checkpoint/trainer_state.json"} <= files.keys()
    assert any(b"Rareville" in path.read_bytes() for path in folder.glob("checkpoint-*/processor_config.json"))
    assert [c.title for c in history(hub, "alice/autoencoder")][0] == "Training in progress, step 1"
    latents = TensorDataset(mean=torch.randn(8, 4), std=torch.zeros(8, 4))
    arguments = LatentDiffusionTrainingArguments(
        tmp_path / "x", hub_model_id="diffusion", hub_subfolder="denoiser", hub_private_repo=True, **common
    )
    trainer = LatentDiffusionTrainer(pipe.denoiser, arguments, LatentEDMScheduler(), train_dataset=latents)
    trainer.train()
    trainer.push_to_hub(blocking=False).result()
    assert hub.repo("alice/diffusion").private
    files = hub.files("alice/diffusion")
    assert set(files) == {"denoiser/config.json", "denoiser/diffusion_pytorch_model.safetensors"}
    for repo_id, part in {"alice/autoencoder": pipe.vae, "alice/diffusion": pipe.denoiser}.items():
        [weights] = (
            data
            for name, data in hub.files(repo_id).items()
            if name.endswith("model.safetensors") and "checkpoint" not in name
        )
        part.save_pretrained(tmp_path / "expected")
        [expected] = (tmp_path / "expected").glob("*model.safetensors")
        assert weights == expected.read_bytes()
        expected.unlink()
    for repo_id in ("alice/autoencoder", "alice/diffusion"):
        for data in hub.files(repo_id).values():
            assert not [secret for secret in (*SECRETS, b"hf_alice") if secret in data]


# What is refused


@pytest.mark.parametrize("columns", [["age", "color"], ["score", "note"]])
def test_rare_values_are_not_published(columns, hub, pipe, tmp_path):
    processor = DiffLMProcessor.from_records(secretive_table()[columns])
    pipe.register_modules(processor=processor)
    start = len(hub.requests)
    repo_id = f"alice/rare-{columns[-1]}"
    refused = "may give people away|perhaps names, that fewer than 10 records have"
    for push in (pipe.push_to_hub, processor.push_to_hub):
        with pytest.raises(ValueError, match=refused) as error:
            push(repo_id)
        assert repr(columns[-1]) in str(error.value)
        assert "train with min_category_count=10" in str(error.value)
        assert "allow_rare_categories=True" in str(error.value)
    with pytest.raises(ValueError, match=refused):
        train(secretive_table()[columns], tmp_path / "model", recipe="brief", push_to_hub=True)
    assert len(hub.requests) == start
    assert not (tmp_path / "model" / "checkpoints").exists()
    for push in (pipe.push_to_hub, processor.push_to_hub):
        push(repo_id, allow_rare_categories=True)
    secret = {"color": b"Rareville", "note": b"Quixotic"}[columns[-1]]
    assert any(secret in data for data in hub.files(repo_id).values())


# Datasets


def load_rows(revisions: list[str | None]) -> None:
    import json

    from datasets import load_dataset

    result = []
    for revision in revisions:
        dataset = load_dataset("alice/rows", split="train", revision=revision)
        table = dataset.with_format("pandas")[:]
        result.append([repr(dataset.features), table.to_json(orient="records", date_format="iso")])
    print()
    print(json.dumps(result))


def test_datasets_are_looked_at_before_they_are_pushed(hub, tmp_path):
    pipe = train(secretive_table(), tmp_path / "model", recipe="brief")
    start = len(hub.requests)
    with pytest.raises(ValueError, match="have values of fewer than 10 records"):
        push_dataset(pipe, "alice/secret-rows", 5)
    assert len(hub.requests) == start
    push_dataset(pipe, "alice/secret-rows", 5, allow_rare_categories=True)
    assert "data/part-00000.parquet" in hub.files("alice/secret-rows", repo_type="dataset")


def test_what_is_public_is_not_taken_for_private(hub, pipe):
    pipe.push_to_hub("open")
    before = hub.repo("alice/open").commit_at("main")
    with pytest.raises(ValueError, match="alice/open is there already, and public"):
        vary(pipe, 1.0).push_to_hub("open", private=True)
    assert hub.repo("alice/open").commit_at("main") is before


def test_a_pushed_pipeline_knows_where_it_is(hub, pipe):
    assert pipe.revision is None
    commit = pipe.push_to_hub("known")
    assert (pipe.name_or_path, pipe.revision) == ("alice/known", commit.oid)
    pipe.push_to_hub("known", create_pr=True)
    assert pipe.revision == commit.oid


def test_datasets(hub, trained, pipe, monkeypatch):
    # Files of few records
    monkeypatch.setattr(difflm_hf.blocks, "RECORDS_PER_SHARD", 16)
    pipe.register_to_config(block_size=16, _name_or_path=MODEL)
    pipe.revision = trained.commit
    pipe.set_progress_bar_config(disable=True)
    first = push_dataset(pipe, "rows", 60, seed=3, private=True, license="mit").oid
    assert len([name for name in hub.files("alice/rows", repo_type="dataset") if name.endswith(".parquet")]) == 4
    push_dataset(pipe, "rows", 20, seed=3)
    files = hub.files("alice/rows", repo_type="dataset")
    assert set(files) == {
        "README.md",
        "data/manifest.json",
        "data/part-00000.parquet",
        "data/part-00001.parquet",
    }
    assert hub.repo("alice/rows", "dataset").private
    card = files["README.md"].decode()
    for fact in ("Synthetic data", MODEL, trained.commit, "| seed | `3` |", "n<1K", "synthetic"):
        assert fact in card

    loaded = json.loads(hub.run_python(load_rows, [None, first], timeout=600, token="hf_alice").splitlines()[-1])
    for (features, rows), num_records in zip(loaded, (20, 60), strict=True):
        expected = pipe(num_records, generator=seeded(3), output_type="dataset").records
        assert expected.features == pipe.processor.schema.to_features()
        assert features == repr(expected.features)
        table = expected.with_format("pandas")[:]
        assert json.loads(rows) == json.loads(table.to_json(orient="records", date_format="iso"))


# Code in the repository


def load_without_package() -> None:
    import sys

    sys.modules["difflm_hf"] = None  # as if it were not installed

    import json

    import torch
    from diffusers import DiffusionPipeline
    from transformers import AutoModel

    result = []
    for load, where in (
        (DiffusionPipeline.from_pretrained, {}),
        (AutoModel.from_pretrained, {"subfolder": "vae"}),
    ):
        try:
            load("alice/code", **where)
        except Exception as error:
            result.append(str(error))
    assert len(result) == 2 and not any(name.endswith(".difflm_hf") for name in sys.modules)
    pipe = DiffusionPipeline.from_pretrained("alice/code", trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    texts = pipe(20, generator=torch.Generator().manual_seed(0), output_type="text").records
    model = AutoModel.from_pretrained("alice/code", subfolder="vae", trust_remote_code=True)
    print()
    print(json.dumps([result, texts, type(model).__name__, type(model).__module__]))


@pytest.mark.slow
def test_code_in_the_repository(hub, trained, pipe):
    pipe.push_to_hub("code", include_code=True)
    assert "difflm_hf.py" in hub.files("alice/code")
    output = hub.run_python(load_without_package, timeout=600, PYTHONPATH="")
    messages, texts, name, module = json.loads(output.splitlines()[-1])
    for message in messages:
        assert "trust_remote_code=True" in message
    assert texts == trained.texts["main"]
    assert name == "DiffLMModel" and module.startswith(("transformers_modules.", "diffusers_modules."))
    # A push without code leaves none behind.
    pipe.push_to_hub("code")
    assert not [name for name in hub.files("alice/code") if name.endswith(".py")]


# The command


def use_commands(folder: str) -> dict[str, Any]:
    result = {
        "push": call_main("push", folder, "alice/commanded", "--private", "--license", "mit", "--message", "By hand"),
        "push by name": call_main("push", folder, "named", "--create-pr"),
        "generate": call_main("generate", "alice/commanded", "--num-records", "5", "--output", "rows.csv"),
        "rows": call_main("generate", "alice/commanded", "--num-records", "5", "--push-to-hub", "alice/commanded"),
    }
    result["csv"] = Path("rows.csv").read_text()
    pipe = DiffLMPipeline.from_pretrained(folder)
    dataset = pipe(5, generator=seeded(), output_type="dataset").records
    dataset.push_to_hub("alice/own")
    from datasets import load_dataset

    result["own"] = load_dataset("alice/own", split="train").features == pipe.processor.schema.to_features()
    return result


@pytest.mark.slow
def test_commands(hub, trained, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    done = use_commands(str(trained.folder))
    code, line = done["push"]
    commit = hub.repo("alice/commanded").commit_at("main")
    assert code == 0 and line == f"pushed to {hub.url}/alice/commanded/commit/{commit.id}"
    assert commit.title == "By hand" and hub.repo("alice/commanded").private
    assert done["push by name"] == [0, f"pushed to {hub.url}/alice/named/discussions/1"]
    assert hub.files("alice/named") == {}
    assert done["generate"] == [0, "5 records in rows.csv"]
    assert len(done["csv"].splitlines()) == 6
    assert done["rows"] == [0, f"5 records in {hub.url}/datasets/alice/commanded"]
    card = hub.files("alice/commanded", repo_type="dataset")["README.md"].decode()
    assert commit.id in card and "Synthetic data" in card
    assert done["own"] is True
