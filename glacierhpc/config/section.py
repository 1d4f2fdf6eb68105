"""What every section of a configuration is; which sections there are is said in `schema` and `learning`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

OPERATIONAL: dict[str, Any] = {"operational": True}
"""Marks a field that says how the work is run, not what comes out: it is left out of the configuration hash."""


class Section(BaseModel):
    """A part of the configuration: immutable, and refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())
