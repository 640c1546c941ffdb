"""What JSON Schemas accept: the fast way says what the slow one does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difflm_hf.records.nested import infer_json_schema, kind_of
from difflm_hf.records.validators import acceptor_of, is_valid, make_validator


SCALARS = st.one_of(
    *(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.sampled_from([0, 1, 1.0, 0.1, -0.0, 1e300, "", "é😀"]),
    ),
    *(st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=4)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*"abc"]), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=2 * settings().max_examples)
@given(seen=st.lists(VALUES, min_size=1, max_size=4), others=st.lists(VALUES, max_size=4), bounds=st.booleans())
def test_as_jsonschema(seen, others, bounds):
    def of_scalars(values: list) -> dict:
        kind = kind_of(values[0])
        if bounds and kind in ("integer", "number"):
            return {"type": "number", "minimum": min(values), "maximum": max(values)}
        return {"type": kind, "enum": values} if kind in ("string", "boolean") else {"type": "number"}

    schema = infer_json_schema(seen, of_scalars)
    accepts, validator = acceptor_of(schema), make_validator(schema)
    for value in [*seen, *others]:
        assert accepts(value) == is_valid(validator, value)


@pytest.mark.parametrize("value", ["\ud800", {"a": "\udfff"}])
def test_half_a_character(value):
    assert acceptor_of({"type": ["string", "object"]})(value)


def test_what_only_one_knows_is_left_to_it():
    assert not acceptor_of({"items": {"pattern": "^a$"}})(["b"])
    assert not acceptor_of({"$ref": "#/$defs/x", "$defs": {"x": {"type": "null"}}})(1)
    assert not acceptor_of({"uniqueItems": True})([1, 1])
