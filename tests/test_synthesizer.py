"""scikit-learn's face: fit, sample, impute, save, load, and what scikit-learn asks of estimators."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks
from tiny import make_table, seeded

from difflm_hf import DiffLMSynthesizer, PrivacyArguments
from difflm_hf.records import Field, RecordSchema
from difflm_hf.training import RECIPES, DataArguments


TINY = RECIPES["tiny"]
BRIEF = replace(TINY, vae=TINY.vae | {"max_steps": 4}, denoiser=TINY.denoiser | {"max_steps": 4})


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return make_table(200)[["age", "price", "color", "size"]]


@pytest.fixture(scope="module")
def synthesizer(table) -> DiffLMSynthesizer:
    return DiffLMSynthesizer(BRIEF, random_state=0).fit(table)


def test_sample(synthesizer, table):
    records = synthesizer.sample(40)
    assert records.columns.tolist() == table.columns.tolist() and len(records) == 40
    pd.testing.assert_frame_equal(synthesizer.sample(40), records)  # an integer gives the same each time
    assert (synthesizer.sample(20, conditions={"color": "red"})["color"] == "red").all()
    assert (synthesizer.sample(20, where="age < 40")["age"] < 40).all()
    assert len(synthesizer.sample(conditions=[{"color": "red"}, {"color": "blue"}])) == 2


def test_impute(synthesizer, table):
    gaps = table.assign(color=table["color"].where(table.index % 2 == 0))
    filled = synthesizer.impute(gaps)
    assert filled["color"].notna().all()
    pd.testing.assert_frame_equal(filled.where(gaps.notna()), gaps, check_dtype=False)
    assert len(synthesizer.impute(gaps, num_imputations=2)) == 2


def test_save_and_load(synthesizer, tmp_path):
    synthesizer.save(tmp_path / "model")
    loaded = DiffLMSynthesizer.load(tmp_path / "model", random_state=0)
    pd.testing.assert_frame_equal(loaded.sample(10), synthesizer.sample(10))


@pytest.fixture(scope="module")
def array_synthesizer(table) -> tuple[DiffLMSynthesizer, np.ndarray]:
    array = table[["age", "price"]].to_numpy(np.float64)
    return DiffLMSynthesizer(BRIEF, random_state=np.random.RandomState(0)).fit(array), array


def test_arrays(array_synthesizer):
    synthesizer, array = array_synthesizer
    assert synthesizer.n_features_in_ == 2
    records = synthesizer.sample(30)
    assert isinstance(records, np.ndarray) and records.shape == (30, 2)
    assert not np.array_equal(synthesizer.sample(30), records)  # a generator goes on
    array = array.copy()
    array[::3, 1] = np.nan
    filled = synthesizer.impute(array)
    assert filled.shape == array.shape and np.array_equal(filled[:, 0], array[:, 0])


def test_arrays_stay_arrays_when_saved(array_synthesizer, tmp_path):
    synthesizer, array = array_synthesizer
    gaps = array.copy()
    gaps[::3, 1] = np.nan
    synthesizer.save(tmp_path / "model")
    loaded = DiffLMSynthesizer.load(tmp_path / "model", random_state=0)
    assert loaded.n_features_in_ == 2 and not hasattr(loaded, "feature_names_in_")
    for of in (synthesizer, loaded):
        assert isinstance(of.sample(3), np.ndarray)
        draws = of.impute(gaps, num_imputations=2)
        assert len(draws) == 2 and all(isinstance(draw, np.ndarray) and draw.shape == gaps.shape for draw in draws)


def test_generators_take_the_place_of_the_random_state(synthesizer, table):
    gaps = table.assign(color=None)
    for call in (partial(synthesizer.sample, 30), partial(synthesizer.impute, gaps)):
        own, given = call(), call(generator=seeded(7))
        assert not own.equals(given)
        pd.testing.assert_frame_equal(call(generator=seeded(7)), given)
    for argument in ({"output_type": "dict"}, {"return_dict": False}):
        with pytest.raises(TypeError, match=f"^leave out {[*argument][0]}: records come as fit got them"):
            synthesizer.sample(2, **argument)


def test_columns_in_another_order(synthesizer, table, tmp_path):
    synthesizer.save(tmp_path / "model")
    loaded = DiffLMSynthesizer.load(tmp_path / "model", random_state=0)
    assert loaded.n_features_in_ == synthesizer.n_features_in_ == 4
    assert loaded.feature_names_in_.tolist() == synthesizer.feature_names_in_.tolist() == table.columns.tolist()
    gaps = table[table.columns[::-1]].assign(color=None)
    for of in (synthesizer, loaded):
        assert of.impute(gaps).columns.tolist() == gaps.columns.tolist()
        with pytest.raises(ValueError, match="feature names should match"):
            of.impute(gaps.drop(columns="age"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a"], "column name 'a' stands more than once; rename or drop one of them"),
        ([0, "b"], "column name 0 is not a non-empty string; rename it"),
    ],
)
def test_names_of_columns(names, message):
    with pytest.raises(ValueError, match=message):
        DiffLMSynthesizer(BRIEF).fit(pd.DataFrame([[1, 2], [3, 4]], columns=names))


def test_arguments_reach_the_training(table):
    synthesizer = DiffLMSynthesizer(BRIEF, data_args=DataArguments(categorical=["age"]), random_state=0)
    assert clone(synthesizer).get_params()["data_args"] == synthesizer.data_args
    assert synthesizer.fit(table).pipeline_.processor.schema["age"].type == "category"


def test_errors(synthesizer, table, tmp_path):
    for call in (lambda s: s.sample(3), lambda s: s.impute(table), lambda s: s.save(tmp_path / "x")):
        with pytest.raises(NotFittedError):
            call(DiffLMSynthesizer())
    with pytest.raises(ValueError, match="feature names should match"):
        synthesizer.impute(table.rename(columns={"age": "years"}))
    with pytest.raises(OSError):
        DiffLMSynthesizer.load(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is a file; name a folder"):
        synthesizer.save(tmp_path / "file")


@pytest.mark.slow
@parametrize_with_checks([DiffLMSynthesizer(BRIEF, random_state=0)])
def test_estimator_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
def test_private_training():
    pytest.importorskip("opacus")
    schema = RecordSchema([Field("n", "integer", dtype="int64", minimum=0, maximum=9)])
    rows = pd.DataFrame({"n": np.random.default_rng(0).integers(0, 10, 300)})
    synthesizer = DiffLMSynthesizer(schema=schema, privacy_args=PrivacyArguments(8.0), max_minutes=0.3).fit(rows)
    assert 0 < synthesizer.pipeline_.config.training["privacy"]["spent_epsilon"] <= 8
    assert len(synthesizer.sample(5)) == 5
