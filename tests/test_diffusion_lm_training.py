"""Diffusion-LM that is trained: on a toy language, from the command line, after a loss; and what steers it."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch
from conftest import call
from huggingface_hub import ModelCard
from tiny_diffusion_lm import ANIMALS, COLOURS, RECIPE, SENTENCES
from transformers import AutoConfig

from difflm_hf.diffusion_lm import DiffusionLMPipeline, train_word_tokenizer
from difflm_hf.diffusion_lm.controls import Infilling, Length, PartsOfSpeech, SemanticContent, SyntaxSpans, SyntaxTree
from difflm_hf.training.diffusion_lm import DiffusionLMRecipe, DiffusionLMTrainer, train_diffusion_lm


STEPS = 20
LANGUAGE = set(SENTENCES)
TAGS = {"the": "DET", "a": "DET", ".": "PUNCT"} | dict.fromkeys(COLOURS, "ADJ") | dict.fromkeys(ANIMALS, "NOUN")
TEACHING = {"learning_rate": 5e-3, "width": 32, "num_layers": 1}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def words_of(text):
    return text.replace(".", " .").split()


def tags_of(text):
    return [TAGS.get(word, "VERB") for word in words_of(text)]


def spans_of(text):
    """The subject, and the object where there is one, are NP; the rest but the full stop is VP."""
    words = words_of(text)
    spans = [(0, 3, "NP"), (0, len(words) - 1, "S")]
    return [*spans, (3, 6, "VP"), (4, 6, "NP")] if len(words) == 7 else spans


def short(num_steps=8, **arguments):
    return DiffusionLMRecipe(RECIPE.config, {**RECIPE.arguments, "max_steps": num_steps, **arguments}, 1)


def _saved(control, cls, folder):
    control.save_pretrained(folder)
    return cls.from_pretrained(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusion") / "model"
    pipe = train_diffusion_lm(SENTENCES, folder, validation=SENTENCES[::5], recipe=RECIPE)
    pipe.set_progress_bar_config(disable=True)
    return pipe, folder


class TestTraining:
    @pytest.mark.slow
    def test_learns_a_language(self, trained):
        texts = trained[0](64, STEPS, generator=seeded()).texts
        assert sum(text in LANGUAGE for text in texts) >= 35
        assert len(set(texts)) > 30

    @pytest.mark.slow
    def test_temperature_trades_diversity_for_fluency(self, trained):
        low, high = (trained[0](64, STEPS, temperature=t, generator=seeded()).texts for t in (0.5, 2.0))
        assert sum(text in LANGUAGE for text in low) > sum(text in LANGUAGE for text in high)
        assert len(set(low)) < len(set(high))

    @pytest.mark.slow
    def test_fills_gaps_that_fit(self, trained):
        texts = trained[0](infill=["the [mask] cat [mask] a dog."] * 20, num_inference_steps=STEPS, generator=seeded())
        assert sum(text in LANGUAGE for text in texts.texts) >= 16

    @pytest.mark.slow
    def test_what_it_leaves(self, trained):
        pipe, folder = trained
        assert not torch.is_autocast_enabled("cpu")
        loaded = DiffusionLMPipeline.from_pretrained(folder, dtype=torch.float32)
        loaded.set_progress_bar_config(disable=True)
        assert loaded(3, STEPS, generator=seeded()).texts == pipe(3, STEPS, generator=seeded()).texts
        measures = pipe.config.training["measures"]
        assert measures["rounding_accuracy"] == 1 and 0 < measures["nats_per_word"] < 3
        card = ModelCard.load(folder / "README.md")
        assert "diffusion-lm" in card.data.tags and f"{measures['nats_per_word']:.4g}" in card.text
        assert "not recorded" not in card.text.split("## Measurements")[1].split("## The model")[0]
        assert sum(pipe.model.config.length_counts) == len(SENTENCES)
        assert (folder / "logs").is_dir()

    def test_resumes_to_the_same_bytes(self, tmp_path, monkeypatch):
        recipe = short(8)
        train_diffusion_lm(SENTENCES, tmp_path / "whole", recipe=recipe)
        compute, calls = DiffusionLMTrainer.compute_loss, []

        def cut_off(self, model, *args, **kwargs):
            calls.append(model.training)
            if sum(calls) == 7:
                raise KeyboardInterrupt
            return compute(self, model, *args, **kwargs)

        monkeypatch.setattr(DiffusionLMTrainer, "compute_loss", cut_off)
        with pytest.raises(KeyboardInterrupt):
            train_diffusion_lm(SENTENCES, tmp_path / "cut", recipe=recipe)
        assert not (tmp_path / "cut" / "model_index.json").exists()
        monkeypatch.setattr(DiffusionLMTrainer, "compute_loss", compute)
        with pytest.raises(ValueError, match="is not empty"):
            train_diffusion_lm(SENTENCES, tmp_path / "cut", recipe=recipe)
        with pytest.raises(ValueError, match="holds a run with seed=0"):
            train_diffusion_lm(SENTENCES, tmp_path / "cut", recipe=recipe, seed=1, resume=True)
        train_diffusion_lm(SENTENCES, tmp_path / "cut", recipe=recipe, resume=True)
        whole, cut = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "cut"))
        assert whole == cut

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["small", "paper"])
    def test_recipes_of_the_paper_and_of_minutes(self, name, tmp_path):
        config = {"encoder_config": RECIPE.config["encoder_config"]}
        pipe = train_diffusion_lm(SENTENCES * 3, tmp_path / name, recipe=name, config=config, max_minutes=0)
        assert pipe.model.config.self_conditioning == (name == "small")

    @pytest.mark.parametrize(
        "data, message",
        [
            ([], "no texts"),
            (pd.DataFrame(), "no texts"),
            (["one two", ""], "row 1 of 'text' holds ''"),
            (pd.DataFrame({"sentence": ["one two"]}), r"no column 'text'; .*\['sentence'\]"),
            (pd.DataFrame({"text": ["one two", None]}), "row 1 of 'text' holds"),
            (["one two three four five six seven eight nine"] * 20, "more than 8 words"),
            (["one two", None], "row 1 of 'text' holds None"),
            (["one two", "one two"], "there is 1 text to train on"),
        ],
    )
    def test_refuses_data(self, data, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            train_diffusion_lm(data, tmp_path / "model", recipe=short())
        assert not (tmp_path / "model").exists()

    def test_refuses(self, tmp_path):
        with pytest.raises(ValueError, match="recipe='large' is not one of 'paper', 'small'"):
            train_diffusion_lm(SENTENCES, tmp_path / "model", recipe="large")
        with pytest.raises(ValueError, match="max_minutes=-1"):
            train_diffusion_lm(SENTENCES, tmp_path / "model", max_minutes=-1)
        for config, message in (
            ({"self_condition": False}, "'self_condition', which is no field"),
            ({"vocab_size": 500}, "'vocab_size', which tokenizer and texts decide"),
        ):
            with pytest.raises(ValueError, match=message):
                train_diffusion_lm(SENTENCES, tmp_path / "model", recipe=short(), config=config)
        for scheduler, message in (
            ({"name": "foo"}, "name='foo'"),
            ({"name": "ddim", "timestep_spacing": "leading"}, "timestep_spacing='leading'"),
            ({"name": "dpm++", "use_karras_sigmas": True}, "use_karras_sigmas=True"),
        ):
            recipe = replace(short(), scheduler=scheduler)
            with pytest.raises(ValueError, match=message):
                train_diffusion_lm(SENTENCES, tmp_path / "model", recipe=recipe)
        assert not (tmp_path / "model").exists()

    def test_a_batch_of_one_text(self, tmp_path):
        texts = pd.Series(SENTENCES[:65])  # batches of 64
        pipe = train_diffusion_lm(texts, tmp_path, validation=SENTENCES[:5], recipe=short(2))
        assert pipe.config.training["data"]["num_records"] == 65

    def test_steps_of_the_card_divide_the_levels(self, tmp_path):
        config = {
            "num_train_timesteps": 250,
            "encoder_config": AutoConfig.for_model(**RECIPE.config["encoder_config"]),
        }
        train_diffusion_lm(SENTENCES, tmp_path, recipe=short(2), config=config)
        assert DiffusionLMPipeline.from_pretrained(tmp_path).model.config.num_train_timesteps == 250

    def test_resumes_with_the_same_words_and_order_alone(self, tmp_path):
        train_diffusion_lm(SENTENCES, tmp_path, recipe=short(2))
        more = train_word_tokenizer([*SENTENCES, "sleeps " * 500], 1, 10)  # the same words by other numbers
        for arguments in ({"data": SENTENCES[::-1]}, {"data": SENTENCES, "tokenizer": more}):
            with pytest.raises(ValueError, match="holds a run with examples="):
                train_diffusion_lm(output_dir=tmp_path, recipe=short(2), resume=True, **arguments)

    def test_what_looks_like_special_tokens_is_words(self):
        tokenizer = train_word_tokenizer(["the <s>red</s> cat"] * 2, 1, 20)
        ids = tokenizer("the <s>red</s> cat")["input_ids"]
        assert tokenizer.convert_ids_to_tokens(ids[1:-1]) == "the < s > red < / s > cat".split()
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id

    def test_long_texts_are_left_out(self, tmp_path):
        long = "the red cat sees a dog . the red cat sees a dog ."
        pipe = train_diffusion_lm([*SENTENCES, long], tmp_path, validation=SENTENCES[:9], recipe=short())
        assert pipe.config.training["data"]["num_dropped_records"] == 1


class TestCommands:
    def test_train_and_generate(self, tmp_path, monkeypatch, error_of):
        from difflm_hf.training import diffusion_lm

        monkeypatch.setitem(diffusion_lm.DIFFUSION_LM_RECIPES, "small", short())
        data, model, output = tmp_path / "data.jsonl", tmp_path / "model", tmp_path / "out.jsonl"
        data.write_text("\n".join(json.dumps({"sentence": text}) for text in SENTENCES))
        of_texts = ["--model", "diffusion-lm", "--text-column", "sentence"]
        assert not call(monkeypatch, "train", data, "--output-dir", model, *of_texts)
        sampling = ["--length", 4, "--num-inference-steps", 20, "--temperature", 0.8]
        assert not call(monkeypatch, "generate", model, "--num-records", 5, *sampling, "--output", output)
        texts = [json.loads(line)["text"] for line in output.read_text().splitlines()]
        assert [len(words_of(text)) for text in texts] == [4] * 5
        wrong = ["--num-records", 1, "--output", tmp_path / "texts"]
        assert "leave out --where" in error_of("generate", model, *wrong, "--where", "a == 1")
        assert "give --output, a .csv, .parquet or .jsonl file" in error_of("generate", model, *wrong)
        arguments = [data, "--output-dir", tmp_path / "other"]
        assert "leave out --tuning" in error_of("train", *arguments, "--model", "diffusion-lm", "--tuning", "lora")
        assert "model='gpt' is not one of" in error_of("train", *arguments, "--model", "gpt")


class TestControls:
    @pytest.fixture(scope="class")
    def content(self, trained):
        attributes = [{"colour": words_of(text)[1], "animal": words_of(text)[2]} for text in SENTENCES]
        return SemanticContent.fit(trained[0], SENTENCES, attributes, 400, **TEACHING)

    @pytest.fixture(scope="class")
    def tagger(self, trained):
        return PartsOfSpeech.fit(trained[0], SENTENCES, [tags_of(t) for t in SENTENCES], 400, **TEACHING)

    @pytest.fixture(scope="class")
    def tree(self, trained):
        spans = [spans_of(text) for text in SENTENCES]
        return SyntaxTree.fit(trained[0], SENTENCES, spans, 400, **TEACHING)

    def share(self, pipe, holds, **arguments):
        texts = pipe(24, STEPS, generator=seeded(), **arguments).texts
        return sum(map(holds, texts)) / len(texts)

    @pytest.mark.slow
    def test_one_seed_teaches_the_same(self, trained):
        attributes = [{"colour": words_of(text)[1]} for text in SENTENCES]
        first, second = (SemanticContent.fit(trained[0], SENTENCES, attributes, 2, **TEACHING) for _ in range(2))
        other = SemanticContent.fit(trained[0], SENTENCES, attributes, 2, seed=1, **TEACHING)
        assert torch.equal(first.head.weight, second.head.weight)
        assert not torch.equal(first.head.weight, other.head.weight)

    @pytest.mark.slow
    def test_semantic_content(self, trained, content, tmp_path):
        pipe = trained[0]

        def is_blue(text):
            return "blue" in words_of(text)

        guide = content.guide({"colour": "blue"}, scale=3)
        assert self.share(pipe, is_blue, guides=[guide]) >= 0.8 > 0.5 >= self.share(pipe, is_blue)
        content.save_pretrained(tmp_path)
        loaded = SemanticContent.from_pretrained(tmp_path)
        guides = [found.guide({"colour": "red"}) for found in (content, loaded)]
        first, second = (pipe(4, STEPS, guides=[guide], generator=seeded()).texts for guide in guides)
        assert first == second
        with pytest.raises(ValueError, match="'purple' is not a value of 'colour'"):
            content.guide({"colour": "purple"})
        with pytest.raises(ValueError, match="'size' is not a field"):
            content.guide({"size": "big"})

    @pytest.mark.slow
    def test_parts_of_speech(self, trained, tagger):
        pipe, tags = trained[0], ["DET", "ADJ", "NOUN", "VERB", "PUNCT"]
        found = self.share(pipe, lambda text: tags_of(text) == tags, length=5, guides=[tagger.guide(tags)])
        assert found >= 0.9
        free = self.share(pipe, lambda text: tags_of(text) == tags, guides=[tagger.guide(tags)])
        assert free > self.share(pipe, lambda text: tags_of(text) == tags) + 0.2
        with pytest.raises(ValueError, match="'ADV' is not one of the tags"):
            tagger.guide(["ADV"])
        with pytest.raises(ValueError, match="length=9 is not in 1 to 8"):
            tagger.guide(["DET"] * 9)
        with pytest.raises(ValueError, match=r"'the cat' has 2 words, .* and 1 labels"):
            PartsOfSpeech.fit(pipe, ["the cat"], [["DET"]])

    @pytest.mark.slow
    def test_syntax(self, trained, tree, tmp_path):
        pipe, spans = trained[0], _saved(tree, SyntaxSpans, tmp_path)

        def is_short(text):
            return text in LANGUAGE and len(words_of(text)) == 5

        guide = spans.guide([(0, 4, "S")], scale=3)
        assert self.share(pipe, is_short, guides=[guide]) > 0.2 + self.share(pipe, is_short)
        short_tree = [(0, 3, "NP"), (0, 4, "S")]
        guide = tree.guide(short_tree, length=5)
        assert self.share(pipe, lambda text: spans_of(text) == short_tree, length=5, guides=[guide]) >= 0.9
        with pytest.raises(ValueError, match="'PP' is not one of the labels"):
            tree.guide([(0, 2, "PP")])
        with pytest.raises(ValueError, match="does not lie in a text of 3 words"):
            tree.guide([(0, 6, "S")], length=3)
        with pytest.raises(ValueError, match="holds no word"):
            spans.guide([(2, 2, "NP")])
        with pytest.raises(ValueError, match="length=12"):
            spans.guide([(0, 12, "NP")])
        with pytest.raises(ValueError, match="does not lie in the 2 words of 'the cat'"):
            SyntaxSpans.fit(pipe, ["the cat"], [[(0, 3, "NP")]])
        for ask in (tree.guide, lambda spans: SyntaxSpans.fit(pipe, ["the cat"], [spans])):
            with pytest.raises(ValueError, match="the words 0 to 2 are 'NP' and 'S'"):
                ask([(0, 2, "NP"), (0, 2, "S")])
        assert len(pipe(2, STEPS, length=3, guides=[tree.guide([], length=3)]).texts) == 2

    @pytest.mark.slow
    def test_labels_as_tables_have_them(self, trained):
        """Missing values are none, numbers are texts, there may be many labels and few steps."""
        pipe, attributes = trained[0], [{"stars": 1, "food": None}, {"stars": 2, "food": float("nan")}]
        content = SemanticContent.fit(pipe, SENTENCES[:2], attributes, 10, **TEACHING)
        assert content.labels == {"stars": ["1", "2"]}
        assert pipe(1, STEPS, guides=[content.guide({"stars": 1})]).texts
        with pytest.raises(ValueError, match="'food' has the value"):
            SemanticContent.fit(pipe, SENTENCES[:1], [{"food": ["a", "b"]}])
        with pytest.raises(ValueError, match="values of fields are needed"):
            content.guide({})
        spans = [[(0, 2, f"label {k}")] for k in range(150)]
        assert len(SyntaxSpans.fit(pipe, SENTENCES[:150], spans, 1, **TEACHING).labels) == 150
        with pytest.raises(ValueError, match="no texts to teach"):
            PartsOfSpeech.fit(pipe, [], [])

    @pytest.mark.slow
    def test_length(self, trained):
        pipe, guide = trained[0], Length(trained[0]).guide(5)
        assert self.share(pipe, lambda text: len(words_of(text)) == 5, guides=[guide]) >= 0.9
        with pytest.raises(ValueError, match="length=9"):
            Length(pipe).guide(9)

    @pytest.mark.slow
    def test_infilling(self, trained):
        pipe = trained[0]
        guide = Infilling(pipe).guide("the blue [mask] likes a [mask] .")
        assert self.share(pipe, lambda t: t.startswith("the blue ") and " likes a " in t, guides=[guide]) >= 0.8
        with pytest.raises(ValueError, match="has no gap"):
            Infilling(pipe).guide("the blue cat")
        with pytest.raises(ValueError, match="take pipe"):
            Infilling(pipe).guide("the [gap] cat")

    @pytest.mark.slow
    def test_composition(self, trained, content):
        pipe, guides = trained[0], [content.guide({"colour": "grey"}), Length(trained[0]).guide(5)]

        def holds(text):
            return "grey" in text and len(words_of(text)) == 5

        assert self.share(pipe, holds, guides=guides) >= 0.7
        assert self.share(pipe, holds, length=5, guides=guides[:1]) >= 0.7

    @pytest.mark.slow
    def test_another_models_classifier(self, trained, content):
        from tiny_diffusion_lm import SMALL, make_pipeline

        other = make_pipeline(seed=3, **SMALL)
        with pytest.raises(ValueError, match="knows the word embeddings of another model"):
            other(1, STEPS, guides=[content.guide({"colour": "red"})])
