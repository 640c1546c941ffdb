"""What users of diffusers expect of any pipeline: callbacks and their tensors, interrupts, generators, offloading."""

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.hooks import CpuOffload
from diffusers.callbacks import PipelineCallback
from tiny import make_table, seeded
from tiny_diffusion_lm import make_pipeline

from difflm_hf import DiffLMPipeline
from difflm_hf.records import Identifier, Unique


STEPS = 4


@pytest.fixture(scope="module")
def pipe(tiny_run) -> DiffLMPipeline:
    pipe = DiffLMPipeline.from_pretrained(tiny_run)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def writer():
    return make_pipeline()


def steps_seen(pipe, number: int, stop_at: int | None = None, **arguments) -> list[tuple[int, dict]]:
    seen = []

    def watch(pipeline, step, timestep, tensors):
        seen.append((step, dict(tensors)))
        if step == stop_at:
            pipeline._interrupt = True

    pipe(number, num_inference_steps=STEPS, generator=seeded(), callback_on_step_end=watch, **arguments)
    return seen


class TestCallbacks:
    def test_tensors_that_are_asked_for(self, pipe):
        assert {frozenset(tensors) for _, tensors in steps_seen(pipe, 3)} == {frozenset({"latents"})}
        seen = steps_seen(pipe, 3, callback_on_step_end_tensor_inputs=["clean"])
        assert {frozenset(tensors) for _, tensors in seen} == {frozenset({"clean"})}

    def test_the_last_prediction_is_what_records_are_written_from(self, pipe):
        """Without noise that comes back, the last step ends at its prediction of what is clean."""
        last = steps_seen(pipe, 3, callback_on_step_end_tensor_inputs=["latents", "clean"])[-1][1]
        torch.testing.assert_close(last["latents"], last["clean"], rtol=1e-4, atol=1e-4)

    def test_callbacks_of_diffusers_say_what_they_take(self, pipe):
        class Watch(PipelineCallback):
            tensor_inputs = ["clean"]

            def __call__(self, pipeline, step_index, timestep, callback_kwargs):
                names.append(list(callback_kwargs))
                return callback_kwargs

        names = []
        pipe(2, STEPS, callback_on_step_end=Watch())
        assert names == [["clean"]] * STEPS

    @pytest.mark.parametrize("names", [["noise"], "latents", None, [["latents"]], 3])
    def test_other_names(self, pipe, writer, names):
        for of in (pipe, writer):
            with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs=.*out of latents, clean"):
                of(2, callback_on_step_end=print, callback_on_step_end_tensor_inputs=names)

    def test_streams_take_them_too(self, pipe):
        names = []
        arguments = {"callback_on_step_end": lambda *args: names.append(list(args[3]))}
        batches = pipe.stream(2, STEPS, **arguments, callback_on_step_end_tensor_inputs=["clean"])
        assert len(next(batches)) == 2 and names == [["clean"]] * STEPS


class TestInterrupt:
    def test_steps_that_are_left_are_left_out(self, pipe, writer):
        size = pipe.config.block_size
        assert [step for step, _ in steps_seen(pipe, size + 1, stop_at=1)] == [0, 1] * 2  # in each of two blocks
        writer_steps = [step for step, _ in steps_seen_of_texts(writer, stop_at=2)]
        assert writer_steps == [0, 1, 2]

    def test_there_are_records_all_the_same(self, pipe):
        def stop(pipeline, *_):
            pipeline._interrupt = True

        assert len(pipe(5, callback_on_step_end=stop).records) == 5
        assert pipe.interrupt
        pipe(1)
        assert not pipe.interrupt


def steps_seen_of_texts(writer, stop_at: int) -> list[tuple[int, dict]]:
    seen = []

    def watch(pipeline, step, timestep, tensors):
        seen.append((step, tensors))
        if step == stop_at:
            pipeline._interrupt = True

    assert len(writer(3, 20, generator=seeded(), callback_on_step_end=watch).texts) == 3
    return seen


class TestGenerators:
    def test_each_gives_the_record_that_it_gives_alone(self, pipe):
        records = pipe(generator=[seeded(k) for k in (5, 0, 5)], output_type="pandas").records
        alone = [pipe(1, generator=seeded(k), output_type="pandas").records for k in (5, 0, 5)]
        pd.testing.assert_frame_equal(records, pd.concat(alone, ignore_index=True))

    def test_under_conditions(self, pipe):
        records = pipe(2, generator=[seeded(3), seeded(4)], conditions={"color": "red"}, output_type="pandas").records
        alone = pipe(1, generator=seeded(4), conditions={"color": "red"}, output_type="pandas").records
        assert (records["color"] == "red").all()
        pd.testing.assert_frame_equal(records.tail(1).reset_index(drop=True), alone)

    def test_texts(self, writer):
        texts = writer(generator=[seeded(1), seeded(2)]).texts
        assert texts == [writer(1, generator=seeded(k)).texts[0] for k in (1, 2)]
        gaps = ["the [mask] cat sleeps.", "the red cat [gap]."]
        filled = writer(infill=gaps, generator=[seeded(1), seeded(2)], num_candidates=2).texts
        alone = [writer(infill=gap, generator=seeded(k), num_candidates=2).texts[0] for k, gap in enumerate(gaps, 1)]
        assert filled == alone

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_records": 3, "generator": [torch.Generator()]}, "num_records=3, and there are 1 generators"),
            ({"generator": []}, "there are 0 generators"),
            ({"generator": [3]}, "generator=3 is no torch.Generator"),
            (
                {"generator": [torch.Generator()], "conditions": [{"color": "red"}]},
                "conditions of each record do not go with a list of generators",
            ),
        ],
    )
    def test_lists_that_do_not_fit(self, pipe, arguments, message):
        with pytest.raises(ValueError, match=message):
            pipe(**arguments)

    @pytest.mark.parametrize("rule", [Unique(["color", "size"]), Identifier("code")])
    def test_rules_that_look_at_all_records(self, pipe, rule, monkeypatch):
        monkeypatch.setattr(pipe.processor.schema, "rules", [rule])
        with pytest.raises(ValueError, match="a list of generators makes each record for itself"):
            pipe(generator=[seeded(), seeded(1)])

    def test_streams_take_one(self, pipe):
        with pytest.raises(ValueError, match="is no torch.Generator"):
            next(pipe.stream(1, generator=[seeded()]))


class TestOffload:
    """By a device that every machine has: models are brought in before they compute, and taken back at the end."""

    @pytest.fixture
    def brought_in(self, monkeypatch):
        names, before = [], CpuOffload.pre_forward

        def pre_forward(hook, module, *args, **kwargs):
            names.append(type(module).__name__)
            return before(hook, module, *args, **kwargs)

        monkeypatch.setattr(CpuOffload, "pre_forward", pre_forward)
        return names

    @pytest.mark.slow
    def test_records_are_the_same(self, tiny_run, pipe, brought_in):
        offloaded = DiffLMPipeline.from_pretrained(tiny_run)
        offloaded.enable_model_cpu_offload(device="cpu")
        table = pipe(50, generator=seeded(), output_type="pandas").records
        assert not brought_in
        pd.testing.assert_frame_equal(offloaded(50, generator=seeded(), output_type="pandas").records, table)
        assert {"DiffLMDenoiser", "DiffLMModel"} <= {*brought_in}
        given = make_table().head(50)
        gaps = given.assign(color=None)
        for call in (
            lambda of: of.impute(gaps, generator=seeded()),
            lambda of: of.log_prob(given, 2, generator=seeded()),
        ):
            brought_in.clear()
            found, expected = call(offloaded), call(pipe)
            assert "DiffLMModel" in brought_in
            np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))

    def test_texts(self, writer, brought_in):
        offloaded = make_pipeline()
        offloaded.enable_model_cpu_offload(device="cpu")
        assert offloaded(3, generator=seeded()).texts == writer(3, generator=seeded()).texts
        assert "DiffusionLMModel" in brought_in
