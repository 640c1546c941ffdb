"""
Takes models through a Hub on the loopback interface, by the real client over HTTP.

    pip install -c constraints.txt -e ".[test]"
    python -m benchmarks.hub --data-dir DIR [--work-dir DIR]

DIR holds shoppers/{train,valid,test}.csv. A model of that table is trained, evaluated and pushed with its card; all
that is on the machine is deleted; another process loads it by its id and by its commit, and generates. The same for a
model that writes with a frozen LM, which is on that Hub too. Generated records are pushed as a dataset and loaded
again, and uploads are cut off at random bytes and repeated. Figures go to benchmarks/results/hub.json.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from transformers import AutoConfig

from difflm_hf import DiffLMConfig, DiffLMModel

from .results import save_result


sys.path.append(str(Path(__file__).parents[1] / "tests"))
from hub_server import HubServer, validate_card  # noqa: E402


CATEGORICAL = ["OperatingSystems", "Browser", "Region", "TrafficType"]
NUM_RECORDS, NUM_JSON_RECORDS = 10_000, 16
NUM_JSON_TRAINING_RECORDS = 1000
NUM_CUTS = 10
VOCABULARY = 2048
# The shape of HuggingFaceTB/SmolLM2-135M; its weights are random.
BASE = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
TIMEOUT = 3600


def push_table_model(data: str, folder: str, repo_id: str, categorical: list[str]) -> None:
    import json
    import time
    from pathlib import Path

    import torch

    from difflm_hf import DataArguments, DiffLMPipeline, train
    from difflm_hf.evaluation import evaluate_table, table_figures, write_report
    from difflm_hf.records import read_table

    tables = {name: Path(data, "shoppers", f"{name}.csv") for name in ("train", "valid", "test")}
    data_args = DataArguments(categorical=categorical)
    train(tables["train"], folder, validation=tables["valid"], data_args=data_args)
    pipe = DiffLMPipeline.from_pretrained(folder)
    synthetic = pipe(10_000, generator=torch.Generator().manual_seed(0), output_type="pandas").records
    real = read_table(tables["train"]), read_table(tables["test"])
    scores = evaluate_table(synthetic, *real, target="Revenue", categorical=categorical)
    write_report(scores, Path(folder, "report"), table_figures(synthetic, *real, scores), title="Shoppers")
    start = time.monotonic()
    facts = {"evaluation": Path(folder, "report"), "license": "apache-2.0"}
    commit = pipe.push_to_hub(repo_id, **facts, allow_rare_categories=True)
    print(json.dumps({"commit": commit.oid, "push_seconds": time.monotonic() - start}))


def push_base(data: str, repo_id: str, config: dict, vocabulary: int) -> None:
    from pathlib import Path

    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    from difflm_hf.records import JSONCodec, RecordSchema, read_table

    table = read_table(Path(data, "shoppers", "train.csv")).head(2000)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(JSONCodec(RecordSchema.infer(table)).encode(table), trainer)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).push_to_hub(repo_id)
    torch.manual_seed(0)
    config = AutoConfig.for_model(**config, bos_token_id=0, eos_token_id=1, pad_token_id=1)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).push_to_hub(repo_id)


def push_json_model(data: str, folder: str, repo_id: str, base: str, num_records: int) -> None:
    import json
    import time
    from pathlib import Path

    from difflm_hf import ModelArguments, train
    from difflm_hf.records import read_table

    table = read_table(Path(data, "shoppers", "train.csv")).head(num_records)
    # Random weights write digits for as long as they may.
    table = table[[name for name in table if table[name].dtype != float]]
    pipe = train(table, folder, model_args=ModelArguments(base_model=base), max_minutes=1)
    start = time.monotonic()
    commit = pipe.push_to_hub(repo_id, allow_rare_categories=True)
    print(json.dumps({"commit": commit.oid, "push_seconds": time.monotonic() - start}))


def generate(model: str, num_records: int, revision: str | None = None) -> None:
    import hashlib
    import json
    import time

    import torch

    from difflm_hf import DiffLMPipeline

    start = time.monotonic()
    pipe = DiffLMPipeline.from_pretrained(model, revision=revision)
    seconds = time.monotonic() - start
    pipe.set_progress_bar_config(disable=True)
    records = pipe(num_records, generator=torch.Generator().manual_seed(0), output_type="text").records
    print(json.dumps({"load_seconds": seconds, "records": hashlib.sha256("\n".join(records).encode()).hexdigest()}))


def push_rows(model: str, repo_id: str, num_records: int) -> None:
    import json

    import torch
    from datasets import load_dataset

    from difflm_hf import DiffLMPipeline, push_dataset

    pipe = DiffLMPipeline.from_pretrained(model)
    push_dataset(pipe, repo_id, num_records, seed=0)
    loaded = load_dataset(repo_id, split="train")
    made = pipe(num_records, generator=torch.Generator().manual_seed(0), output_type="dataset").records
    print(json.dumps({"features": loaded.features == made.features, "rows": loaded[:] == made[:]}))


def push_again(folder: str, repo_id: str) -> None:
    from difflm_hf import DiffLMPipeline

    try:
        DiffLMPipeline.from_pretrained(folder).push_to_hub(repo_id, allow_rare_categories=True)
    except OSError as error:
        raise SystemExit(str(error)) from error


class Machine:
    """Processes that share nothing but the Hub and a folder, which can be lost."""

    def __init__(self, hub: HubServer, folder: Path):
        self.hub, self.folder, self.token = hub, folder, hub.add_user("alice")

    def run(self, function: Any, *args: Any) -> dict[str, Any]:
        home = self.folder / "home"
        output = self.hub.run_python(
            function, *args, token=self.token, home=home, timeout=TIMEOUT, OMP_NUM_THREADS="2"
        )
        return json.loads(output.splitlines()[-1]) if output.strip() else {}

    def lose(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def size_of(hub: HubServer, repo_id: str) -> int:
    return sum(map(len, hub.files(repo_id).values()))


def round_trip(
    machine: Machine, folder: Path, repo_id: str, pushed: dict[str, Any], num_records: int
) -> dict[str, Any]:
    """What another machine generates, beside what this one did before it lost all that it had."""
    before = machine.run(generate, str(folder), num_records)
    machine.lose()
    by_id = machine.run(generate, repo_id, num_records)
    machine.lose()
    by_commit = machine.run(generate, repo_id, num_records, pushed["commit"])
    return {
        "push_seconds": pushed["push_seconds"],
        "load_seconds": by_id["load_seconds"],
        "files": len(machine.hub.files(repo_id)),
        "bytes": size_of(machine.hub, repo_id),
        "num_records": num_records,
        "same_by_id": by_id["records"] == before["records"],
        "same_by_commit": by_commit["records"] == before["records"],
    }


def cut_uploads(machine: Machine, source: str) -> dict[str, Any]:
    """Pushes of a model that are cut off at a random byte: what is there then, and after a repetition."""
    hub, generator, folder = machine.hub, random.Random(0), machine.folder / "model"
    HfApi(endpoint=hub.url, token=machine.token).snapshot_download(source, local_dir=folder)
    size, failed, empty, whole = size_of(hub, source), 0, 0, 0
    for cut in range(NUM_CUTS):
        target = f"alice/cut-{cut}"
        hub.cut_off(generator.randrange(size), times=None)
        try:
            machine.run(push_again, str(folder), target)
        except RuntimeError:
            failed += 1
            empty += not hub.files(target)
        hub.clear_faults()
        machine.run(push_again, str(folder), target)
        whole += hub.files(target).keys() >= hub.files(source).keys() - {
            "plots/correlations.png",
            "plots/distances.png",
        }
    return {"cuts": NUM_CUTS, "bytes": size, "failed": failed, "empty": empty, "whole": whole}


def published_pair() -> dict[str, int]:
    """Bytes of what is trained in the paper's pair of models, and of the base, without their weights."""
    with torch.device("meta"):
        config = DiffLMConfig(
            AutoConfig.for_model("bert"), AutoConfig.for_model("mistral"), latent_size=64, freeze_decoder=True
        )
        model = DiffLMModel(config)
    return {
        "trained": sum(4 * p.numel() for p in model.parameters() if p.requires_grad),
        "base": sum(2 * p.numel() for p in model.decoder.lm.parameters()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("benchmark-models"))
    args = parser.parse_args()
    data, folder = str(args.data_dir.absolute()), (args.work_dir / "hub").absolute()
    with HubServer() as hub:
        machine = Machine(hub, folder)
        machine.lose()
        model = folder / "model"
        pushed = machine.run(push_table_model, data, str(model), "alice/shoppers", CATEGORICAL)
        card = hub.files("alice/shoppers")["README.md"].decode()
        errors, warnings = validate_card(card)
        table = round_trip(machine, model, "alice/shoppers", pushed, NUM_RECORDS)
        table |= {"card_errors": errors, "card_warnings": warnings}
        print(table, flush=True)
        save_result("hub", {"table": table})
        Path(args.work_dir, "card.md").write_text(card)

        rows = machine.run(push_rows, "alice/shoppers", "alice/rows", NUM_RECORDS)
        print(rows, flush=True)
        save_result("hub", {"rows": {"num_records": NUM_RECORDS, **rows}})

        machine.run(push_base, data, "alice/base", BASE, VOCABULARY)
        names = "alice/shoppers-json", "alice/base"
        pushed = machine.run(push_json_model, data, str(model), *names, NUM_JSON_TRAINING_RECORDS)
        frozen = round_trip(machine, model, "alice/shoppers-json", pushed, NUM_JSON_RECORDS)
        frozen |= {"base_bytes": size_of(hub, "alice/base"), "published_pair": published_pair()}
        print(frozen, flush=True)
        save_result("hub", {"frozen": frozen})

        cut = cut_uploads(machine, "alice/shoppers")
        print(cut, flush=True)
        save_result("hub", {"cut": cut})


if __name__ == "__main__":
    main()
