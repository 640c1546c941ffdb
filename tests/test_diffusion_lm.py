"""Diffusion-LM: noise levels, loss, bound, texts and what they are held to."""

import math

import diffusers
import numpy as np
import pytest
import torch
from tiny_diffusion_lm import SENTENCES, SIZES, SMALL, make_pipeline, make_tokenizer

from difflm_hf.control import Guide
from difflm_hf.diffusion_lm import DiffusionLMConfig, DiffusionLMModel, DiffusionLMPipeline, make_scheduler
from difflm_hf.diffusion_lm.measures import likelihood_bound, rounding_accuracy
from difflm_hf.diffusion_lm.minimum_bayes_risk import minimum_bayes_risk
from difflm_hf.diffusion_lm.schedule import sqrt_alphas_cumprod, trained_betas
from difflm_hf.diffusion_lm.steering import Steering
from difflm_hf.diffusion_lm.word_tokenizer import encode_texts


STEPS = 20


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ids_of(pipe, texts=SENTENCES):
    return encode_texts(texts, pipe.tokenizer, pipe.model.config.max_sequence_length)[0]


def words_of(text):
    return text.replace(".", " .").split()


class Oracle(DiffusionLMModel):
    """Knows the texts."""

    ids: torch.Tensor

    def denoise(self, sample, timestep, self_condition=None):
        from difflm_hf.diffusion_lm import DiffusionLMOutput

        clean = self.embed(self.ids[: len(sample)])
        if self.config.prediction_type == "epsilon":
            scale, deviation = self.noise_level(torch.as_tensor(timestep)[None])
            assert torch.isfinite((sample - scale * clean) / deviation).all()
        return DiffusionLMOutput(clean=clean, logits=self.head(clean))


class TestSchedule:
    @pytest.mark.parametrize("factor", [1.0, 2.0, 4.0])
    def test_levels_are_those_of_the_paper(self, factor):
        """ᾱ_t = (1 − √((t + 1) / T + s)) / (1 − √s), as products of betas of at most 0.999, by another way."""
        product, expected = 1.0, []
        for t in range(2000):
            ratio = (1 - math.sqrt((t + 1) / 2000 + 1e-4)) / (1 - math.sqrt(t / 2000 + 1e-4))
            product *= 1 - min(1 - ratio, 0.999)
            expected.append(product / (factor**2 - (factor**2 - 1) * product))
        np.testing.assert_allclose(sqrt_alphas_cumprod(2000, factor), expected, rtol=1e-10)

    def test_the_original_begins_with_099(self):
        alphas = sqrt_alphas_cumprod()
        assert alphas[0] == pytest.approx((1 - math.sqrt(1 / 2000 + 1e-4)) / 0.99, rel=1e-12)
        assert alphas[[0, 1998, 1999]] == pytest.approx([0.98536, 2.02e-4, 2.02e-7], rel=1e-3)
        np.testing.assert_allclose(np.cumprod(1 - trained_betas()), alphas, rtol=1e-9)
        assert (trained_betas() > 0.99).sum() == 1

    @pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm++"])
    @pytest.mark.parametrize("steps", [20, 200, 2000])
    def test_begins_with_noise_and_ends_with_the_first_level(self, name, steps):
        scheduler = make_scheduler(DiffusionLMConfig(), name)
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps[0] == 1999 and len(scheduler.timesteps) == steps
        assert scheduler.timesteps.diff().eq(-2000 // steps).all()

    def test_steps_are_the_posterior(self):
        """The mean of DDPM's step from t to t − 1 against the posterior of Gaussians, in float64."""
        scheduler, alphas = make_scheduler(DiffusionLMConfig()), sqrt_alphas_cumprod()
        scheduler.set_timesteps(2000)
        x, clean = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
        for t in (1999, 1500, 700, 1):
            stepped = scheduler.step(clean, t, x, generator=seeded()).prev_sample
            noise = torch.randn(x.shape, generator=seeded(), dtype=torch.float64)
            # q(x_t−1 | x_t, x_0): precisions of what x_t and x_0 say of it add up
            ratio, before = alphas[t] / alphas[t - 1], alphas[t - 1]
            of_next, of_clean = ratio / (1 - ratio), 1 / (1 - before)
            variance = 1 / (of_next + of_clean)
            mean = variance * (of_next * x / math.sqrt(ratio) + of_clean * math.sqrt(before) * clean)
            torch.testing.assert_close(stepped, mean + math.sqrt(variance) * noise, rtol=2e-3, atol=2e-4)

    def test_refuses_steps_that_do_not_fit(self):
        with pytest.raises(
            ValueError, match="num_inference_steps=30 does not divide the 2000 noise levels.*20 or 25|25"
        ):
            make_pipeline()(1, 30)
        for wrong in (0, -1, 2.5, True):
            with pytest.raises(ValueError, match="not a positive integer"):
                make_pipeline()(1, wrong)

    def test_refuses_other_schedulers(self):
        pipe = make_pipeline()
        betas = trained_betas().tolist()
        others = {
            "prediction_type='epsilon'": diffusers.DDPMScheduler(2000, trained_betas=betas),
            "timestep_spacing='leading'": diffusers.DDPMScheduler(
                2000, trained_betas=betas, prediction_type="sample", clip_sample=False
            ),
            "noise levels": diffusers.DDPMScheduler(
                2000, prediction_type="sample", timestep_spacing="trailing", clip_sample=False
            ),
            "clip": diffusers.DDPMScheduler(
                2000, trained_betas=betas, prediction_type="sample", timestep_spacing="trailing"
            ),
        }
        for message, scheduler in others.items():
            with pytest.raises(ValueError, match=message):
                DiffusionLMPipeline(pipe.model, scheduler, pipe.tokenizer)
        with pytest.raises(ValueError, match="name='euler' is not one of"):
            make_scheduler(pipe.model.config, "euler")

    @pytest.mark.parametrize("prediction", ["sample", "epsilon"])
    @pytest.mark.parametrize(
        "name, fields", [("ddpm", {}), ("ddim", {}), ("dpm++", {}), ("dpm++", {"solver_order": 3})]
    )
    def test_an_oracle_gets_its_words_back(self, name, fields, prediction):
        pipe, last = make_pipeline(prediction_type=prediction, normalize_embeddings=True), {}
        oracle = Oracle(pipe.model.config)
        oracle.load_state_dict(pipe.model.state_dict())
        oracle.ids = ids_of(pipe)[:16]
        pipe = DiffusionLMPipeline(oracle, make_scheduler(oracle.config, name, **fields), pipe.tokenizer)
        for clamp in (False, True):
            output = pipe(
                16, STEPS, clamp=clamp, generator=seeded(), callback_on_step_end=lambda *a: last.update(a[3])
            )
            assert torch.equal(output.sequences, oracle.ids)
            # What the scheduler ends with, and not only what the model says
            assert torch.equal(oracle.head(last["latents"]).argmax(-1), oracle.ids)
            torch.testing.assert_close(last["latents"], oracle.embed(oracle.ids), atol=2e-2, rtol=0)


class TestLoss:
    @pytest.mark.parametrize("config", [{}, {"prediction_type": "epsilon"}, SMALL], ids=["paper", "epsilon", "small"])
    def test_is_the_formula(self, config):
        """Against the terms of the paper, one text at a time, in float64."""
        pipe = make_pipeline(**config)
        model, ids = pipe.model, ids_of(pipe)[[0, 50, 100, 195]]
        timestep = torch.tensor([0, 3, 900, 1999])
        torch.manual_seed(5)
        outputs = model(input_ids=ids, timestep=timestep)
        torch.manual_seed(5)
        table = model.embeddings.detach().double()
        clean_noise, noise = torch.randn(4, 10, 16).double(), torch.randn(4, 10, 16).double()
        alphas = sqrt_alphas_cumprod(2000, model.config.noise_factor)
        mse, rounding, prior, cross_entropy = [], [], [], []
        for row, t in enumerate(timestep.tolist()):
            embeddings = table[ids[row]]
            start = embeddings + math.sqrt(1 - alphas[0]) * clean_noise[row]
            diffused = start if model.config.noisy_embeddings else embeddings
            noisy = math.sqrt(alphas[t]) * diffused + math.sqrt(1 - alphas[t]) * noise[row]
            with torch.no_grad():
                output = model.predict(noisy[None].float(), torch.tensor([t]))
            target = noise[row] if model.config.prediction_type == "epsilon" else embeddings if t == 0 else diffused
            mse.append(((output.sample[0].double() - target) ** 2).mean(1))
            log_probs = (start @ table.T + model.head_bias.detach().double()).log_softmax(1)
            rounding.append(-log_probs[range(10), ids[row]])
            prior.append(alphas[1999] * (diffused**2).mean(1))
            cross_entropy.append(-output.logits[0].double().log_softmax(1)[range(10), ids[row]])
        expected = {"mse": mse, "rounding": rounding, "prior": prior, "cross_entropy": cross_entropy}
        for name, values in expected.items():
            assert float(outputs.terms[name]) == pytest.approx(float(torch.cat(values).mean()), rel=2e-3, abs=1e-6), (
                name
            )
        weights = {"mse": 1, "rounding": 1, "prior": 1, "cross_entropy": model.config.cross_entropy_weight}
        total = sum(float(outputs.terms[name]) * weight for name, weight in weights.items())
        assert float(outputs.loss) == pytest.approx(total, rel=1e-5)

    @pytest.mark.parametrize("weight", [1.0, 0.2, 0.0])
    def test_padding_weighs_less(self, weight):
        pipe = make_pipeline(pad_weight=weight)
        model, ids = pipe.model, ids_of(pipe)[:8]
        torch.manual_seed(0)
        found = model(input_ids=ids, timestep=torch.full((8,), 500)).terms["rounding"]
        torch.manual_seed(0)
        start = model.embed(ids) + math.sqrt(1 - sqrt_alphas_cumprod()[0]) * torch.randn(8, 10, 16)
        losses = -model.head(start).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
        is_padding = ids == pipe.tokenizer.pad_token_id
        total = losses[~is_padding].sum() + weight * losses[is_padding].sum()
        expected = total / ((~is_padding).sum() + weight * is_padding.sum())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    def test_noise_levels_are_spread_evenly(self):
        pipe, seen = make_pipeline(), []
        pipe.model.noise_level = lambda t: seen.append(t) or DiffusionLMModel.noise_level(pipe.model, t)
        pipe.model(input_ids=ids_of(pipe)[:50])
        assert seen[0].sort().values.diff().float() == pytest.approx(40, abs=1)

    def test_embeddings_stay_on_the_sphere_and_are_learnt(self):
        pipe = make_pipeline(**SMALL)
        norms = pipe.model.embeddings.norm(dim=1)
        torch.testing.assert_close(norms, torch.full_like(norms, 4.0))
        pipe.model(input_ids=ids_of(pipe)[:8]).loss.backward()
        assert pipe.model.word_embeddings.weight.grad.abs().sum() > 0
        fixed = make_pipeline(train_embeddings=False).model
        fixed(input_ids=ids_of(pipe)[:8]).loss.backward()
        assert fixed.word_embeddings.weight.grad is None


class TestMeasures:
    def test_bound_is_the_sum_over_all_levels(self):
        """Of a model that predicts the same whatever it sees, each term is known: with 2,000 levels, one by one."""
        pipe = make_pipeline()
        model, ids = pipe.model, ids_of(pipe)[:4]

        class Constant(DiffusionLMModel):
            def denoise(self, sample, timestep, self_condition=None):
                from difflm_hf.diffusion_lm import DiffusionLMOutput

                clean = torch.ones_like(sample)
                return DiffusionLMOutput(clean=clean, logits=torch.zeros(*sample.shape[:2], self.config.vocab_size))

        constant = Constant(model.config)
        constant.load_state_dict(model.state_dict())
        alphas = sqrt_alphas_cumprod()
        snr = alphas / (1 - alphas)
        embeddings = model.embeddings.detach().double()[ids]
        errors = ((embeddings - 1) ** 2).sum((1, 2)).numpy()
        diffusion = sum((snr[t - 1] - snr[t]) / 2 * errors for t in range(1, 2000))
        size, squares = embeddings[0].numel(), (embeddings**2).sum((1, 2)).numpy()
        last = 0.5 * (alphas[-1] * squares + size * ((1 - alphas[-1]) - 1 - math.log(1 - alphas[-1])))
        words = ids.shape[1] * math.log(model.config.vocab_size)
        bound = likelihood_bound(constant, ids, num_draws=4000, generator=seeded())
        np.testing.assert_allclose(bound, diffusion + last + words, rtol=0.05)

    def test_rounding(self):
        pipe = make_pipeline(**SMALL)
        ids = ids_of(pipe)
        assert rounding_accuracy(pipe.model, ids, seeded()) == 1
        with torch.no_grad():
            pipe.model.word_embeddings.weight[:] = pipe.model.word_embeddings.weight[:1]
        assert rounding_accuracy(pipe.model, ids, seeded()) < 0.5


class TestPipeline:
    @pytest.fixture(scope="class")
    def pipe(self):
        return make_pipeline(**SMALL)

    @pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpm++"])
    def test_a_seed_is_a_row_of_texts(self, scheduler):
        pipe = make_pipeline(scheduler, **SMALL)
        texts = pipe(7, STEPS, generator=seeded()).texts
        assert texts == pipe(7, STEPS, generator=seeded(), batch_size=2).texts
        assert texts[:3] == pipe(3, STEPS, generator=seeded()).texts
        assert len(set(texts)) > 3 and texts != pipe(7, STEPS, generator=seeded(1)).texts

    @pytest.mark.parametrize("config", [{}, SMALL, {"prediction_type": "epsilon"}], ids=["paper", "small", "epsilon"])
    @pytest.mark.parametrize("clamp", [False, True])
    def test_length_is_kept(self, config, clamp):
        pipe = make_pipeline(**config)
        for length in (1, 5, 8):
            output = pipe(3, STEPS, length=length, clamp=clamp, generator=seeded())
            assert [len(words_of(text)) for text in output.texts] == [length] * 3
            assert (output.sequences == pipe.tokenizer.eos_token_id).nonzero()[:, 1].tolist() == [1 + length] * 3

    def test_no_unknown_words(self, pipe):
        sequences = pipe(20, STEPS, generator=seeded()).sequences
        assert not (sequences == pipe.tokenizer.unk_token_id).any()
        assert (sequences[:, 0] == pipe.tokenizer.bos_token_id).all()

    def test_given_words_are_shown_without_noise(self, pipe):
        shown, model = [], pipe.model
        hook = model.register_forward_pre_hook(lambda module, inputs: shown.append(inputs))
        pipe(infill="the [mask] cat .", num_inference_steps=STEPS, generator=seeded())
        hook.remove()
        word = model.embed(pipe.tokenizer("cat", add_special_tokens=False, return_tensors="pt")["input_ids"])
        for latents, timestep, _ in shown:
            expected = model.noise_level(timestep[None])[0] * word
            assert torch.allclose(latents[:, 3:4], expected, atol=1e-6)

    def test_infilling_keeps_what_is_known(self, pipe):
        texts = ["the [mask] cat [mask] a [mask] .", "[gap] cat [gap] .", "the red [gap]"]
        first, second, third = pipe(infill=texts, num_inference_steps=STEPS, generator=seeded()).texts
        words = words_of(first)
        assert len(words) == 7 and [words[k] for k in (0, 2, 4, 6)] == ["the", "cat", "a", "."]
        assert "cat" in words_of(second)[1:] and second.endswith(".") and len(words_of(second)) >= 4
        assert third.startswith("the red ")
        assert pipe(infill=texts[0], num_inference_steps=STEPS, generator=seeded()).texts == [first]

    def test_gaps_are_as_long_as_texts_are(self):
        counts = [0] * 6 + [5] + [0] * 3  # all of six words
        pipe = make_pipeline(**SMALL, length_counts=counts)
        texts = pipe(infill=["the [gap] ."] * 10, num_inference_steps=STEPS, generator=seeded()).texts
        assert {len(words_of(text)) for text in texts} == {6}

    def test_candidates(self, pipe):
        assert minimum_bayes_risk(["a b c d", "x y z w", "a b c e", "a b c d"]) == 0
        assert minimum_bayes_risk(["only one"]) == 0
        one = pipe(2, STEPS, num_candidates=3, generator=seeded()).texts
        assert len(one) == 2 and one == pipe(2, STEPS, num_candidates=3, generator=seeded(), batch_size=1).texts

    def test_guides_choose_among_candidates(self, pipe):
        wanted = pipe.model.embeddings[pipe.tokenizer.convert_tokens_to_ids("blue")].detach()
        # Without a gradient it steers nothing, but it tells texts apart.
        guide = Guide(lambda x: 0 * x.sum((1, 2)) - (x - wanted).square().sum(-1).amin(1).detach(), 10.0)
        arguments = {"num_inference_steps": STEPS, "guides": [guide], "length": 6}
        counts = [
            sum("blue" in text for text in pipe(12, num_candidates=n, generator=seeded(), **arguments).texts)
            for n in (1, 8)
        ]
        assert counts[1] > counts[0] + 3

    def test_of_candidates_that_guides_like_equally_the_likeliest_is_chosen(self):
        pipe = make_pipeline(**SMALL)
        red = pipe.tokenizer.convert_tokens_to_ids("red")
        with torch.no_grad():
            pipe.model.output[-1].bias[red] = 3.0
        arguments = {"guides": [Guide(lambda x: 0 * x.sum((1, 2)))], "length": 6, "temperature": 5.0}
        counts = [
            sum(
                words_of(text).count("red")
                for text in pipe(12, STEPS, num_candidates=n, generator=seeded(), **arguments).texts
            )
            for n in (1, 8)
        ]
        assert counts[1] > 1.3 * counts[0]

    def test_output(self, pipe):
        output = pipe(2, STEPS, generator=seeded(), output_type="seq")
        assert output.texts is None and output.sequences.shape == (2, 10)
        texts, sequences = pipe(2, STEPS, generator=seeded(), return_dict=False)
        assert torch.equal(sequences, output.sequences) and texts == pipe.to_texts(sequences)
        assert len(pipe(num_inference_steps=STEPS).texts) == 1

    def test_callback(self, pipe):
        seen = []

        def callback(pipe, step, timestep, tensors):
            seen.append((step, int(timestep), sorted(tensors)))
            return {"latents": torch.zeros_like(tensors["latents"])}

        names = ["latents", "clean", "logits"]
        arguments = {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": names}
        changed = pipe(3, STEPS, generator=seeded(), batch_size=2, **arguments).texts
        assert [step for step, *_ in seen] == [*range(STEPS)] * 2 and seen[0][1:] == (1999, sorted(names))
        assert len(set(changed)) == 1 and changed != pipe(3, STEPS, generator=seeded()).texts

    def test_clamping_moves_to_embeddings(self):
        pipe, seen = make_pipeline(), []

        def callback(pipe, step, timestep, tensors):
            seen.append(torch.cdist(tensors["clean"].flatten(0, 1), pipe.model.embeddings).amin(1).max())

        for clamp in (False, True):
            pipe(2, STEPS, clamp=clamp, generator=seeded(), callback_on_step_end=callback,
                 callback_on_step_end_tensor_inputs=["clean"])  # fmt: skip
        assert max(seen[:STEPS]) > 0.1 and max(seen[STEPS:]) < 1e-3

    def test_saved_and_loaded(self, pipe, tmp_path):
        pipe.save_pretrained(tmp_path)
        loaded = DiffusionLMPipeline.from_pretrained(tmp_path, dtype=torch.float32)
        loaded.set_progress_bar_config(disable=True)
        assert loaded(4, STEPS, generator=seeded()).texts == pipe(4, STEPS, generator=seeded()).texts
        (tmp_path / "model" / "model.safetensors").write_bytes(b"cut off")
        with pytest.raises(OSError, match="model.safetensors is damaged"):
            DiffusionLMPipeline.from_pretrained(tmp_path)

    def test_bfloat16(self, pipe, tmp_path):
        pipe.save_pretrained(tmp_path)
        loaded = DiffusionLMPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert loaded.model.word_embeddings.weight.dtype == torch.float32
        assert loaded.model.output[0].weight.dtype == torch.bfloat16
        assert loaded(2, STEPS, generator=seeded()).sequences.shape == (2, 10)

    def test_over_the_hub(self, pipe, hub):
        commit = pipe.push_to_hub("alice/diffusion-lm", license="mit", commit_message="First")
        assert commit.commit_message == "First"
        loaded = DiffusionLMPipeline.from_pretrained("alice/diffusion-lm", dtype=torch.float32)
        loaded.set_progress_bar_config(disable=True)
        assert loaded(4, STEPS, generator=seeded()).texts == pipe(4, STEPS, generator=seeded()).texts

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"num_texts": 0}, "num_texts=0 is not a positive integer"),
            ({"length": 9}, "length=9 is not in 1 to 8"),
            ({"length": 0}, "length=0 is not in 1 to 8"),
            ({"batch_size": 0}, "batch_size=0"),
            ({"temperature": 0}, "temperature=0 is not a number above 0"),
            ({"num_candidates": 0}, "num_candidates=0"),
            ({"output_type": "pandas"}, "output_type='pandas' is not one of"),
            ({"guides": ["red"]}, "which is no Guide"),
            ({"callback_on_step_end_tensor_inputs": ["noise"]}, "noise"),
            ({"infill": "the red cat"}, "has no gap"),
            ({"infill": "the purple [mask] ."}, "does not know the word 'purple' of 'the purple"),
            ({"infill": "the " + "[mask] " * 8}, "9 words or more.*at most 8"),
            ({"infill": "the [mask]", "length": 3}, "leave out num_texts and length"),
            ({"infill": []}, "infill has no text"),
            ({"temperature": math.inf}, "temperature=inf is not a number above 0"),
            ({"temperature": 1e-38}, "words of texts are not finite"),
            ({"steering": "adam"}, "update='adam' is not one of"),
            ({"generator": [0]}, "generator=0 is no torch.Generator"),
            ({"guides": [len]}, "hold a builtin_function_or_method, which is no Guide"),
        ],
    )
    def test_refuses(self, pipe, arguments, message):
        with pytest.raises(ValueError, match=message):
            pipe(**{"num_inference_steps": STEPS, **arguments})

    def test_refuses_a_guide_of_another_model(self, pipe):
        other = make_pipeline(seed=1, **SMALL).model.embeddings
        guide = Guide(lambda clean: clean.sum((1, 2)), name="guide to red", embeddings=other)
        with pytest.raises(ValueError, match="guide to red knows the word embeddings of another model"):
            pipe(1, STEPS, guides=[guide])

    def test_words_are_reweighed_by_bayes_rule(self, pipe):
        """A score that is linear in the words is a prior on them: probabilities are multiplied by its exponential."""
        model, table = pipe.model, pipe.model.embeddings.detach()
        direction, noisy, t = torch.randn(16), torch.randn(2, 10, 16), torch.tensor(700)
        output = model(noisy, t)
        guides = [Guide(lambda x: (x @ direction).sum(1), 0.5), Guide(lambda x, t: 3 * x.sum((1, 2)), noisy=True)]
        scale = math.sqrt(sqrt_alphas_cumprod(2000, 2.0)[700])
        expected = output.logits.softmax(-1) * (0.5 * table @ direction + 3 * scale * table.sum(1)).exp()
        expected = expected / expected.sum(-1, keepdim=True)
        found = Steering().reweigh(model, output, guides, noisy, t, 0)
        torch.testing.assert_close(found.logits.softmax(-1), expected, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(found.clean, expected @ table, rtol=1e-3, atol=1e-4)

    def test_words_need_weighted_embeddings(self):
        pipe = make_pipeline()
        guide = Guide(lambda x: x.sum((1, 2)))
        assert len(pipe(2, STEPS, guides=[guide]).texts) == 2
        with pytest.raises(ValueError, match="'words' needs a model with weighted_embeddings"):
            pipe(1, STEPS, guides=[guide], steering=Steering("words"))

    @pytest.mark.parametrize("update", ["words", "sign", "norm"])
    @pytest.mark.parametrize("noisy", [False, True])
    def test_guides_steer(self, pipe, update, noisy):
        table = pipe.model.embeddings
        wanted = table[pipe.tokenizer.convert_tokens_to_ids("blue")]

        def score(x, timestep=None):
            return -(x[:, 2] - wanted).square().sum(-1)

        guide = Guide(score, 1.0 if update == "words" else 100.0, noisy=noisy)
        steering = Steering(update, step_size=0.3, fluency=0.0)
        steered = pipe(16, STEPS, length=6, guides=[guide], steering=steering, generator=seeded()).texts
        free = pipe(16, STEPS, length=6, generator=seeded()).texts
        count = [sum(words_of(text)[1] == "blue" for text in texts) for texts in (steered, free)]
        assert count[0] >= 12 > 4 > count[1]

    @pytest.mark.parametrize(
        "score, message",
        [
            (lambda x: x.sum(), "guide to nothing, step 0: a score of shape"),
            (lambda x: torch.zeros(len(x)), "does not see"),
            (lambda x: x.sum((1, 2)) * torch.nan, "its score is not finite"),
            (lambda x: x.square().sum((1, 2)).sub(1e9).log(), "its score is not finite"),
            (lambda x: (x - x.detach()).abs().sum((1, 2)).sqrt(), "the gradient of its score is not finite"),
        ],
    )
    def test_refuses_bad_scores(self, pipe, score, message):
        with pytest.raises(ValueError, match=message):
            pipe(2, STEPS, guides=[Guide(score, name="guide to nothing")])

    @pytest.mark.parametrize("scale", [math.nan, math.inf, 1e38, "1", True])
    def test_refuses_bad_scales(self, scale):
        with pytest.raises(ValueError, match="guide to nothing: scale="):
            Guide(lambda x: x.sum((1, 2)), scale, "guide to nothing")

    def test_refuses_candidates_without_a_score(self, pipe):
        # Finite of what the model predicts on the way, and not of whole texts
        guide = Guide(lambda x: x.sum((1, 2)) * (0 if x.requires_grad else math.nan), name="guide to nothing")
        with pytest.raises(ValueError, match="guide to nothing: its score of a text is not finite"):
            pipe(1, STEPS, guides=[guide], num_candidates=2)

    def test_one_guide_and_an_iterator(self, pipe):
        wanted = pipe.model.embeddings[pipe.tokenizer.convert_tokens_to_ids("blue")].detach()
        guide = Guide(lambda x: -(x - wanted).square().sum(-1).amin(1), 20)
        free, *guided = (
            pipe(3, STEPS, guides=guides, generator=seeded()).texts
            for guides in (None, [guide], guide, iter([guide]), (g for g in [guide]))
        )
        assert all(texts == guided[0] != free for texts in guided)

    def test_refuses_bad_steering(self):
        for arguments in (
            {"num_updates": 1.5},
            {"update": "adam"},
            {"step_size": 0},
            {"num_updates": 0},
            {"fluency": -1},
            {"last": 2},
        ):
            with pytest.raises(ValueError, match=next(iter(arguments))):
                Steering(**arguments)


class TestConfig:
    @pytest.mark.parametrize(
        "fields, message",
        [
            ({"vocab_size": 2}, "vocab_size=2"),
            ({"embedding_size": 0}, "embedding_size=0"),
            ({"noise_factor": 0.5}, "noise_factor=0.5 is out of range"),
            ({"prediction_type": "v"}, "prediction_type='v' is not one of"),
            ({"eos_token_id": "x"}, "eos_token_id='x' is not an integer of 0 or more"),
            ({"vocab_size": 9, "pad_token_id": 9}, "pad_token_id=9 is more than 8"),
            ({"prediction_type": "epsilon", "weighted_embeddings": True}, "weighted_embeddings"),
        ],
    )
    def test_refuses(self, fields, message):
        with pytest.raises(ValueError, match=message):
            DiffusionLMConfig(**fields)

    def test_defaults_are_the_papers(self):
        config = DiffusionLMConfig()
        assert (config.embedding_size, config.vocab_size, config.max_sequence_length) == (16, 821, 64)
        assert config.encoder_config.model_type == "bert" and config.encoder_config.num_hidden_layers == 12

    @pytest.mark.parametrize("model_type", ["bert", "modernbert", "roberta-prelayernorm"])
    def test_encoders(self, model_type):
        fields = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        encoder = {"model_type": model_type, "max_position_embeddings": 20, **fields}
        model = DiffusionLMModel(DiffusionLMConfig(**{**SIZES, "encoder_config": encoder}))
        assert model(torch.randn(2, 10, 16), 5).clean.shape == (2, 10, 16)


class TestTokenizer:
    @pytest.mark.parametrize(
        "text",
        [
            "The Mill, near Café Rouge (in the city centre), is child-friendly: it's £20-25.",
            "Isn't this a 5 out of 5? No!",
            "We'll see; they've 3.5 stars.",
        ],
    )
    def test_texts_come_back(self, text):
        from difflm_hf.diffusion_lm import train_word_tokenizer

        tokenizer = train_word_tokenizer([text], min_frequency=1)
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text

    def test_rare_words_are_unknown(self):
        tokenizer = make_tokenizer()
        assert tokenizer("the purple cat")["input_ids"].count(tokenizer.unk_token_id) == 1

    def test_refuses(self):
        from difflm_hf.diffusion_lm import train_word_tokenizer

        with pytest.raises(ValueError, match="texts are needed"):
            train_word_tokenizer([])
        with pytest.raises(ValueError, match="no word of the texts occurs 5 times"):
            train_word_tokenizer(["one two"], min_frequency=5)
