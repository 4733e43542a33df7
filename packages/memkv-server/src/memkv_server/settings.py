# SPDX-License-Identifier: Apache-2.0
"""The server's chain of settings: flags > yaml file > MEMKV_SERVER_* > variables shared with clients > defaults.

The counterpart of ``memkv_core.settings`` for a table with sections: the layers are merged key by key, so that a flag
for ``network.address`` leaves ``network.auth_key`` of the file standing.
"""

from __future__ import annotations

import logging
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, PrivateAttr, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsError

from memkv_core.errors import ConfigError
from memkv_core.log import MASK
from memkv_core.settings import DEFAULT, UNSET, Layer, Setting, SettingProblem, nearest
from memkv_core.yamlfile import read_yaml_mapping

log = logging.getLogger("memkv.server.settings")

FLAG: Final = "flag"
ENV_PREFIX: Final = "MEMKV_SERVER_"
Location = Sequence[str | int]
S = TypeVar("S", bound="SectionedSettings")


class SectionedSettings(BaseSettings):
    """Base of a frozen table of sections. A field's description says what is accepted."""

    secret_keys: ClassVar[frozenset[str]] = frozenset()
    shared_variables: ClassVar[Mapping[str, str]] = {}  # variable -> dotted key; the lowest layer

    _layers: tuple[Layer, ...] = PrivateAttr(default=())

    @classmethod
    def load(cls: type[S], path: Path | None = None, flags: Mapping[str, Any] | None = None) -> S:
        """Reads the chain. Raises ConfigError, one line that names source, key, value and what is accepted."""
        layers = cls._read_layers(path, flags or {})
        merged: dict[str, Any] = {}
        for layer in reversed(layers):
            merged = merge(merged, layer.values)
        try:
            settings = cls(**merged)
        except ValidationError as error:
            raise cls._translate(error, layers) from None  # it holds inputs, a key perhaps
        settings._layers = tuple(layers)
        return settings

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The layers are merged in ``load``, which must know them one by one to name the source of an error."""
        return (init_settings,)

    def explain(self) -> list[Setting]:
        """Every setting with its value (secrets masked), its source, and the sources that it shadows."""
        rows = []
        for location, value in _leaves(self):
            labels = [_label(layer, location) for layer in self._layers if _holds(layer.values, location)]
            shown = MASK if self._is_secret(location) and value is not None else _text(value)
            source = labels[0] if labels else (UNSET if value is None else DEFAULT)
            rows.append(Setting(_dotted(location), shown, source, tuple(labels[1:])))
        return rows

    def source_of(self, dotted: str) -> str:
        """Where a setting's value came from, in words: a file's path, a variable's name, ``flag``, ``default``."""
        location = dotted.split(".")
        labels = (_label(layer, location) for layer in self._layers if _holds(layer.values, location))
        return next(labels, DEFAULT)

    @classmethod
    def _read_layers(cls, path: Path | None, flags: Mapping[str, Any]) -> list[Layer]:
        layers = [Layer(FLAG, flags)]
        if path is not None:
            layers.append(Layer(str(path), read_yaml_mapping(path, named_by="--config")))
        try:
            layers.append(Layer(ENV_PREFIX, EnvSettingsSource(cls)()))
        except SettingsError as error:
            raise ConfigError(
                f"{ENV_PREFIX}*: {error}", remedy="write a section as JSON, or one value as SECTION__KEY"
            ) from None
        for variable, key in cls.shared_variables.items():
            if value := os.environ.get(variable):
                layers.append(Layer(variable, _nested(key.split("."), value)))
        cls._warn_unknown_variables()
        return layers

    @classmethod
    def _warn_unknown_variables(cls) -> None:
        for name in os.environ:
            if name.startswith(ENV_PREFIX):
                top = name[len(ENV_PREFIX) :].lower().split("__")[0]
                if top not in cls.model_fields:
                    near = nearest(top, cls.model_fields)
                    hint = f"; did you mean {ENV_PREFIX}{near.upper()}?" if near else ""
                    log.warning("environment variable %s is not known and has no effect%s", name, hint)

    @classmethod
    def _is_secret(cls, location: Location) -> bool:
        return not cls.secret_keys.isdisjoint(str(part) for part in location)

    @classmethod
    def _translate(cls, error: ValidationError, layers: Sequence[Layer]) -> ConfigError:
        details = error.errors(include_url=False)
        cause, remedy = cls._words(details[0], layers)
        more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
        return ConfigError(cause + more, remedy=remedy)

    @classmethod
    def _words(cls, detail: ErrorDetails, layers: Sequence[Layer]) -> tuple[str, str | None]:
        location = detail["loc"]
        layer = next((layer for layer in layers if _holds(layer.values, location)), Layer("settings", {}))
        where = _label(layer, location)
        section = _section(cls, location)
        fields = section.model_fields if section is not None else {}
        if detail["type"] == "extra_forbidden":
            near = nearest(str(location[-1]), fields)
            hint = f"did you mean {near!r}? " if near else ""
            return f"{where}: unknown setting {_dotted(location)!r}", f"{hint}accepted: {', '.join(fields)}"
        field = fields.get(str(location[-1])) if location else None
        accepted = field.description if field is not None else None
        cause = detail["msg"][:1].lower() + detail["msg"][1:]
        problem = detail.get("ctx", {}).get("error")
        if isinstance(problem, SettingProblem):
            cause, accepted = problem.cause, problem.accepted
        elif detail["type"].startswith("byte_size"):
            cause = "it is no size"
        elif problem is not None:
            cause = str(problem)
        shown = "" if cls._is_secret(location) or detail["type"] == "missing" else f" = {_short(detail['input'])}"
        return f"{where}: {_dotted(location)}{shown}: {cause}", f"accepted: {accepted}" if accepted else None


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """``low`` overridden by ``high``, section by section."""
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def _nested(parts: Sequence[str], value: object) -> dict[str, Any]:
    inner = value if len(parts) == 1 else _nested(parts[1:], value)
    return {parts[0]: inner}


def _label(layer: Layer, location: Location) -> str:
    if layer.label == ENV_PREFIX:
        return ENV_PREFIX + "__".join(str(part) for part in location).upper()
    return layer.label


def _dotted(location: Location) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "settings"


def _holds(data: Any, location: Location) -> bool:
    """Whether ``data`` has a value at ``location``, or ends on the way to it with a value that is no section."""
    for part in location:
        if isinstance(data, Mapping):
            if part not in data:
                return False
            data = data[part]
        elif isinstance(data, list | tuple) and isinstance(part, int):
            if part >= len(data):
                return False
            data = data[part]
        else:
            return True
    return bool(location)


def _leaves(model: BaseModel, prefix: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, (*prefix, name))
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for index, item in enumerate(value):
                yield from _leaves(item, (*prefix, name, index))
        else:
            yield (*prefix, name), value


def _text(value: object) -> str:
    if value is None or value == ():
        return ""
    return MASK if isinstance(value, SecretStr) else str(value)


def _short(value: object) -> str:
    """A refused value, shortened. A section is named by its kind only, since a key may stand in it."""
    if isinstance(value, str | int | float | bool) or value is None:
        text = repr(value)
        return text if len(text) <= 80 else text[:77] + "..."
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


def _section(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """The model of the section that ``location`` lies in; None where that is none."""
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = _model_in(field.annotation) if field is not None else None
        if inner is None:
            return None
        model = inner
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The section's model in ``Section``, ``Section | None`` or ``tuple[Section, ...]``."""
    if typing.get_origin(annotation) is None:
        is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        return annotation if is_model else None
    found = (_model_in(argument) for argument in typing.get_args(annotation))
    return next((model for model in found if model is not None), None)
