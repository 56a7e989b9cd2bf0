"""Chat formats: how each model family writes a conversation down, and how its output is read back.

Pure text: nothing here needs a tokenizer, torch or a template engine.
"""

from ._base import ChatFormat, Option, ParsedMessage, Segment, UnparsedCall
from ._registry import FORMATS, detect_format, get_format, list_formats

__all__ = [
    "FORMATS",
    "ChatFormat",
    "Option",
    "ParsedMessage",
    "Segment",
    "UnparsedCall",
    "detect_format",
    "get_format",
    "list_formats",
]
