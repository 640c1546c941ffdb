"""Differentially private training: clipping, noise, the accounting of ε, and what is read off the records."""

import dataclasses
import json
import math
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from tiny import RECIPES
from torch import nn

from difflm_hf import (
    DataArguments,
    DiffLMDenoiser,
    DiffLMPipeline,
    DiffLMProcessor,
    ModelArguments,
    PrivacyArguments,
    train,
)
from difflm_hf.hub.cards import model_card
from difflm_hf.modeling_difflm import kl_of_posterior
from difflm_hf.privacy.budget import PrivacyBudget
from difflm_hf.privacy.clipping import WeightUses
from difflm_hf.privacy.marginals import measure_marginals, num_histograms, private_schema, table_of
from difflm_hf.records import Field, Identifier, RecordSchema
from difflm_hf.training import TensorDataset
from difflm_hf.training.build import build_row_model
from difflm_hf.training.private import PoissonBatches, private_moments


pytest.importorskip("opacus")

TINY = RECIPES["tiny"]
RECIPE = dataclasses.replace(TINY, condition_size=0, min_steps=8, denoiser={**TINY.denoiser, "max_steps": 8})
SCHEMA = RecordSchema(
    [
        Field("age", "integer", dtype="int64", minimum=0, maximum=99),
        Field("income", "integer", dtype="int64", minimum=0, maximum=1_000_000),
        Field("price", "number", nullable=True, dtype="float64", minimum=0.0, maximum=100.0, decimals=2),
        Field("day", "datetime", dtype="datetime64[us]", minimum="2020-01-01", maximum="2029-12-31"),
        Field("city", "category", categories=["Bonn", "Linz", "Oslo", "Riga"]),
        Field("member", "boolean", dtype="bool"),
    ]
)


def make_rows(num: int, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    price = pd.Series(random.uniform(0, 100, num).round(2))
    return pd.DataFrame(
        {
            "age": random.integers(18, 80, num),
            "income": np.where(random.random(num) < 0.6, 0, random.integers(0, 200_000, num)),
            "price": price.where(random.random(num) < 0.8),
            "day": pd.Timestamp("2021-01-01") + pd.to_timedelta(random.integers(0, 1000, num), unit="D"),
            "city": random.choice(["Bonn", "Linz", "Oslo"], num, p=[0.6, 0.3, 0.1]),
            "member": random.random(num) < 0.3,
        }
    )


def norms_in_a_loop(model, loss_of, num: int) -> list[dict[str, torch.Tensor]]:
    gradients = []
    for k in range(num):
        model.zero_grad()
        loss_of(slice(k, k + 1)).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    model.zero_grad()
    return gradients


def check_clipping(model, loss_of, num: int, head=None) -> None:
    each = norms_in_a_loop(model, loss_of, num)
    norms = torch.stack([torch.stack([g.norm() for g in of_record.values()]).norm() for of_record in each])
    max_norm = norms.median().item()
    with WeightUses(model, head) as uses:
        losses = loss_of(slice(None))
    torch.testing.assert_close(uses.backward(losses, max_norm), norms, rtol=1e-4, atol=1e-5)
    for name, parameter in model.named_parameters():
        scales = (max_norm / norms).clamp(max=1)
        clipped = [scale * of_record[name] for scale, of_record in zip(scales, each) if name in of_record]
        torch.testing.assert_close(parameter.grad, sum(clipped), rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def rows():
    return make_rows(400)


@pytest.fixture(scope="module")
def run(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("private") / "model"
    return train(rows, folder, schema=SCHEMA, recipe=RECIPE, privacy_args=PrivacyArguments(4.0, 1e-4)), folder


def test_gradients_of_rows_are_clipped_as_in_a_loop(rows):
    torch.manual_seed(0)
    processor = DiffLMProcessor.from_records(rows, SCHEMA)
    ids = processor(rows.head(12))["input_ids"]
    vae = build_row_model(processor, RECIPE).eval()  # which drops no tokens

    def loss_of(part):
        mean, logvar = vae.encode(ids[part])
        nll = vae.decoder.negative_log_likelihood(ids[part], mean)
        return nll + kl_of_posterior(mean, logvar).clamp(min=0.5).sum(1)

    check_clipping(vae, loss_of, len(ids), vae.decoder.get_output_embeddings())


def test_gradients_of_a_denoiser_are_clipped_as_in_a_loop():
    torch.manual_seed(0)
    denoiser = DiffLMDenoiser(latent_size=4, width=16, num_layers=2)
    nn.init.normal_(denoiser.proj_out.weight)
    latents, sigmas = torch.randn(9, 4), torch.rand(9)
    check_clipping(denoiser, lambda part: denoiser(latents[part], sigmas[part]).square().sum(1), 9)


def test_gradients_of_ids_that_a_record_has_twice():
    torch.manual_seed(0)
    embedding, ids = nn.Embedding(5, 3), torch.tensor([[0, 1, 1, 4], [2, 2, 2, 2], [0, 1, 2, 3]])
    weights = torch.randn(3, 4, 3)
    check_clipping(embedding, lambda part: (embedding(ids[part]) * weights[part]).sum((1, 2)), 3)


def test_what_cannot_be_clipped_is_refused():
    model = DiffLMDenoiser(latent_size=4, architecture="transformer", width=16, num_layers=1, num_heads=2)
    with pytest.raises(NotImplementedError, match="private training"), WeightUses(model):
        model(torch.randn(3, 4), torch.rand(3))


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 8.0])
def test_noise_of_one_sum_is_that_of_the_analytic_gaussian_mechanism(epsilon):
    """Balle and Wang, arXiv 1805.06530, theorem 8."""
    budget = PrivacyBudget(epsilon, 1e-5)
    sigma = budget.noise_multiplier(1.0, 1.0, 1)
    delta_of = lambda e: norm.cdf(0.5 / sigma - e * sigma) - math.exp(e) * norm.cdf(-0.5 / sigma - e * sigma)  # noqa: E731
    assert delta_of(epsilon) <= 1e-5
    assert delta_of(0.96 * epsilon) > 1e-5


def test_budget_is_used_up_and_no_more():
    budget = PrivacyBudget(2.0, 1e-5)
    for share, rate, num in ((0.2, 1.0, 1), (0.8, 0.02, 300), (1.0, 0.05, 200)):
        budget.spend(budget.noise_multiplier(share, rate, num), rate, num)
        assert 0.95 * share * 2.0 <= budget.spent_epsilon <= share * 2.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epsilon", "steps"),
    [
        pytest.param(epsilon, steps, marks=[] if (epsilon, steps) == (8.0, (0.001, 5)) else pytest.mark.slow)
        for epsilon in (8.0, 0.5, 30.0)
        for steps in ((64 / 1500, 24), (0.2, 3), (0.9, 2), (0.001, 5))
    ],
)
def test_no_steps_take_more_than_their_share(epsilon, steps):
    budget = PrivacyBudget(epsilon, 1e-4)
    for share, of_part in ((0.15, (1.0, 1)), (0.85, steps), (0.87, (1.0, 1)), (1.0, steps)):
        budget.spend(budget.noise_multiplier(share, *of_part), *of_part)
        assert budget.spent_epsilon <= share * epsilon


def test_more_steps_take_more_noise():
    budget = PrivacyBudget(1.0, 1e-5)
    few, many, rare = (budget.noise_multiplier(1.0, *steps) for steps in ((0.02, 100), (0.02, 400), (0.01, 100)))
    assert rare < few < many


def test_marginals_without_noise_are_counts():
    table = SCHEMA.conform(make_rows(5_000))
    marginals = measure_marginals(SCHEMA, table, 0.0)
    for f in SCHEMA:
        m = marginals[f.name]
        assert m.counts.sum() + m.apart.sum() == pytest.approx(len(table))
        assert (m.starts[1:] == m.stops[:-1]).all()
    ages = marginals["age"]
    for start, stop, count in zip(ages.starts, ages.stops, ages.counts):
        assert count == pytest.approx(table["age"].between(start, stop - 1).sum())
    assert marginals["price"].apart.tolist() == [table["price"].isna().sum()]
    zero = marginals["income"]
    assert (zero.starts[0], zero.stops[0]) == (0, 1)  # heavy values are cells by themselves
    assert zero.counts[0] == (table["income"] == 0).sum()


def test_noise_of_counts_is_that_of_all_counts_of_a_record():
    schema = RecordSchema([SCHEMA[name] for name in ("age", "city")])
    table = schema.conform(make_rows(300)[schema.names])
    found = [measure_marginals(schema, table, 3.0)["city"].counts[0] for _ in range(400)]
    expected = 3.0 * num_histograms(schema) ** 0.5
    assert np.std(found) == pytest.approx(expected, rel=0.15)
    assert np.mean(found) == pytest.approx((table["city"] == "Bonn").sum(), abs=4 * expected / 20)


def test_a_stand_in_has_the_marginals_and_takes_all_that_the_schema_allows():
    table = SCHEMA.conform(make_rows(20_000))
    stand_in = table_of(SCHEMA, measure_marginals(SCHEMA, table, 1.0), len(table))
    assert stand_in.drop(columns="day").dtypes.equals(table.drop(columns="day").dtypes)
    assert SCHEMA.conform(stand_in).equals(stand_in)
    for name in ("age", "income", "price"):
        quantiles = [0.1, 0.3, 0.5, 0.7, 0.9]
        spread = table[name].max() - table[name].min()
        assert np.abs(stand_in[name].quantile(quantiles) - table[name].quantile(quantiles)).max() < 0.05 * spread
        assert (stand_in[name].min(), stand_in[name].max()) == (SCHEMA[name].minimum, SCHEMA[name].maximum)
    assert stand_in["price"].isna().mean() == pytest.approx(0.2, abs=0.02)


@given(
    low=st.integers(-1000, 1000),
    size=st.integers(1, 10**6),
    seed=st.integers(0, 10**6),
    nullable=st.booleans(),
    noise=st.sampled_from([0.0, 1.0, 100.0]),
)
@settings(max_examples=30, deadline=None)
def test_any_column_of_integers(low, size, seed, nullable, noise):
    schema = RecordSchema([Field("n", "integer", nullable, dtype="Int64", minimum=low, maximum=low + size - 1)])
    random = np.random.default_rng(seed)
    numbers = pd.Series(random.integers(low, low + size, 50), dtype="Int64")
    table = schema.conform(pd.DataFrame({"n": numbers.mask(random.random(50) < 0.3) if nullable else numbers}))
    stand_in = table_of(schema, measure_marginals(schema, table, noise), 50)
    assert schema.conform(stand_in).equals(stand_in)


def test_batches_are_drawn_record_by_record():
    dataset = TensorDataset(record=torch.arange(200))
    batches = PoissonBatches(dataset, 0.1)
    drawn = [batch["record"] for _ in range(200) for batch in batches]
    assert len(batches) == 10
    sizes = torch.tensor([len(batch) for batch in drawn], dtype=torch.float64)
    assert sizes.mean() == pytest.approx(20, abs=0.5)
    assert sizes.var() == pytest.approx(200 * 0.1 * 0.9, rel=0.2)
    counts = torch.bincount(torch.cat(drawn), minlength=200)
    assert counts.double().mean() / len(drawn) == pytest.approx(0.1, abs=0.005)


def test_moments_of_latents():
    torch.manual_seed(0)
    means = 1 + torch.tensor([0.5, 1.0, 2.0]) * torch.randn(50_000, 3)
    latents = TensorDataset(mean=means, std=torch.full((50_000, 3), 0.3))
    budget = PrivacyBudget(8.0, 1e-6)
    mean, std = private_moments(latents, budget)
    torch.testing.assert_close(mean, torch.ones(3), atol=0.05, rtol=0)
    torch.testing.assert_close(std, torch.tensor([0.25 + 0.09, 1.09, 4.09]).sqrt(), atol=0.1, rtol=0)
    assert 0 < budget.spent_epsilon <= 8


@pytest.mark.slow
def test_training_spends_its_budget(run):
    pipe, folder = run
    privacy = pipe.config.training["privacy"]
    assert privacy["epsilon"] == 4.0 and privacy["delta"] == 1e-4
    assert 3.8 <= privacy["spent_epsilon"] <= 4.0
    for phase in pipe.config.training["phases"]:
        assert phase["privacy"]["num_steps"] == phase["num_steps"] == 8
        assert phase["metrics"] == {}
    assert DiffLMPipeline.from_pretrained(folder).processor.is_private


@pytest.mark.slow
def test_no_losses_are_kept(run):
    _, folder = run
    for path in (folder / "checkpoints").rglob("*.json"):
        assert "loss" not in path.read_text().replace("eval_loss", "").replace("prediction_loss_only", ""), path
    state = next((folder / "checkpoints").rglob("trainer_state.json"))
    assert all("epsilon" in log for log in json.loads(state.read_text())["log_history"])


@pytest.mark.slow
def test_records_keep_to_the_schema(run):
    pipe, _ = run
    table = pipe(300, generator=torch.Generator().manual_seed(0), output_type="pandas").records
    assert SCHEMA.conform(table).shape == (300, 6)


@pytest.mark.slow
def test_card(run):
    pipe, _ = run
    card = str(model_card(pipe))
    assert "(4, 0.0001)-differentially private" in card
    assert "was not differentially private" not in card
    assert "bounds of the schema" in card


@pytest.mark.slow
def test_model_may_be_published(run):
    run[0].processor.check_publishable()


@pytest.mark.slow
def test_noise_is_of_no_seed(rows, run, tmp_path):
    again = train(rows, tmp_path / "m", schema=SCHEMA, recipe=RECIPE, privacy_args=PrivacyArguments(4.0, 1e-4))
    weights = [pipe.vae.decoder.lm.lm_head.weight for pipe in (run[0], again)]
    assert weights[0].shape != weights[1].shape or not torch.equal(*weights)


@pytest.mark.slow
def test_a_private_run_goes_on(rows, run, tmp_path, monkeypatch):
    arguments = {"schema": SCHEMA, "recipe": RECIPE, "privacy_args": PrivacyArguments(4.0, 1e-4)}
    module = sys.modules["difflm_hf.training.train"]  # the package has a function of that name
    kept = module.fit_denoiser
    monkeypatch.setattr(module, "fit_denoiser", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(rows, tmp_path / "m", **arguments)
    monkeypatch.setattr(module, "fit_denoiser", kept)
    pipe = train(rows, tmp_path / "m", resume=True, **arguments)
    assert 3.8 <= pipe.config.training["privacy"]["spent_epsilon"] <= 4.0
    assert pipe.config.training["phases"][0]["num_steps"] == 8


def with_field(**changes):
    fields = [Field("text", "text") if f.name == "city" and "text" in changes else f for f in SCHEMA]
    if "text" not in changes:
        fields = [dataclasses.replace(f, **changes) if f.name == "price" else f for f in SCHEMA]
    return RecordSchema(fields)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schema": None}, "takes a schema"),
        ({"schema": with_field(text=True)}, "column 'text' is of texts"),
        ({"schema": with_field(minimum=None)}, "column 'price' has no minimum"),
        ({"schema": with_field(maximum=None)}, "column 'price' has no minimum or no maximum"),
        ({"schema": with_field(decimals=None)}, "column 'price' is a number without `decimals`"),
        ({"validation": make_rows(10)}, "selects nothing by validation"),
        ({"data_args": DataArguments(min_category_count=3)}, "min_category_count=3"),
        ({"data_args": DataArguments(find_rules=True)}, "find_rules=True"),
        ({"data_args": DataArguments(max_records=3)}, "max_records=3"),
        ({"recipe": RECIPES["tiny"]}, "condition_size=16"),
        ({"recipe": "base"}, "recipe='base' is not one of 'small'"),
        ({"model_args": ModelArguments(injection="kv_memory")}, "soft prompt"),
        ({"privacy_args": PrivacyArguments(4.0, 0.01)}, "delta=0.01 is more than 1/400"),
    ],
)
def test_what_private_training_does_not_take(arguments, message, rows, tmp_path):
    fields = {"schema": SCHEMA, "recipe": RECIPE, "privacy_args": PrivacyArguments(4.0, 1e-4)} | arguments
    with pytest.raises(ValueError, match=message):
        train(rows, tmp_path / "model", **fields)


@pytest.mark.parametrize("fields", [{"gradient_accumulation_steps": 2}, {"beta_schedule": "decreasing"}])
def test_what_private_trainers_do_not_take(fields, rows, tmp_path):
    recipe = dataclasses.replace(RECIPE, vae={**RECIPE.vae, **fields})
    with pytest.raises(ValueError, match=f"{next(iter(fields))}=.* does not go with private training"):
        train(rows, tmp_path / "m", schema=SCHEMA, recipe=recipe, privacy_args=PrivacyArguments(4.0, 1e-4))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilon": 0}, "epsilon=0"),
        ({"epsilon": float("nan")}, "epsilon=nan"),
        ({"epsilon": "8"}, "epsilon='8'"),
        ({"epsilon": 8.0, "delta": 1}, "delta=1"),
        ({"epsilon": 8.0, "max_grad_norm": 0}, "max_grad_norm=0"),
    ],
)
def test_bad_privacy_arguments(fields, message):
    with pytest.raises(ValueError, match=message):
        PrivacyArguments(**fields)


def test_values_outside_the_schema_name_the_column(rows, tmp_path):
    with pytest.raises(ValueError, match="column 'age'"):
        train(rows.assign(age=200), tmp_path / "m", schema=SCHEMA, privacy_args=PrivacyArguments(4.0, 1e-4))


def test_a_private_schema_forgets_how_rare_values_are():
    fields = [dataclasses.replace(f, rarest=1) if f.type == "category" else f for f in SCHEMA]
    assert private_schema(RecordSchema(fields))["city"].rarest is None
    schema = RecordSchema([*fields, Field("id", "text")], [Identifier("id", r"A-\d{4}")])
    assert private_schema(schema)["id"].type == "text"
