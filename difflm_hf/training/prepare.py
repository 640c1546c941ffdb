"""Records → schema → processor → the tensors that training takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..batches import TensorDataset
from ..latents import to_dataset
from ..processing_difflm import DiffLMProcessor, is_of_rows
from ..records import NestedCodec, RecordSchema, read_table
from ..records.csv_files import alike
from ..records.readers import OPTIONAL
from ..records.report import check_doubts, describe
from ..records.streams import STREAM_RECORDS, is_stream, sample_records
from ..records.top_coding import top_code
from .arguments import DataArguments


MIN_VALIDATION = 128  # records, where a sample is learnt from

logger = logging.get_logger(__name__)


@dataclass
class PreparedRecords:
    """
    What [`prepare_records`] makes of data.

    Args:
        processor ([`DiffLMProcessor`]): Fitted to all records.
        table (`pandas.DataFrame`): All records, in the order in which they were given.
        train, validation ([`TensorDataset`]):
            The two parts, encoded; the same one where nothing is left to hold out, and none to validate private
            training by.
        num_validation (`int`): Records that are held out.
        num_dropped (`int`): Records that were left out, as they were too long.
        num_given (`int`): Records that the data have, of which `table` may be a sample.
    """

    processor: DiffLMProcessor
    table: pd.DataFrame
    train: TensorDataset
    validation: TensorDataset | None
    num_validation: int
    num_dropped: int
    num_given: int

    def longest(self, name: str) -> int:
        """Columns of the longest record in a tensor of that name."""
        return max(part.tensors[name].shape[1] for part in (self.train, self.validation))

    def sample(self, num_records: int, seed: int) -> None:
        """Leaves so many records to learn from, and a tenth as many, 128 at least, to validate by."""
        is_one_part = self.validation is self.train
        self.train = _drawn(self.train, num_records, seed)
        if is_one_part:
            self.validation = self.train
        elif self.validation is not None:
            self.validation = _drawn(self.validation, max(MIN_VALIDATION, num_records // 10), seed)
            self.num_validation = len(self.validation)


def prepare_records(
    data: Any,
    validation: Any = None,
    schema: RecordSchema | None = None,
    args: DataArguments | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    encoder_tokenizer: PreTrainedTokenizerBase | None = None,
    seed: int = 0,
) -> PreparedRecords:
    """
    Reads records, fits a processor to them, leaves out those that are not to be learnt from, and encodes the others.

    Schema and codec are fitted to training and validation records together, so that both can be encoded.

    Args:
        data, validation, schema, seed: Those of [`train`].
        args ([`DataArguments`], *optional*): How to take the records.
        tokenizer, encoder_tokenizer (`PreTrainedTokenizerBase`, *optional*): Those of pretrained LMs.

    Raises:
        `ValueError`: for records that cannot be learnt from. The message names column and value.
    """
    args = DataArguments() if args is None else args
    table, num_given = _read(data, args.max_records, seed)
    table, order, num_train = _split(table, validation, seed)
    is_inferred = schema is None
    if is_inferred:
        schema = RecordSchema.infer(table, args.categorical, find_rules=args.find_rules)
        if not schema.is_of_documents:
            logger.info(describe(schema, table))
        check_doubts(schema, table, (*args.accept, *args.categorical), args.strict)
    elif args.categorical or args.find_rules:
        raise ValueError("categorical and find_rules are for inference; put them into the schema that is given")
    table = schema.conform(table)
    check_rules(schema, table)
    drops_overlong = args.overlong == "drop"
    settings = {
        "tokenizer": tokenizer,
        "encoder_tokenizer": encoder_tokenizer,
        "max_length": args.max_length,
        "min_token_count": args.min_category_count,
        "key_order": args.key_order,
        "drop_overlong": drops_overlong,
        "nested": args.nested,
    }
    num_rare, num_dropped = 0, 0
    while True:
        kept = np.ones(len(table), bool)
        if args.min_category_count > 1:
            schema, table = top_code(schema, table, args.min_category_count, keep_bounds=not is_inferred)
            schema, kept = schema.without_rare_categories(table, args.min_category_count)
            if tokenizer is None and is_of_rows(schema, table[kept], args.nested, args.key_order):
                nested = [f.name for f in schema if f.type == "json"]
                kept[kept] = NestedCodec.with_common_values(table.loc[kept, nested], args.min_category_count)
                if 2 * kept.sum() < len(table):
                    raise ValueError(
                        f"{int((~kept).sum())} of {len(table)} records have strings or lengths of lists that fewer "
                        f"than {args.min_category_count} records have; drop columns, or lower min_category_count"
                    )
            num_rare += int((~kept).sum())
        if kept.all():
            processor = DiffLMProcessor.from_records(table, schema, **settings)
            if drops_overlong:
                kept = ~processor.too_long(table)
                num_dropped += int((~kept).sum())
        if kept.all():
            break
        # Anew, as nothing of what is left out is to be learnt: neither its words nor its bounds.
        table, order, num_train = _keep(kept, table, order, num_train)
        if len(table) == 0:
            raise ValueError(f"no record takes at most max_length={args.max_length} tokens; raise it")
        schema = _narrowed(schema, table) if is_inferred else schema
    if num_rare:
        logger.warning(f"{num_rare} records have categories of fewer than {args.min_category_count}, and are left out")
    if num_dropped:
        logger.warning(f"{num_dropped} records take more than {args.max_length} tokens, and are left out")
    if num_train == 0 and validation is not None:
        raise ValueError("all records but those for validation are left out; raise max_length, or give more")
    num_train = num_train or len(order)
    _ = processor.grammar  # says what it cannot do before hours of training
    if all(f.type == "null" or f.name in schema.identifiers for f in schema):
        raise ValueError("no column has anything to learn: all are empty, or identifiers; give one with values")
    # Encoded in the order in which they were given, which errors tell.
    encoded = to_dataset(processor, table)
    is_split = num_train < len(order)  # else nothing is left to hold out
    parts = (order[:num_train], order[num_train:]) if is_split else (order, order)
    train, held_out = (TensorDataset(**encoded[torch.from_numpy(part)]) for part in parts)
    return PreparedRecords(processor, table, train, held_out, len(order) - num_train, num_dropped, num_given)


def _read(data: Any, max_records: int | None, seed: int) -> tuple[pd.DataFrame, int]:
    """The records to learn from, and of how many they are."""
    if max_records is None and not is_stream(data):
        table = read_table(data)
        return table, len(table)
    table, num_given = sample_records(data, max_records or STREAM_RECORDS, seed)
    if num_given > len(table):
        logger.warning(
            f"{len(table)} of {num_given} records are learnt from: a sample, and those with a value, or with a "
            "number, that no record before had"
        )
    return table, num_given


def check_rules(schema: RecordSchema, table: pd.DataFrame) -> None:
    """Raises a `ValueError` for a rule that records break."""
    found = schema.check_rules(table)
    if (broken := found[found["num_broken"] > 0]).empty:
        return
    rule, num_broken, row = broken.iloc[0]
    raise ValueError(
        f"{num_broken} of {len(table)} records break the rule {rule}, the first of them in row {int(row)}: "
        f"{table.iloc[int(row)].to_dict()}; drop these, or leave out the rule"
    )


def _split(table: pd.DataFrame, validation: Any, seed: int) -> tuple[pd.DataFrame, np.ndarray, int]:
    """All records, the order to take them in, and how many of those are for training; the others are held out."""
    if validation is None and len(table) != 1:
        order = np.random.default_rng(seed).permutation(len(table))
        size = min(2000, max(1, len(table) // 10))
        return table, np.roll(order, -size), len(table) - size
    validation = table if validation is None else read_table(validation)  # of a single record, that record
    for name, part in (("table", table), ("validation table", validation)):
        if len(part) == 0:
            raise ValueError(f"the {name} has no rows")
    odd = sorted(map(str, set(table.columns) ^ set(validation.columns)))
    if odd and OPTIONAL in table.attrs and OPTIONAL in validation.attrs:
        # Objects of JSON may lack keys, and all of a part may lack the same one.
        table, validation = (
            part.assign(**{name: None for name in odd if name not in part}) for part in (table, validation)
        )
        table.attrs[OPTIONAL] = [*table.attrs[OPTIONAL], *odd]
    elif odd:
        raise ValueError(f"column {odd[0]!r} is in only one of data and validation; both need the same columns")
    both = pd.concat(alike(table, validation), ignore_index=True)
    both.attrs |= {key: value for key, value in table.attrs.items() if key != OPTIONAL}
    both.attrs[OPTIONAL] = sorted({name for part in (table, validation) for name in part.attrs.get(OPTIONAL, ())})
    return both, np.arange(len(both)), len(table)


def _drawn(records: TensorDataset, most: int, seed: int) -> TensorDataset:
    """At most so many records, drawn at random."""
    if len(records) <= most:
        return records
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))
    return TensorDataset(**records[order[:most]])


def _keep(
    mask: np.ndarray, table: pd.DataFrame, order: np.ndarray, num_train: int
) -> tuple[pd.DataFrame, np.ndarray, int]:
    """What [`_split`] returns, of some of the records."""
    is_kept = mask[order]
    positions = np.cumsum(mask) - 1
    return table[mask], positions[order[is_kept]], int(is_kept[:num_train].sum())


def _narrowed(schema: RecordSchema, table: pd.DataFrame) -> RecordSchema:
    """A schema that was inferred, with the bounds of what is left of the records: they tell of these, too."""
    # A dtype lists categories that no record has any longer.
    used = {name: table[name].cat.remove_unused_categories() for name in table.select_dtypes("category")}
    left = RecordSchema.infer(table.assign(**used), [f.name for f in schema if f.type == "category"])
    fields = [left[f.name] if left[f.name].type == f.type else f for f in schema]
    return RecordSchema(fields, schema.rules, schema.csv)
