from .compact_codec import CompactCodec
from .field import Field
from .json_codec import JSONCodec
from .readers import read_table, write_table
from .schema import RecordSchema
from .text_codec import TextCodec


__all__ = ["CompactCodec", "Field", "JSONCodec", "RecordSchema", "TextCodec", "read_table", "write_table"]
