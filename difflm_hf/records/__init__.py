from .compact_codec import CompactCodec
from .json_codec import JSONCodec
from .readers import read_table, write_table
from .schema import Field, RecordSchema
from .text_codec import TextCodec


__all__ = ["CompactCodec", "Field", "JSONCodec", "RecordSchema", "TextCodec", "read_table", "write_table"]
