"""What a visitor asks of a column: the fields to fill in for it, and the condition that these say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
import pandas as pd
from gradio.blocks import Block
from gradio.components import Component

from ..control import Between
from ..records import Field, RecordSchema
from ..records.number_format import number_format


MAX_CHOICES = 1_000  # of a column that are listed
MISSING = "missing"
MAX_CONDITIONS = 8  # of one run; more go into an expression
EMPTY = ([], "", "", [])  # what the inputs of a column have at first


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


class ConditionFields:
    """
    The fields to fill in for one column. They are there from the start, and shown where there is a column for them.
    """

    def __init__(self):
        self.choices = gr.Dropdown([], multiselect=True, visible=False, interactive=True)
        with gr.Row(visible=False) as self.range:
            self.low, self.high = (gr.Textbox(min_width=100, max_lines=1, interactive=True) for _ in range(2))
        self.apart = gr.CheckboxGroup([], visible=False, interactive=True)

    @property
    def inputs(self) -> list[Component]:
        """Those of which [`read_condition`] takes the values."""
        return [self.choices, self.low, self.high, self.apart]

    @property
    def outputs(self) -> list[Block]:
        """All that [`ConditionFields.show`] changes."""
        return [*self.inputs, self.range]

    def show(self, f: Field | None, values: Sequence[Any] = ()) -> dict[Block, Block]:
        """
        What makes the fields those of a column, or hides them.

        Args:
            f ([`Field`], *optional*): The column; `None` for none.
            values (`Sequence`, *optional*): What was filled in for it; empty by default.
        """
        if f is None:
            return {part: type(part)(visible=False) for part in (self.choices, self.range, self.apart)}
        chosen, low, high, apart = values or EMPTY
        if not f.is_numeric:
            choices = [(MISSING if value is None else str(value), k) for k, value in enumerate(_choices(f))]
            more = len(f.categories or []) - MAX_CHOICES
            info = f"{more:,} more can be named by an expression." if more > 0 else "Any of those that you choose."
            return {
                self.choices: gr.Dropdown(choices, value=chosen, label=f.name, info=info, visible=True),
                self.range: gr.Row(visible=False),
                self.apart: gr.CheckboxGroup(visible=False),
            }
        ends, words = _ends(f) or ["", ""], [MISSING if word is None else word for word in f.apart]
        return {
            self.choices: gr.Dropdown(visible=False),
            self.range: gr.Row(visible=True),
            self.low: gr.Textbox(low, label=f"{f.name} from", placeholder=ends[0]),
            self.high: gr.Textbox(high, label="to", placeholder=ends[1]),
            self.apart: gr.CheckboxGroup(words, value=apart, label=f"or {f.name} is", visible=bool(words)),
        }


def split_values(values: Sequence[Any]) -> list[Sequence[Any]]:
    """What the inputs of several [`ConditionFields`] have, as the values of each."""
    return [values[k : k + len(EMPTY)] for k in range(0, len(values), len(EMPTY))]


def read_condition(f: Field, values: Sequence[Any]) -> list[Any] | None:
    """
    The condition that filled-in fields say; `None` where they are empty.

    Args:
        f ([`Field`]): The column.
        values (`Sequence`): What the inputs of [`ConditionFields`] have.

    Raises:
        `ValueError`: for a bound that is no number. The message names the column.
    """
    chosen, low, high, apart = values
    if not f.is_numeric:
        choices = _choices(f)
        return [choices[k] for k in chosen] or None
    low, high = _bound(f, low), _bound(f, high)
    words = [None if word == MISSING else word for word in apart] if f.apart else []
    return [*([] if low is high is None else [Between(low, high)]), *words] or None


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
