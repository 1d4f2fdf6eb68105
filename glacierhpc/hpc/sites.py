"""Site profiles: YAML files laid over each other, and where each value comes from; what they may say is in `site`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from glacierhpc.errors import InputError, nearest_name, unknown_name
from glacierhpc.hpc.site import Site

HERE = Path(__file__).resolve().parents[1]
FOLDERS = (HERE.parent / "configs" / "sites", HERE / "config" / "presets" / "sites")
"""In a clone, and once installed."""
IMAGE = "GLACIERHPC_IMAGE"
"""The variable by which a job is told its image."""


@dataclass(frozen=True)
class Profile:
    """A site with the source of every value that is not a default."""

    name: str
    site: Site
    sources: Mapping[str, str]
    """Dotted key to the file or option that gave its value."""
    values: Mapping[str, Any]
    """What was given, defaults left out: makes an equal site again."""

    def source(self, key: str) -> str:
        """Return where a value comes from."""
        inside = [source for given, source in self.sources.items() if given.startswith(key + ".")]
        return self.sources.get(key) or ", ".join(dict.fromkeys(inside)) or "default"


def site_names() -> list[str]:
    """Return the names of the profiles that come with the package."""
    return sorted({path.stem for folder in FOLDERS for path in folder.glob("*.yaml")})


def user_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where a user keeps values for all sites: ``~/.config/glacierhpc/site.yaml``."""
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", "~"), ".config")
    return Path(home).expanduser() / "glacierhpc" / "site.yaml"


def load_site(
    name: str = "generic",
    settings: Sequence[str] = (),
    *,
    user: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Profile:
    """Return a site: the defaults, under its profile, the user's file, the environment's image, and single settings.

    Parameters
    ----------
    name : str
        Name of a profile that comes with the package, or path of a YAML file.
    settings : sequence of str
        ``key=value`` or ``jobs.train.nodes=2``; the value is YAML.
    user : path, optional
        The user's file; by default `user_file`, if there is one.

    Raises
    ------
    InputError
        If the profile does not exist, or a value cannot be; names the file, the key, and what is valid.
    """
    user = user_file(environ) if user is None else user
    path = _profile_path(name)
    layers = [(str(path), _read(path))]
    if user.is_file():
        layers.append((str(user), _read(user)))
    if image := environ.get(IMAGE):
        layers.append((f"{IMAGE} of the environment", {"image": image}))
    layers += [(f"--set {text}", _setting(text)) for text in settings]
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, layer in layers:
        _check(layer, source)
        values = _laid_over(values, layer)
        sources |= dict.fromkeys(_leaves(layer), source)
    return Profile(path.stem, Site.model_validate(values), sources, values)


def site_again(name: str, values: Mapping[str, Any], settings: Sequence[str] = ()) -> Profile:
    """Return a site of values that were kept, with single settings laid over them."""
    values = dict(values)
    for text in settings:
        _check(_setting(text), f"--set {text}")
        values = _laid_over(values, _setting(text))
    try:
        return Profile(name, Site.model_validate(values), {}, values)
    except ValidationError as err:  # kept by another version of this program
        faults = (_sentence(error, f"site {name}") for error in err.errors(include_url=False))
        raise InputError("\n".join(faults)) from err


def value_of(profile: Profile, key: str) -> Any:
    """Return a value by its dotted key.

    Raises
    ------
    InputError
        If there is no such key.
    """
    found: Any = profile.site
    for part in key.split("."):
        names = _keys(found)
        if part not in names:
            raise unknown_name("key of a site", key, names)
        found = found[part] if isinstance(found, Mapping) else getattr(found, part)
    return found.model_dump(mode="json") if isinstance(found, BaseModel) else found


def _keys(value: Any) -> list[str]:
    if isinstance(value, BaseModel):
        return list(type(value).model_fields)
    return [str(key) for key in value] if isinstance(value, Mapping) else []


def _profile_path(name: str) -> Path:
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        if not Path(name).is_file():
            raise InputError(
                f"site file {name!r} does not exist; write one, or a known site: {', '.join(site_names())}"
            )
        return Path(name)
    for folder in FOLDERS:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    raise unknown_name("site", name, site_names())


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise InputError(f"{path} cannot be read as YAML: {err}; write key: value lines") from err
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(
            f"{path} holds {type(values).__name__}, not keys; write for instance: account: project_1"
        )
    return values


def _setting(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise InputError(f"--set {text!r} is not KEY=VALUE; write for instance: --set account=project_1")
    try:
        found: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        found = value  # an account such as "a: b" is text
    for part in reversed(key.split(".")):
        found = {part: found}
    return dict(found)


def _check(layer: Mapping[str, Any], source: str) -> None:
    """Refuse a layer by itself, so that the fault is told with the file it stands in."""
    try:
        Site.model_validate(layer)
    except ValidationError as err:
        raise InputError(
            "\n".join(_sentence(error, source) for error in err.errors(include_url=False))
        ) from err


def _sentence(error: Mapping[str, Any], source: str) -> str:
    key = ".".join(str(part) for part in error["loc"] if part != "[key]")
    if error["type"] == "extra_forbidden":
        *parents, last = [str(part) for part in error["loc"]]
        nearest = nearest_name(last, _keys(_inside(parents)))
        hint = f"; did you mean {nearest!r}?" if nearest else ""
        return f"{source}: key {key!r} is not known{hint}"
    reason = error["msg"].removeprefix("Value error, ").replace("Input should be", "it must be", 1)
    return f"{source}: {key}: {error['input']!r} cannot be used, {reason[:1].lower()}{reason[1:]}"


def _inside(parents: Sequence[str]) -> Any:
    found: Any = Site()
    for part in parents:
        found = getattr(found, part, None)
    return found


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(values.get(key), dict)
        values[key] = _laid_over(values[key], value) if both else value
    return values


def _leaves(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        found += (
            _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [f"{prefix}{key}"]
        )
    return found
