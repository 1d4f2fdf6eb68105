"""Sentences for what is wrong with a single field: what was given, why it cannot be, what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from glacierhpc.config.schema import Config
from glacierhpc.errors import nearest_name


def section_models() -> dict[str, type[BaseModel]]:
    """Return the sections of a configuration by name."""
    found = {name: _section_of(field.annotation) for name, field in Config.model_fields.items()}
    return {name: model for name, model in found.items() if model is not None}


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the model in the annotation of a section, which may be optional."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def sentence(error: Mapping[str, Any]) -> str:
    """Return the sentence for one error of pydantic's list."""
    key = tuple(error["loc"])
    name = ".".join(str(part) for part in key if isinstance(part, str))
    kind, given = error["type"], error["input"]
    if kind == "extra_forbidden":
        return _unknown_key(key)
    if kind == "missing":
        field = field_of(key)
        return f"{name} is missing; write {field.description}" if field else f"section {name} is missing"
    if kind == "model_type":
        return f"{name}: {given!r} is not a section; write its keys below it, indented"
    if kind == "tuple_type":
        return f"{name}: {given!r} is not a list; write [{given}]"
    if kind == "literal_error":
        return (
            f"{name}: {given!r} is not known{_nearest_choice(error, given)} Valid: {error['ctx']['expected']}"
        )
    reason = error["msg"].replace("Input should be", "it must be", 1).replace("Tuple should", "it must", 1)
    return f"{name}: {given!r} cannot be used, {reason[:1].lower()}{reason[1:]}; {_advice(key)}"


def field_of(key: tuple[str | int, ...]) -> FieldInfo | None:
    """Return the field a key names, or None for a section."""
    models = section_models()
    if key and key[0] in models:
        return models[str(key[0])].model_fields.get(str(key[1])) if len(key) > 1 else None
    return Config.model_fields.get(str(key[0])) if key else None


def default_text(field: FieldInfo) -> str:
    """Return a field's default as it is written in YAML."""
    return "null" if field.default is None else _flow(field.default)


def _flow(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return str(value)


def _advice(key: tuple[str | int, ...]) -> str:
    field = field_of(key)
    if field is None:
        return "see: glacierhpc config template"
    default = "" if field.is_required() else f" (default {default_text(field)})"
    return f"expected: {field.description}{default}"


def _nearest_choice(error: Mapping[str, Any], given: Any) -> str:
    nearest = nearest_name(
        str(given), error["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
    )
    return f"; did you mean {nearest!r}?" if nearest else "."


def _unknown_key(key: tuple[str | int, ...]) -> str:
    """Name the nearest key of the same section, else the same key in another one."""
    models = section_models()
    name = str(key[-1])
    siblings = list(models[str(key[0])].model_fields) if len(key) > 1 else list(Config.model_fields)
    elsewhere = [section for section, model in models.items() if name in model.model_fields]
    nearest = nearest_name(name, siblings)
    shown = ".".join(map(str, key))
    if nearest:
        prefix = f"{key[0]}." if len(key) > 1 else ""
        return f"{shown} is not a key; did you mean {prefix}{nearest}?"
    if elsewhere:
        return f"{shown} is not a key; did you mean {elsewhere[0]}.{name}?"
    where = f"of section {key[0]}" if len(key) > 1 else "at the top"
    return f"{shown} is not a key; keys {where}: {', '.join(siblings)}"


__all__ = ["default_text", "field_of", "section_models", "sentence"]
