"""The commented configuration that a new user starts from, made from the schema's own descriptions."""

from __future__ import annotations

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from glacierhpc.config.messages import default_text, section_models
from glacierhpc.config.schema import Config

EXAMPLES = {
    "name": "my-glacier",
    "bbox_lonlat": "[77.488, 31.993, 77.821, 32.225]",
    "start": "2018-01-01",
    "end": "2023-12-31",
    "catalogue": "https://planetarycomputer.microsoft.com/api/stac/v1",
    "collections": "[landsat-c2-l2]",
}
"""What stands for the keys that have no default."""

WIDTH = 110
HEAD = """\
# A configuration of glacierhpc: an area, a period, a task. Keys without "required" may be left out.
# Check it: glacierhpc config check THIS.yaml      Run it: glacierhpc run THIS.yaml
# Any key can be replaced on the command line: glacierhpc run THIS.yaml align.motion=affine
"""


def template() -> str:
    """Return a complete, commented YAML configuration that loads as it is."""
    sections = section_models()
    lines = [HEAD]
    lines += [_line(name, field) for name, field in Config.model_fields.items() if name not in sections]
    for name, model in sections.items():
        lines += ["", *_section(name, model)]
    return "\n".join(lines) + "\n"


def _section(name: str, model: type[BaseModel]) -> list[str]:
    first = (model.__doc__ or "").splitlines()[0]
    return [f"# {first}", f"{name}:", *(_line(key, field, "  ") for key, field in model.model_fields.items())]


def _line(key: str, field: FieldInfo, indent: str = "") -> str:
    """Return a key with its default or example; the comment goes above where the line would be too long."""
    value = EXAMPLES[key] if field.is_required() else default_text(field)
    comment = f"# {'required: ' if field.is_required() else ''}{field.description}"
    line = f"{indent}{key}: {value}"
    together = f"{line:<34}  {comment}"
    return together if len(together) <= WIDTH else f"{indent}{comment}\n{line}"
