"""Records that a grammar allows, whatever the language model."""

import copy
import json
import multiprocessing
import os
import pickle
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from test_training import save_pretrained_pair
from tiny import make_table, seeded, train
from transformers import AutoConfig, AutoTokenizer

from difflm_hf import DiffLMPipeline, DiffLMProcessor
from difflm_hf.configuration_difflm import DiffLMConfig
from difflm_hf.latents import to_dataset
from difflm_hf.modeling_difflm import DiffLMModel
from difflm_hf.modeling_latent_lm import DiffLMForCausalLM
from difflm_hf.records import Field, JSONCodec, RecordSchema
from difflm_hf.records.grammar import JSONGrammar
from difflm_hf.sampling import InverseTransformSampler, pass_length
from difflm_hf.training import DiffLMTrainer, DiffLMTrainingArguments


@pytest.fixture(scope="module")
def table():
    table = make_table(120).drop(columns="score")  # whose floats are not JSON's, but all 17 digits
    table["big"] = np.iinfo(np.int64).max - np.arange(len(table))
    table["when"] = pd.Timestamp("2020-01-01T00:00:00.5", tz="UTC") + pd.to_timedelta(np.arange(len(table)), unit="h")
    return table


@pytest.fixture(scope="module")
def base(tmp_path_factory, table):
    """A folder with an untrained LM, an encoder, and tokenizers that know the table's words."""
    folder = tmp_path_factory.mktemp("base")
    codec = JSONCodec(RecordSchema.infer(table))
    save_pretrained_pair(codec.encode(table), folder, "llama", num_steps=0, max_position_embeddings=2048)
    return folder


@pytest.fixture(scope="module")
def tokenizer(base):
    return AutoTokenizer.from_pretrained(base / "decoder")


def test_what_is_forced_needs_no_language_model(table, tokenizer):
    """From the ids that are not forced alone, a parser writes the record."""
    codec = JSONCodec(RecordSchema.infer(table))
    grammar = JSONGrammar(codec.grammar_schema(), tokenizer)
    for text in codec.encode(table.head(20)):
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        forced = ~grammar.is_choice(ids)
        parser = grammar.start()
        for position, (token_id, is_forced) in enumerate(zip(ids, forced)):
            if position == len(parser.ids):
                assert not is_forced
                parser.append(token_id)
            assert parser.ids[position] == token_id
        assert parser.is_complete
        assert 0.3 < np.mean(forced) < 0.95


def test_what_a_grammar_does_not_know_is_not_forced(table, tokenizer):
    grammar = JSONGrammar(JSONCodec(RecordSchema.infer(table)).grammar_schema(), tokenizer)
    ids = tokenizer('{"other": 1}', add_special_tokens=False)["input_ids"]
    # What stands where the grammar allows other ids, and what follows, may be any id.
    assert grammar.is_choice(ids)[1:].all()
    allowed = grammar.allowed(torch.tensor([[0, *ids]]), torch.ones(1, 1 + len(ids), dtype=torch.long))
    assert allowed.sets[allowed.numbers[-len(ids) + 1 :]].all()


def test_labels_are_the_ids_that_are_not_forced(table, base, tokenizer):
    processor = DiffLMProcessor.from_records(table, tokenizer=tokenizer)
    batch = processor(table.head(5))
    counted = batch["labels"] >= 0
    assert torch.equal(batch["labels"][counted], batch["decoder_input_ids"][counted])
    assert not (counted & (batch["decoder_attention_mask"] == 0)).any()
    assert not counted[:, 0].any()  # BOS
    model = DiffLMForCausalLM(DiffLMConfig(decoder_config=AutoConfig.from_pretrained(base / "decoder"))).eval()
    latents = torch.randn(5, model.config.latent_size)
    arguments = batch["decoder_input_ids"], latents, batch["decoder_attention_mask"]
    logits = model(batch["decoder_input_ids"][:, :-1], latents=latents).logits.log_softmax(-1)
    each = -logits.gather(-1, batch["decoder_input_ids"][:, 1:, None]).squeeze(-1)
    expected = (each * counted[:, 1:]).sum(1)
    torch.testing.assert_close(model.negative_log_likelihood(*arguments, batch["labels"]), expected)


def test_likelihoods_are_those_that_records_are_sampled_by(table, base, tokenizer):
    """Against a parser that steps through each record, and says what the next id may be."""
    processor = DiffLMProcessor.from_records(table, tokenizer=tokenizer)
    grammar = processor.grammar
    batch = processor(table.head(5))
    counted = batch["labels"] >= 0
    allowed = grammar.allowed(batch["decoder_input_ids"], batch["decoder_attention_mask"])
    masks = allowed.sets[allowed.numbers]
    assert masks.shape == (counted.sum(), grammar.vocab_size)
    assert len(allowed.sets) < len(masks)
    model = DiffLMForCausalLM(DiffLMConfig(decoder_config=AutoConfig.from_pretrained(base / "decoder"))).eval()
    latents = torch.randn(5, model.config.latent_size)
    arguments = batch["decoder_input_ids"], latents, batch["decoder_attention_mask"], batch["labels"]
    with torch.no_grad():
        nats = model.negative_log_likelihood(*arguments, allowed)
        unmasked = model.negative_log_likelihood(*arguments)
        logits = model(batch["decoder_input_ids"], latents=latents).logits
    assert (nats < unmasked).all()
    row = 0
    for i, ids in enumerate(batch["decoder_input_ids"].tolist()):
        parser, expected = grammar.start(), 0.0
        while not parser.is_complete:
            forbidden = torch.from_numpy(grammar.forbidden([parser]).result()[0])
            position = 1 + len(parser.ids)
            if counted[i, position]:
                assert torch.equal(masks[row], ~forbidden)
                row += 1
            log_probs = logits[i, position - 1].masked_fill(forbidden, -torch.inf).log_softmax(0)
            expected -= log_probs[ids[position]].item()
            parser.append(ids[position])
        assert nats[i].item() == pytest.approx(expected, rel=1e-4)
    assert row == len(masks)


def test_vocabularies_with_room(table, base, tokenizer):
    """Heads may have more rows than the tokenizer has ids."""
    processor = DiffLMProcessor.from_records(table, tokenizer=tokenizer)
    batch = processor(table.head(3))
    config = AutoConfig.from_pretrained(base / "decoder", vocab_size=len(tokenizer) + 7)
    model = DiffLMForCausalLM(DiffLMConfig(decoder_config=config)).eval()
    arguments = batch["decoder_input_ids"], torch.randn(3, model.config.latent_size), batch["decoder_attention_mask"]
    allowed = processor.grammar.allowed(batch["decoder_input_ids"], batch["decoder_attention_mask"])
    with torch.no_grad():
        nats = model.negative_log_likelihood(*arguments, batch["labels"], allowed)
        model.get_output_embeddings().weight[len(tokenizer) :] = 100.0
        assert torch.equal(model.negative_log_likelihood(*arguments, batch["labels"], allowed), nats)


def draw(grammar, rng, tokenizer):
    """A record of ids chosen evenly among those allowed; it ends as soon as a text may."""
    quote = tokenizer.convert_tokens_to_ids('"')
    parser = grammar.start()
    while not parser.is_complete:
        allowed = np.flatnonzero(~grammar.forbidden([parser]).result()[0])
        parser.append(int(quote if quote in allowed and rng.random() < 0.3 else rng.choice(allowed)))
    return tokenizer.decode(parser.ids, skip_special_tokens=True)


def test_all_that_a_grammar_allows_is_valid(table, tokenizer):
    # But for bounds of more digits than grammars count with, and days like February 30.
    table = table.drop(columns=["big", "joined", "birthday", "when"])
    codec = JSONCodec(RecordSchema.infer(table))
    grammar = JSONGrammar(codec.grammar_schema(), tokenizer)
    rng = np.random.default_rng(0)
    texts = [draw(grammar, rng, tokenizer) for _ in range(60)]
    assert [json.loads(text).keys() for text in texts] == [dict.fromkeys(table).keys()] * len(texts)
    records, valid = codec.decode(texts)
    assert valid.all()
    assert records["price"].map(lambda price: round(price, 2) == price).all()


def test_a_grammar_allows_real_records(table, tokenizer):
    codec = JSONCodec(RecordSchema.infer(table))
    grammar = JSONGrammar(codec.grammar_schema(), tokenizer)
    for text in codec.encode(table):
        parser = grammar.start()
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        assert ids[: len(parser.ids)] == parser.ids
        while not parser.is_complete:
            parser.append(ids[len(parser.ids)])
        assert parser.ids == ids


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        (Field("x", "integer", minimum=-3, maximum=12), ["-4", "13", "1.5", '"1"', "null"]),
        (Field("x", "number", minimum=-0.5, maximum=2.25, decimals=2), ["2.26", "-0.51", "0.125"]),
        (Field("x", "category", categories=["a", "ab", 3]), ['"b"', '"3"', "null", "4"]),
        (Field("x", "boolean", nullable=True), ["0", '"true"']),
        (
            Field("x", "datetime", format="%Y-%m-%d", minimum="2019-05-01", maximum="2021-05-01"),
            ['"2020-1-1"', '"2020-13-01"', '"2020-12-32"', '"2018-01-01"', '"2022-01-01"'],
        ),
        (Field("x", "text", max_length=3), ['"abcd"', "1"]),
    ],
)
def test_what_a_grammar_refuses(field, bad, tokenizer):
    codec = JSONCodec(RecordSchema([field]))
    grammar = JSONGrammar(codec.grammar_schema(), tokenizer)
    for value in bad:
        with pytest.raises(ValueError, match="the grammar does not allow"):
            parser = grammar.start()
            for token_id in tokenizer(f'{{"x": {value}}}', add_special_tokens=False)["input_ids"][len(parser.ids) :]:
                parser.append(token_id)


def test_nested_schemas(tokenizer):
    schema = {
        "type": "object",
        "properties": {
            "tool": {"enum": ["search", "sum"]},
            "arguments": {
                "type": "array",
                "minItems": 1,
                "maxItems": 3,
                "items": {
                    "type": "object",
                    "properties": {"key": {"type": "string", "maxLength": 4}, "value": {"type": ["integer", "null"]}},
                    "required": ["key", "value"],
                    "additionalProperties": False,
                },
            },
            "day": {"type": "string", "format": "date"},
        },
        "required": ["tool", "arguments", "day"],
        "additionalProperties": False,
    }
    grammar, rng = JSONGrammar(schema, tokenizer), np.random.default_rng(0)
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    for _ in range(20):
        validator.validate(json.loads(draw(grammar, rng, tokenizer)))


def test_unsupported_schemas_say_so(tokenizer):
    with pytest.raises(ValueError, match="no grammar can be made of the JSON Schema: "):
        JSONGrammar({"type": "object", "properties": {"x": {"type": "string", "pattern": "(?=a)b"}}}, tokenizer)


def make_lm(model_type, injection, tokenizer):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512}
    if model_type != "gpt2":
        sizes |= {"intermediate_size": 48, "num_key_value_heads": 2}
    if model_type in ("mistral", "gemma3_text"):
        sizes["sliding_window"] = 12
    if model_type == "gpt_neo":
        sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}
        sizes |= {"max_position_embeddings": 512, "window_size": 12}
    if model_type == "mpt":
        sizes = {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512}
    ids = {"vocab_size": len(tokenizer) + 5, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    lm = AutoConfig.for_model(model_type, **sizes, **ids, initializer_range=0.2)
    config = DiffLMConfig(encoder_config=lm, decoder_config=lm, latent_size=4, injection=injection)
    return DiffLMForCausalLM(config).eval()


RECORD = RecordSchema(
    [
        Field("color", "category", categories=["red", "green", "blue"]),
        Field("n", "integer", minimum=0, maximum=999, nullable=True),
        Field("ok", "boolean"),
    ]
)


@pytest.mark.parametrize("injection", ["soft_prompt", "prefix_soft_prompt", "kv_memory", "input_embed"])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mistral", "gemma3_text", "gpt_neo", "mpt"])
def test_records_are_those_of_sampling_without_a_cache(model_type, injection, tokenizer):
    """Against one forward pass for each id, of one record and without gaps."""
    model = make_lm(model_type, injection, tokenizer)
    grammar = JSONGrammar(JSONCodec(RECORD).grammar_schema(), tokenizer)
    latents = torch.randn(6, 4, generator=seeded(1)) * 3
    uniforms = torch.rand(6, 60, generator=seeded(2))
    ids = model.sample_records(latents, uniforms, temperature=1.5, grammar=grammar)
    assert len(set(map(tuple, ids.tolist()))) > 3
    for k in range(len(latents)):
        parser = grammar.start()
        while not parser.is_complete:
            with torch.no_grad():
                logits = model(torch.tensor([[1, *parser.ids]]), latents=latents[k : k + 1]).logits[0, -1]
            forbidden = torch.from_numpy(grammar.forbidden([parser]).result()[0])
            logits = logits[: len(forbidden)].masked_fill(forbidden, -torch.inf)
            sampler = InverseTransformSampler(uniforms[k : k + 1, len(parser.ids) :], 1.5, 1.0)
            parser.append(sampler(None, logits[None]).argmax().item())
        assert ids[k].tolist() == [1, *parser.ids] + [0] * (ids.shape[1] - 1 - len(parser.ids))


@pytest.mark.parametrize(
    "column",
    [
        [0.3] * 4,
        [3.0, 3.0, None],
        [1.257302210933933e17, 2.0],
        [1.5e-07, 0.25],
        [1e-05, 1.0],
        [5.5e18, -1e19],
        [0.1169, 0.1658],
        [-0.3957, -0.3496],
        [334.177, 334.17, 334.1, 4.2835],
        [0, 2**63 - 1],
        [-(2**63), 5],
    ],
)
def test_numbers_of_all_sizes(column, tokenizer):
    table = pd.DataFrame({"x": column})
    codec = JSONCodec(RecordSchema.infer(table))
    grammar, rng = JSONGrammar(codec.grammar_schema(), tokenizer), np.random.default_rng(0)
    for text in codec.encode(table):
        if text == '{"x": 3.0}':  # which a constant is not written as
            continue
        parser = grammar.start()
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        while not parser.is_complete:
            parser.append(ids[len(parser.ids)])
        assert parser.ids == ids
    if codec.schema["x"].decimals is not None and abs(table["x"].max()) < 1e16 and table["x"].dtype == float:
        if codec.schema["x"].decimals <= 4:
            assert codec.decode([draw(grammar, rng, tokenizer) for _ in range(20)])[1].all()


def test_nothing_to_choose(tokenizer):
    """Records that are forced from end to end, and longer than they may be."""
    model = make_lm("llama", "soft_prompt", tokenizer)
    schema = RecordSchema([Field("c", "category", categories=["a"])])
    grammar = JSONGrammar(JSONCodec(schema).grammar_schema(), tokenizer)
    ids = model.sample_records(torch.randn(2, 4), torch.rand(2, 60), grammar=grammar)
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == ['{"c": "a"}'] * 2
    grammar = JSONGrammar(JSONCodec(RECORD).grammar_schema(), tokenizer)
    ids = model.sample_records(torch.randn(2, 4), torch.rand(2, 2), grammar=grammar)
    assert (ids != 2).all()


def test_models_without_padding(tokenizer):
    model = make_lm("llama", "soft_prompt", tokenizer)
    grammar = JSONGrammar(JSONCodec(RECORD).grammar_schema(), tokenizer)
    latents, uniforms = torch.randn(8, 4), torch.rand(8, 60)
    padded = model.sample_records(latents, uniforms, grammar=grammar)
    model.lm.config.pad_token_id = None
    ids = model.sample_records(latents, uniforms, grammar=grammar)
    assert torch.equal(ids, padded.where(padded != 0, 2))


def test_forced_ids_take_no_step(tokenizer):
    model = make_lm("llama", "soft_prompt", tokenizer)
    grammar = JSONGrammar(JSONCodec(RECORD).grammar_schema(), tokenizer)
    calls = []
    model.lm.base_model.register_forward_hook(lambda *_: calls.append(1))
    ids = model.sample_records(torch.randn(1, 4), torch.rand(1, 60), grammar=grammar)
    assert 0 < len(calls) < 0.7 * (ids != 0).sum()


def nested(depth: int) -> dict:
    schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.slow
@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"x": nested(5000)}, "`schema` is nested too deeply; name its parts under"),
        ({"x": {"enum": [f"v{i}" for i in range(100_000)]}}, "no grammar can be made of the JSON Schema: .*too big"),
        ({f"k{i}": {"type": "integer"} for i in range(800)}, "leaves too much open .*; make fewer parts optional"),
    ],
    ids=["depth", "values", "optional keys"],
)
def test_schemas_that_are_too_much(properties, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        schema = RecordSchema.from_json_schema({"type": "object", "properties": properties})
        JSONGrammar(JSONCodec(schema).grammar_schema(), tokenizer)


@pytest.mark.parametrize(
    ("queues", "num_rows", "pass_tokens", "length"),
    [
        ([7] * 64, 64, 8, 7),  # all have the same to read
        ([1] * 48 + [9] * 16, 64, 8, 1),  # 16 go on one by one, rather than that 48 are padded
        ([1] * 48 + [9] * 16, 64, 4096, 9),  # where a pass takes long, whatever it is fed
        ([1, 9], 2, 8, 9),  # what a few are padded by is less than another pass
        ([5], 1, 8, 5),
    ],
)
def test_passes_take_what_feeds_the_most(queues, num_rows, pass_tokens, length):
    assert pass_length(queues, num_rows, pass_tokens) == length


def test_many_records_are_fed_without_padding(tokenizer):
    model, num = make_lm("llama", "soft_prompt", tokenizer), 64
    grammar, fed = JSONGrammar(JSONCodec(RECORD).grammar_schema(), tokenizer), []
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: fed.append(args[0].numel()))
    ids = model.sample_records(torch.randn(num, 4) * 3, torch.rand(num, 60), temperature=1.5, grammar=grammar)
    assert sum(fed) < 1.3 * (ids != 0).sum()


@pytest.fixture(scope="module")
def untrained(base, table, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("untrained") / "model"
    table = table.drop(columns=["note", "big", "joined", "birthday", "when"])
    train(table, folder, recipe="tiny", base_model=str(base / "decoder"), max_minutes=0)
    return folder


@pytest.mark.parametrize("temperature", [0.0, 1.0, 1.5])
def test_every_record_of_an_untrained_model_is_valid(temperature, untrained):
    pipe = DiffLMPipeline.from_pretrained(untrained)
    num_latents = 40
    latents = pipe.generate_latents(num_latents, generator=seeded())
    length = pipe.vae.config.max_record_length - 1
    uniforms = torch.rand(num_latents, length, generator=seeded())
    _, valid = pipe.decode_latents(latents, uniforms, torch.zeros(num_latents, 0), temperature)
    assert valid.all()
    reloaded = DiffLMPipeline.from_pretrained(untrained)
    first = reloaded(5, generator=seeded(), temperature=temperature, batch_size=2, output_type="text").records
    assert first == pipe(9, generator=seeded(), temperature=temperature, batch_size=2, output_type="text").records[:5]


def test_a_text_without_end_is_an_error(base, tmp_path):
    table = pd.DataFrame({"text": [f"a long text of its own, number {i} of those" for i in range(40)]})
    pipe = train(table, tmp_path / "model", recipe="tiny", base_model=str(base / "decoder"), max_minutes=0)
    pipe.vae.config.max_record_length = 8
    pipe.register_to_config(block_size=4)
    with pytest.raises(RuntimeError, match=r"only \d of \d+ records were valid"):
        pipe(40, generator=seeded())


def test_processors_with_a_grammar_are_copied_and_saved(table, tokenizer, tmp_path):
    processor = DiffLMProcessor.from_records(table, tokenizer=tokenizer)
    forced = processor.grammar.start().ids
    processor.save_pretrained(tmp_path)
    for other in (
        copy.deepcopy(processor),
        pickle.loads(pickle.dumps(processor)),
        DiffLMProcessor.from_pretrained(tmp_path),
    ):
        assert other.grammar.start().ids == forced


@pytest.mark.parametrize("way", ["pickled", "saved", "mapped"])
def test_batches_of_other_processors_mean_the_same(way, table, base, tokenizer, tmp_path):
    """Whoever encodes records, and whatever was encoded before, they have the same likelihoods."""
    processor = DiffLMProcessor.from_records(table, tokenizer=tokenizer)
    dataset = to_dataset(processor, table.tail(60))
    rows = table.head(20)
    if way == "pickled":
        batch = pickle.loads(pickle.dumps(processor))(rows)
    elif way == "saved":
        processor.save_pretrained(tmp_path)
        batch = DiffLMProcessor.from_pretrained(tmp_path)(rows)
    else:

        def encode(batch):
            return dict(processor(table.iloc[batch["row"]], return_tensors="np"))

        given = Dataset.from_dict({"row": [*range(100, 120), *range(20)]})
        encoded = given.map(encode, batched=True, batch_size=20, num_proc=2, remove_columns="row")
        batch = encoded.select(range(20, 40)).with_format("torch")[:]
    configs = {f"{name}_config": AutoConfig.from_pretrained(base / name) for name in ("encoder", "decoder")}
    model = DiffLMModel(DiffLMConfig(**configs)).eval()
    arguments = DiffLMTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, report_to="none")
    trainer = DiffLMTrainer(model, arguments, processor.grammar, train_dataset=dataset)
    losses = []
    for inputs in (batch, processor(rows)):
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append(trainer.compute_loss(model, dict(inputs)).item())
    assert losses[0] == losses[1]


def test_masks_need_no_memory_of_records(table, tokenizer):
    """Another grammar, which has not seen the records, finds the same sets."""
    processor = DiffLMProcessor.from_records(table, tokenizer=tokenizer)
    batch = processor(table)
    ids, mask = batch["decoder_input_ids"], batch["decoder_attention_mask"]
    found = copy.deepcopy(processor).grammar.allowed(ids.flip(0), mask.flip(0)), processor.grammar.allowed(ids, mask)
    allowed, expected = (part.sets[part.numbers] for part in found)
    counts = (batch["labels"] >= 0).sum(1).tolist()
    assert torch.equal(torch.cat(allowed.split(counts[::-1])[::-1]), expected)
    chosen = batch["labels"][batch["labels"] >= 0]
    assert expected.gather(1, chosen[:, None]).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_a_grammar_goes_on_in_a_forked_process(tokenizer):
    grammar = JSONGrammar(JSONCodec(RECORD).grammar_schema(), tokenizer)
    parsers = [grammar.start() for _ in range(32)]
    expected = grammar.forbidden(parsers).result()

    def compare():
        os._exit(0 if np.array_equal(grammar.forbidden(parsers).result(), expected) else 1)

    process = multiprocessing.get_context("fork").Process(target=compare)
    process.start()
    process.join(timeout=30)
    try:
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()


def test_only_json_needs_a_grammar(table):
    assert DiffLMProcessor.from_records(table).grammar is None
