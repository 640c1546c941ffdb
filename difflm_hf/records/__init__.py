from .codec import RecordCodec
from .compact_codec import CompactCodec
from .field import Field
from .json_codec import JSONCodec
from .readers import read_table, write_table
from .schema import RecordSchema
from .text_codec import TextCodec


# By the names that saved processors have for them.
CODECS: dict[str, type[RecordCodec]] = {codec.name: codec for codec in (CompactCodec, JSONCodec, TextCodec)}

__all__ = [
    "CODECS",
    "CompactCodec",
    "Field",
    "JSONCodec",
    "RecordCodec",
    "RecordSchema",
    "TextCodec",
    "read_table",
    "write_table",
]
