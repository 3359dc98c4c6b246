"""Plain data to YAML that reads the same under YAML 1.1 (kubectl) and 1.2: the counterpart of `reader`."""

import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

from .reader import ambiguous


def dump(data: Any) -> str:
    """One document. Text of several lines is written as a block, text that YAML 1.1 takes for more in quotes."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 4096
    out = io.StringIO()
    yaml.dump(_quoted(data), out)
    return out.getvalue()


def _quoted(value: Any) -> Any:
    if isinstance(value, dict):
        return {_quoted(key): _quoted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_quoted(item) for item in value]
    if isinstance(value, str):
        if "\n" in value and all(line.isprintable() for line in value.split("\n")):
            return LiteralScalarString(value)
        return DoubleQuotedScalarString(value) if ambiguous(value) or not value.isprintable() else value
    return value
