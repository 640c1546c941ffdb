"""
Attacks on the arguments of the methods of a pipeline.

A case ends well where it gives as many records as are asked for, and valid ones, or one clear error that this package
raised itself: what torch, pandas and others say of their own arguments is none. What a function of the caller raises
reaches the caller. What is asked for by the million may take its time, in little memory, until it is interrupted. For
what is too rare, fewer draws are made than `docs/control.md` says.
"""

from __future__ import annotations

import dis
import inspect
import itertools
import math
import os
import random
import reprlib
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pandas as pd
import torch

import difflm_hf
from difflm_hf import DiffLMPipeline
from difflm_hf.blocks import write_shards
from difflm_hf.control import Between, Contains, Guide, Matches, Not, StartsWith, documents, resampling
from difflm_hf.control.predicates import AllOf


Run = Callable[[Path], tuple[str, str]]  # in a new folder: how a case ends, and what is said

PACKAGE, CLIENT = (Path(package.__file__).parent for package in (difflm_hf, huggingface_hub))
MANY = 10**6  # from here on, it may take long
PATIENCE = 2  # seconds until what takes long is interrupted
MAX_MESSAGE = 1000
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 100
LONG = "long " * 20_000
VALUES = (
    *(None, "x", "", -1, 0, 1, 2, 0.5, 10**12, math.nan, math.inf, -math.inf, 2**63, 10**400, True, [], {}, (), b"x"),
    *(set(), object(), [1, 2], {"x": 1}, "\ud800", LONG, 1j, Decimal("0.5"), pd.NA, pd.NaT, range(3)),
    *(np.float32("nan"), np.int64(3), np.array([1.0, math.nan]), np.zeros((2, 0)), pd.DataFrame(), pd.Series([1])),
    *(torch.zeros(3), torch.full((2, 4), math.nan), torch.ones(2, 4, dtype=torch.long), torch.tensor(1)),
)
SCALARS = (
    *("red", "x", "", 30, -1, 2.5, math.nan, math.inf, 10**400, 2**63, True, None, pd.NA, pd.NaT, b"x", "\ud800"),
    *(LONG, "2020-05-05", "2001-02-11", pd.Timestamp("2020-05-05"), pd.Timestamp("2020-05-05", tz="UTC"), 1j),
    *(datetime(2020, 5, 5), timedelta(1), np.datetime64("2020-05-05"), np.datetime64("nat"), np.float16(30), int),
    *(np.str_("red"), np.bool_(True), np.int8(3), Decimal("30"), object(), pd.Period("2020-05"), pd.Interval(1, 2)),
)


class Raised(Exception):
    """By a function of the caller."""


def fail(*args: Any) -> None:
    raise Raised("by a function of the caller")


SCORES = {
    "bools": lambda rows: [True] * len(rows),
    "numbers": lambda rows: np.linspace(-1, 1, len(rows)),
    "halves": lambda rows: np.arange(len(rows)) % 2 == 0,
    "none": lambda rows: [False] * len(rows),
    "nan": lambda rows: [math.nan] * len(rows),
    "huge": lambda rows: [1e308 * (-1) ** k for k in range(len(rows))],
    "few": lambda rows: [True],
    "ragged": lambda rows: [[1], [1, 2]],
    "texts": lambda rows: ["x"] * len(rows),
    "objects": lambda rows: [None] * len(rows),
    "nothing": lambda rows: None,
    "tensor": lambda rows: torch.zeros(len(rows), requires_grad=True),
    "iterator": lambda rows: iter([True] * len(rows)),
    "dict": lambda rows: {k: True for k in range(len(rows))},
    "nullable": lambda rows: pd.Series([True, None] * len(rows), dtype="boolean")[: len(rows)],
    "fails": fail,
}
CALLBACKS = {
    "nothing": lambda pipe, step, timestep, shown: None,
    "same": lambda pipe, step, timestep, shown: shown,
    "twice": lambda pipe, step, timestep, shown: {"latents": 2 * shown["latents"]},
    "integers": lambda pipe, step, timestep, shown: {"latents": shown["latents"].long()},
    "complex": lambda pipe, step, timestep, shown: {"latents": shown["latents"] * 1j},
    "nan": lambda pipe, step, timestep, shown: {"latents": shown["latents"] * math.nan},
    "in place": lambda pipe, step, timestep, shown: (shown["latents"].fill_(math.nan), None)[1],
    "fewer": lambda pipe, step, timestep, shown: {"latents": shown["latents"][:1]},
    "text": lambda pipe, step, timestep, shown: "rubbish",
    "number": lambda pipe, step, timestep, shown: 1,
    "list": lambda pipe, step, timestep, shown: [shown["latents"]],
    "tensor": lambda pipe, step, timestep, shown: shown["latents"],
    "no latents": lambda pipe, step, timestep, shown: {"latents": None},
    "fails": fail,
}
GUIDES = {
    "sum": Guide(lambda z: z.sum(1)),
    "nan": Guide(lambda z: z.sum(1) * math.nan),
    "huge": Guide(lambda z: z.sum(1) * 1e30),
    "shape": Guide(lambda z: z),
    "constant": Guide(lambda z: torch.zeros(len(z))),
    "no tensor": Guide(lambda z: 1.0),
    "integers": Guide(lambda z: z.sum(1).long()),
    "complex": Guide(lambda z: z.sum(1) * 1j),
    "noisy": Guide(lambda z, t: z.sum(1), noisy=True),
    "fails": Guide(fail),
}
TOKENS = (
    *("==", "!=", "<", ">=", "in", "not in", "and", "or", "not", "&", "|", "~", "+", "-", "*", "/", "//", "%", "**"),
    *("(", ")", "[", "]", "{", "}", ",", ":", ".", ":=", "=", "@", "`", "'", '"', "\\", "#", "\n", "\0", "if", "else"),
    *("None", "True", "nan", "1", "30", "-1", "0", "1e999", "1j", "'red'", '"x"', "'2020-05-05'", "b'x'", "f'{x}'"),
    *(
        "len",
        "lambda",
        "__class__",
        "x",
        "`x y`",
        "\ud800",
        "日",
        "['red', 'blue']",
        "(1, 2)",
        "9" * 5000,
        "*x",
        "...",
    ),
)


def names_of(pipe: DiffLMPipeline) -> list[Any]:
    names = pipe.processor.schema.names
    return [*names, *names, "inner.level", "inner", "x", "", LONG, 3, None, ("a", "b"), b"x", "a\ud800"]


def draw_where(pipe: DiffLMPipeline, rng: random.Random) -> str:
    names = [*pipe.processor.schema.names, "`inner.level`"]

    def comparison() -> str:
        literal = rng.choice(
            ["30", "'red'", "None", "True", "['red', 'x']", "1e999", "'2020-05-05'", rng.choice(names)]
        )
        return f"{rng.choice(names)} {rng.choice(['==', '!=', '<', '>=', 'in', 'not in'])} {literal}"

    way = rng.randrange(6)
    if way == 0:
        return comparison()
    if way == 1:
        return f" {rng.choice(['and', 'or', '&', '+', ','])} ".join(comparison() for _ in range(rng.randrange(2, 5)))
    if way == 2:
        depth = rng.choice([5, 90, 250, 10_000])
        before, after = rng.choice([("(", ")"), ("not ", ""), ("~", ""), ("-", ""), ("[", "]")])
        return before * depth + comparison() + after * depth
    if way == 3:
        return rng.choice([" or ", " + ", " < ", " and not "]).join([comparison()] * rng.choice([50, 500]))
    words = [*names, *TOKENS] if way == 4 else [*names, *TOKENS[:24]]
    return " ".join(rng.choice(words) for _ in range(rng.randrange(1, 9)))


def draw_condition(pipe: DiffLMPipeline, rng: random.Random, depth: int = 0) -> Any:
    def part() -> Any:
        return draw_condition(pipe, rng, depth + 1)

    way = rng.randrange(14) if depth < 3 else 0
    if way < 5:
        return rng.choice(SCALARS)
    if way == 5:
        return rng.choice(VALUES)
    if way == 6:
        return rng.choice([list, tuple, np.array, pd.Series, iter])([rng.choice(SCALARS) for _ in range(2)])
    if way == 7:
        with suppress(ValueError):
            return Between(rng.choice(SCALARS), rng.choice(SCALARS), rng.choice(["both", "left", "neither"]))
    if way == 8:
        return rng.choice([StartsWith, Contains])(rng.choice(SCALARS))
    if way == 9:
        schemas = (
            {"minItems": 1},
            {"type": "x"},
            {"pattern": "("},
            {"$ref": "#/x"},
            True,
            "x",
            {"not": {}},
            {"enum": 1},
        )
        return Matches(rng.choice(schemas))
    if way == 10:
        nested = part()
        for _ in range(rng.choice([1, 2000])):
            nested = [nested]
        return nested
    if way == 11:
        return {rng.choice(names_of(pipe)): part()}
    return Not(part()) if way == 12 else AllOf((part(), part()))


def draw_conditions(pipe: DiffLMPipeline, rng: random.Random) -> Any:
    def of_one() -> dict:
        return {rng.choice(names_of(pipe)): draw_condition(pipe, rng) for _ in range(rng.randrange(1, 3))}

    way = rng.randrange(6)
    if way < 3:
        return of_one()
    if way == 3:
        return [of_one() if rng.random() < 0.8 else rng.choice(VALUES) for _ in range(rng.randrange(1, 4))]
    return draw_table(pipe, rng)


def draw_table(pipe: DiffLMPipeline, rng: random.Random) -> Any:
    """Records of the pipeline, of which a few things were changed."""
    table = pipe.examples.sample(rng.randrange(1, 5), random_state=rng.randrange(2**32)).reset_index(drop=True)
    for _ in range(rng.choice([0, 1, 1, 2])):
        name, way = rng.choice(list(table)), rng.randrange(13)
        if way == 0:
            table = table.drop(columns=name)
        elif way == 1:
            table = table.assign(**{"x": rng.choice(SCALARS)})
        elif way == 2:
            table = pd.concat([table, table[[name]]], axis=1)
        elif way == 3:
            table = table.iloc[:0]
        elif way in (4, 5):
            values = [rng.choice(SCALARS) for _ in range(len(table))]
            table = (
                table.assign(**{name: pd.Series(values, dtype=object, index=table.index)})
                if isinstance(name, str)
                else table
            )
        elif way == 6:
            table[name] = None
        elif way == 7:
            with suppress(TypeError, ValueError, OverflowError):
                table = table.astype({name: rng.choice(["category", "string", "object", "float32", "Int64", "bytes"])})
        elif way == 8:
            table = table.rename(columns={name: rng.choice(names_of(pipe))})
        elif way == 9:
            table.columns = pd.MultiIndex.from_product([["a"], range(table.shape[1])])
        elif way == 10:
            table.index = rng.choice([[0] * len(table), pd.MultiIndex.from_product([["a"], range(len(table))])])
        elif way == 11:
            table = pd.DataFrame(table.astype(object).where(table.notna(), np.nan))
        else:
            return rng.choice(
                [table.to_dict("records"), table.to_dict(), table.get(name), table.to_numpy(), "x.csv", "."]
            )
        if table.empty or not table.columns.is_unique or not all(isinstance(name, str) for name in table):
            break
    return table


def draw_balance(pipe: DiffLMPipeline, rng: random.Random) -> Any:
    shares = ({"red": 0.5, "blue": 0.5}, {True: 1.0}, {"red": 2}, {"red": math.nan}, {}, {"x": 1}, [0.5], {LONG: 1})
    return rng.choice([*names_of(pipe), *({rng.choice(names_of(pipe)): of} for of in shares)])


def draw_record(pipe: DiffLMPipeline, rng: random.Random) -> Any:
    record = pipe.examples.iloc[rng.randrange(len(pipe.examples))].to_dict()
    record[rng.choice(names_of(pipe))] = rng.choice(SCALARS)
    return record


def one_of(*values: Any) -> Callable:
    return lambda pipe, rng: rng.choice(values)


SEED = torch.Generator().manual_seed(1)
ODD: dict[str, Callable[[DiffLMPipeline, random.Random], Any]] = {
    "conditions": draw_conditions,
    "where": draw_where,
    "balance": draw_balance,
    "table": draw_table,
    "records": draw_table,
    "first": draw_record,
    "second": draw_record,
    "score": one_of(*SCORES.values()),
    "callback_on_step_end": one_of(*CALLBACKS.values()),
    "guides": lambda pipe, rng: [rng.choice(list(GUIDES.values()))] * rng.randrange(1, 3),
    "generator": one_of(SEED, 0, np.random.default_rng(0), random.Random(0), [SEED], "cpu"),
    "target": lambda pipe, rng: rng.choice(names_of(pipe)),
    "output_type": one_of("dict", "pandas", "dataset", "text", "pt", "Dict"),
    "aggregate": one_of("draw", "mean", "median"),
    "output_dir": one_of(".", "/dev/null", "/dev/null/x", "x" * 300, "a\0b", Path("new"), Path("x/y")),
    "num_records": one_of(1, 3, 70, np.int64(3), 10**12, 10**30),
    "num_inference_steps": one_of(1, 2, 3, 200, np.int8(3)),
    "temperature": one_of(0, 0.5, 1e-30, 1e300, np.float32(1)),
    "top_p": one_of(0.5, 1e-30, 1),
    "batch_size": one_of(1, 5, 10**9, np.int64(4)),
    "guidance_scale": one_of(0, -3, 1000, 1e-300, np.float64(2)),
    "strength": one_of(0, 0.3, 1, np.float32(0.5)),
    "num_imputations": one_of(1, 2),
    "num_latents": one_of(1, 2),
    "first_block": one_of(0, 1, 10**6, 2**62),
    "seed": one_of(0, 1, 2**63, 2**64, -1),
}


def draw_calls(folder: Path, rng: random.Random) -> Iterator[tuple[str, Run]]:
    """Calls of the methods of a pipeline without end, with one to three odd arguments each."""
    documents.MAX_TRIES, resampling.MAX_REDRAWS = 16, 16
    pipe = DiffLMPipeline.from_pretrained(folder, block_size=64)
    pipe.set_progress_bar_config(disable=True)
    pipe.examples = pipe(12, generator=SEED, output_type="pandas").records
    record = pipe.examples.iloc[0].to_dict()
    num, table = {"num_records": 12, "num_inference_steps": 2}, {"table": pipe.examples, "num_inference_steps": 2}
    methods: dict[str, tuple[Callable, dict[str, Any]]] = {
        "call": (pipe, num),
        "stream": (lambda **given: itertools.islice(pipe.stream(**given), 3), num),
        "impute": (pipe.impute, table),
        "predict": (pipe.predict, {**table, "target": rng.choice(pipe.processor.schema.names), "num_latents": 2}),
        "log_prob": (pipe.log_prob, {"records": pipe.examples, "num_latents": 2}),
        "vary": (pipe.vary, {"records": pipe.examples, "num_inference_steps": 2}),
        "interpolate": (pipe.interpolate, {"first": record, "second": record}),
        "write_shards": (partial(write_shards, pipe), {**num, "output_dir": Path("shards")}),
    }
    of_call = [name for name in inspect.signature(pipe.__call__).parameters if name != "return_dict"]
    names = {name: list(inspect.signature(method).parameters) for name, (method, _) in methods.items()}
    names |= {"call": of_call, "stream": [name for name in of_call if name != "output_type"]}
    names["stream"].append("first_block")
    names["write_shards"] += ["conditions", "where", "score", "guidance_scale", "balance"]
    weights = [10, 3, 4, 2, 2, 2, 2, 2]
    while True:
        [name] = rng.choices(list(methods), weights)
        method, given = methods[name]
        odd = {}
        for argument in rng.sample(names[name], min(rng.choice([1, 1, 2, 3]), len(names[name]))):
            if argument in ("args", "kwargs", "pipe"):
                continue
            draw = ODD.get(argument) if rng.random() < 0.65 else None
            odd[argument] = rng.choice(VALUES) if draw is None else draw(pipe, rng)
        written = ", ".join(f"{argument}={shown(value)}" for argument, value in odd.items())
        yield f"{name}({written})", partial(call, pipe, name, method, {**given, **odd})


def shown(value: Any) -> str:
    for named in (SCORES, CALLBACKS, GUIDES):
        for name, function in named.items():
            if function is value or (isinstance(value, list) and any(function is part for part in value)):
                return f"<{name}>"
    with suppress(Exception):
        return " ".join(SHORT.repr(value).split())
    return type(value).__name__


def call(pipe: DiffLMPipeline, name: str, method: Callable, given: dict[str, Any], folder: Path) -> tuple[str, str]:
    os.chdir(folder)
    is_long = any(isinstance(value, (int, np.integer)) and value >= MANY for value in given.values())
    if is_long:
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.alarm(PATIENCE)
    try:
        found = method(**given)
        return look(pipe, name, given, [*found] if name == "stream" else found)
    except KeyboardInterrupt:
        return "interrupted", ""
    except Exception as error:
        return judge(error)


def look(pipe: DiffLMPipeline, name: str, given: dict[str, Any], found: Any) -> tuple[str, str]:
    """Whether what a method gave is what was asked for."""
    schema = pipe.processor.schema
    num, rows = given.get("num_records"), given.get("conditions")
    num = num or (len(rows) if isinstance(rows, (list, tuple, pd.DataFrame)) else 1)
    if name == "call":
        found = found[0] if isinstance(found, tuple) else found.records
        is_valid = not isinstance(found, pd.DataFrame) or all(f.allows(found[f.name]).all() for f in schema)
        return ("records", "") if is_valid and len(found) == num else ("invalid", str(found))
    if name in ("impute", "predict", "log_prob", "vary"):
        table = given["table" if name in ("impute", "predict") else "records"]
        is_whole = all(len(part) == len(table) for part in (found if isinstance(found, list) else [found]))
        return ("records", "") if is_whole else ("invalid", str(found))
    if name == "interpolate":
        return ("records", "") if len(found) == given.get("num_records", 5) else ("invalid", str(found))
    return "records", ""


def judge(error: BaseException) -> tuple[str, str]:
    """Whether an error is one that the caller can do something with."""
    written = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, Raised):
        return "error", written
    if not isinstance(error, (TypeError, ValueError, OSError, RuntimeError, ImportError)) or not str(error):
        return "traceback", where_of(error) + written
    if len(str(error)) > MAX_MESSAGE:
        return "unclear", where_of(error) + written[:200]
    return ("error", written) if is_own(error) else ("foreign", where_of(error) + written)


def is_own(error: BaseException) -> bool:
    """Whether it comes from a `raise` of this package, or of the client of the Hub, which says what to do."""
    cause = error.__cause__
    if cause is not None and str(error).startswith("column ") and str(error).endswith(f": {cause}"):
        return is_own(cause)
    *_, (frame, last) = ((tb.tb_frame, tb.tb_lasti) for tb in tracebacks(error))
    opcode = dis.opname[frame.f_code.co_code[last]]
    return opcode == "RAISE_VARARGS" and not {PACKAGE, CLIENT}.isdisjoint(Path(frame.f_code.co_filename).parents)


def tracebacks(error: BaseException) -> Iterator[Any]:
    tb = error.__traceback__
    while tb is not None:
        yield tb
        tb = tb.tb_next


def where_of(error: BaseException) -> str:
    """The last place in this package that an error came through."""
    own = [tb for tb in tracebacks(error) if PACKAGE in Path(tb.tb_frame.f_code.co_filename).parents]
    if not own:
        return ""
    return f"{Path(own[-1].tb_frame.f_code.co_filename).relative_to(PACKAGE)}:{own[-1].tb_lineno} "
