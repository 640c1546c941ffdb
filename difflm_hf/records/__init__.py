from .codec import RecordCodec
from .compact_codec import CompactCodec
from .csv_format import CSVFormat
from .equations import ProductOf, SumOf
from .field import Field
from .identifiers import Identifier
from .json_codec import JSONCodec
from .nested_codec import NestedCodec
from .readers import read_table, write_table
from .rules import Ascending, Combinations, PresentIf, Rule, Unique
from .schema import RecordSchema
from .text_codec import TextCodec


# By the names that saved processors have for them.
CODECS: dict[str, type[RecordCodec]] = {
    codec.name: codec for codec in (CompactCodec, NestedCodec, JSONCodec, TextCodec)
}

__all__ = [
    "CODECS",
    "Ascending",
    "CSVFormat",
    "Combinations",
    "CompactCodec",
    "Field",
    "Identifier",
    "JSONCodec",
    "NestedCodec",
    "PresentIf",
    "ProductOf",
    "RecordCodec",
    "RecordSchema",
    "Rule",
    "SumOf",
    "TextCodec",
    "Unique",
    "read_table",
    "write_table",
]
