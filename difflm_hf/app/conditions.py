"""What a visitor asks of a column: the fields to fill in for it, and the condition that these say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
import pandas as pd
from gradio.components import Component

from ..control import Between
from ..records import Field, RecordSchema
from ..records.number_format import number_format


MAX_CHOICES = 1_000  # of a column that are listed
MISSING = "missing"


def names_with_conditions(schema: RecordSchema) -> list[str]:
    """The columns whose values can be chosen here."""
    return [f.name for f in schema if (f.is_numeric or _choices(f)) and f.name not in schema.identifiers]


def _choices(f: Field) -> list[Any]:
    """The values that are listed one by one."""
    values = {"category": f.categories, "boolean": [False, True]}.get(f.type) or []
    return values[:MAX_CHOICES] if f.is_numeric or not values else [*values[:MAX_CHOICES], *[None] * f.nullable]


def _ends(f: Field) -> list[str]:
    """The smallest and the largest number, as a visitor would write them."""
    if f.type != "datetime":
        return [
            f"{end:g}" if isinstance(end, float) else str(end) for end in (f.minimum, f.maximum) if end is not None
        ]
    moments = pd.Series(f.bounds)
    return (f.write(moments) if f.is_spelled else moments.astype(str)).tolist()


def condition_inputs(f: Field) -> list[Component]:
    """The fields to fill in, of which [`read_condition`] takes the values."""
    if not f.is_numeric:
        choices = [(MISSING if value is None else str(value), k) for k, value in enumerate(_choices(f))]
        more = len(f.categories or []) - MAX_CHOICES
        info = f"Any of those that you choose. {more:,} more can be named by an expression." if more > 0 else None
        return [gr.Dropdown(choices, multiselect=True, label=f.name, info=info, key=f"{f.name}-choices")]
    low, high = _ends(f) or ["", ""]
    with gr.Row(elem_classes="range"):
        inputs = [
            gr.Textbox(label=label, placeholder=end, key=f"{f.name}-{k}", min_width=100, max_lines=1)
            for k, (label, end) in enumerate([(f"{f.name} from", low), ("to", high)])
        ]
    if f.apart:
        words = [MISSING if word is None else word for word in f.apart]
        inputs.append(gr.CheckboxGroup(words, label=f"or {f.name} is", key=f"{f.name}-apart"))
    return inputs


def read_conditions(schema: RecordSchema, names: Sequence[str], values: Sequence[Any]) -> dict[str, list[Any]]:
    """
    The conditions that the fields of several columns say, for a call of the pipeline.

    Args:
        schema ([`RecordSchema`]): That of the records.
        names (`Sequence[str]`): The columns.
        values (`Sequence`): What the fields of [`condition_inputs`] have, one column after the other.
    """
    left, found = list(values), {}
    for name in names:
        f = schema[name]
        size = 1 if not f.is_numeric else 2 + bool(f.apart)
        given, left = left[:size], left[size:]
        if (condition := read_condition(f, given)) is not None:
            found[name] = condition
    return found


def read_condition(f: Field, values: Sequence[Any]) -> list[Any] | None:
    """
    The condition that filled-in fields say; `None` where they are empty.

    Raises:
        `ValueError`: for a bound that is no number. The message names the column.
    """
    if not f.is_numeric:
        choices = _choices(f)
        return [choices[k] for k in values[0]] or None
    low, high = (_bound(f, text) for text in values[:2])
    apart = [None if word == MISSING else word for word in (values[2] if len(values) > 2 else [])]
    return [*([] if low is high is None else [Between(low, high)]), *apart] or None


def _bound(f: Field, text: str | None) -> Any:
    text = (text or "").strip()
    if not text:
        return None
    if f.type == "datetime":
        return text
    if f.format is not None and number_format(f.format).point == "," and "," in text:
        text = text.replace(".", "").replace(",", ".")
    try:
        return float(text) if f.type == "number" or not text.lstrip("+-").isdecimal() else int(text)
    except ValueError:
        raise ValueError(f"column {f.name!r}: {text!r} is no number; write it like {_ends(f)[0]}") from None
