import json
import math

import pytest
from scipy.stats import ks_2samp

from difflm_hf.evaluation import evaluate_json, evaluate_tools


TEXT = {"type": "string", "description": "A text."}
NUMBER = {"type": "integer", "description": "A number."}


def make_tool(name, description, properties=None, **fields):
    return {
        "name": name,
        "description": description,
        "parameters": {"type": "object", "properties": properties or {}, **fields},
    }


def make_schema(**fields):
    return {"name": "f", "description": "Does it.", "parameters": fields}


RECIPE = make_tool("get_recipe", "Fetch the recipe of a dish.", {"dish": TEXT}, required=["dish"])
WEATHER = make_tool("weather.now", "Tells the weather of a city.", {"city": TEXT, "days": NUMBER})
ROOTS = make_tool(
    "solveQuadratic", "Find both roots of a quadratic equation.", {"a": NUMBER, "b": NUMBER, "c": NUMBER}
)
TRAIN = [RECIPE, WEATHER, ROOTS]


def test_train_against_itself_is_perfect():
    scores = evaluate_tools(TRAIN, TRAIN, TRAIN)
    perfect = ["schema_valid", "required_declared", "described", "name_valid", "type_similarity", "coverage"]
    perfect += ["num_parameters_similarity", "duplicates", "parse_rate", "coverage_real", "duplicates_holdout"]
    assert {name: scores[name] for name in perfect} == dict.fromkeys(perfect, 1)
    assert (scores["novelty"], scores["novelty_holdout"]) == (0, 0)
    assert all(type(score) is float for score in scores.values())
    json.dumps(scores)


def test_it_has_what_evaluate_json_measures():
    synthetic = [json.dumps(RECIPE), '{"name": "', make_tool("new", "Is new.", {"x": TEXT})]
    scores = evaluate_tools(synthetic, TRAIN, seed=3)
    expected = evaluate_json(synthetic, TRAIN, key="name", seed=3)
    assert {name: scores[name] for name in expected} == expected
    assert (scores["parse_rate"], scores["novelty"]) == (2 / 3, 1 / 2)
    assert not [name for name in scores if name.startswith("coverage") or name.endswith("_holdout")]


@pytest.mark.parametrize(
    "parameters, valid",
    [
        ({"type": "object"}, True),
        ({"type": "object", "properties": {"a": {"type": ["string", "null"], "enum": ["x", None]}}}, True),
        ({"type": "dict", "properties": {}}, False),
        ({"properties": {}}, False),
        ({"type": "array", "items": {}}, False),
        ({"type": "object", "properties": {"a": {"type": "String"}}}, False),
        ({"type": "object", "properties": {"a": {"items": {"type": "any"}}}}, False),
        ({"type": "object", "properties": ["a"]}, False),
        ({"type": "object", "required": "a"}, False),
        ({"type": "object", "required": ["a", "a"]}, False),
        ({"type": "object", "minProperties": -1}, False),
        ([], False),
        (None, False),
    ],
)
def test_schema_valid(parameters, valid):
    assert evaluate_tools([{"name": "f", "parameters": parameters}], TRAIN)["schema_valid"] == valid


@pytest.mark.parametrize(
    "fields, declared",
    [
        ({"properties": {"a": TEXT, "b": TEXT}, "required": ["b"]}, True),
        ({"properties": {"a": TEXT}}, True),
        ({}, True),
        ({"properties": {"a": TEXT}, "required": ["a", "b"]}, False),
        ({"required": ["a"]}, False),
        ({"properties": {"a": TEXT}, "required": "a"}, False),
        ({"properties": {"a": TEXT}, "required": [["a"], {}]}, False),
    ],
)
def test_required_declared(fields, declared):
    assert evaluate_tools([make_schema(**fields)], TRAIN)["required_declared"] == declared


def test_described_is_a_share_of_parameters():
    properties = {"a": TEXT, "b": {"type": "string"}, "c": {"description": " "}, "d": {"description": 1}, "e": True}
    assert evaluate_tools([make_schema(properties=properties), RECIPE], TRAIN)["described"] == 2 / 6
    assert evaluate_tools(TRAIN, [make_schema(properties=properties)])["described_real"] == 1 / 5
    assert math.isnan(evaluate_tools([make_schema()], TRAIN)["described"])


@pytest.mark.parametrize(
    "name, valid",
    [
        *[("get_recipe", True), ("a.B.c1", True), ("größe", True)],
        *[("", False), ("a..b", False), (".a", False), ("1a", False), ("a b", False), ("a-b", False), (None, False)],
    ],
)
def test_name_valid(name, valid):
    assert evaluate_tools([{**RECIPE, "name": name}], TRAIN)["name_valid"] == valid


def test_type_similarity_by_hand():
    # Half of the real parameters are strings and a third integers; of the generated ones a quarter and a half.
    real = [make_schema(properties={"a": TEXT, "b": TEXT, "c": TEXT, "d": NUMBER, "e": NUMBER, "f": {}})]
    synthetic = [make_schema(properties={"a": TEXT, "b": NUMBER}), make_schema(properties={"c": NUMBER, "d": []})]
    distance = (abs(1 / 2 - 1 / 4) + abs(1 / 3 - 1 / 2) + abs(1 / 6 - 1 / 4)) / 2
    assert evaluate_tools(synthetic, real)["type_similarity"] == pytest.approx(1 - distance)
    other = [make_schema(properties={"a": {"type": ["string", "null"]}})]
    assert evaluate_tools(other, real)["type_similarity"] == 0
    assert math.isnan(evaluate_tools([make_schema()], real)["type_similarity"])


def test_num_parameters_similarity_is_that_of_scipy():
    synthetic = [make_schema(), RECIPE, RECIPE, ROOTS]
    statistic = ks_2samp([0, 1, 1, 3], [1, 2, 3]).statistic
    assert evaluate_tools(synthetic, TRAIN)["num_parameters_similarity"] == pytest.approx(1 - statistic)


def test_duplicates_are_compared_by_words():
    same_words = {**RECIPE, "name": "GetRecipe", "parameters": {"type": "object", "properties": {"x": NUMBER}}}
    related = {**RECIPE, "description": "Fetch all recipes with one ingredient."}
    scores = evaluate_tools([same_words, related, WEATHER], TRAIN, [ROOTS, related])
    assert scores["duplicates"] == 2 / 3
    assert scores["duplicates_holdout"] == 1 / 2
    assert scores["novelty_holdout"] == 0
    assert evaluate_tools([{"name": "_"}, {}], TRAIN)["duplicates"] == 0


def test_coverage_needs_a_near_neighbour():
    unseen = [
        make_tool("recipes.fetch_recipe", "Fetch the recipe of a dish by its name."),
        make_tool("play_song", "Plays music."),
        make_tool("roots.quadratic", "Roots of a quadratic equation."),
    ]
    assert evaluate_tools(TRAIN, [*TRAIN], unseen)["coverage"] == 2 / 3
    scores = evaluate_tools([RECIPE] * 3, TRAIN, unseen)
    assert (scores["coverage"], scores["coverage_real"]) == (1 / 3, 2 / 3)


def test_coverage_compares_equally_many():
    topics = ["music", "weather", "recipes", "trains", "chess", "taxes", "stars", "birds"]
    train = [make_tool(f"search_{topic}", f"Finds {topic}.") for topic in topics]
    scores = [evaluate_tools(train[:2], train, train, seed=seed) for seed in range(5)]
    assert [score["coverage_real"] for score in scores] == [2 / 8] * 5
    swapped = [evaluate_tools(train, train[:2], train, seed=seed) for seed in range(5)]
    assert [score["coverage"] for score in swapped] == [2 / 8] * 5


def test_nothing_parses():
    scores = evaluate_tools(["{", "[]"], TRAIN, TRAIN)
    assert scores["parse_rate"] == 0
    names = ["schema_valid", "type_similarity", "num_parameters_similarity", "duplicates", "coverage", "novelty"]
    assert all(math.isnan(scores[name]) for name in names)
    assert (scores["schema_valid_real"], scores["duplicates_holdout"]) == (1, 1)


def test_deep_parameters_are_no_error():
    deep = {"type": "string"}
    for _ in range(300):
        deep = {"type": "array", "items": deep}
    assert evaluate_tools([make_schema(type="object", properties={"a": deep})], TRAIN)["described"] == 0


@pytest.mark.parametrize(
    "arguments, cls, message",
    [
        (([], TRAIN), ValueError, "`synthetic` is empty"),
        ((TRAIN, ["{"]), ValueError, r"`train\[0\]` does not parse"),
        ((TRAIN, [{"title": "f"}]), ValueError, "no record of `train` has the key 'name'"),
        ((TRAIN, TRAIN, [RECIPE, "{"]), ValueError, r"`real\[1\]` does not parse"),
        ((TRAIN, TRAIN, []), ValueError, "`real` is empty"),
        ((TRAIN, TRAIN, [1]), TypeError, r"`real\[0\]` is of type int"),
    ],
)
def test_mistakes_are_named(arguments, cls, message):
    with pytest.raises(cls, match=message):
        evaluate_tools(*arguments)
