# SPDX-License-Identifier: Apache-2.0
"""One chain, one precedence, on pydantic-settings: keyword > yaml file > environment > default.

``LayeredSettings`` is the machinery, ``memkv_core.config.ClientConfig`` the table of fields. The first layer
that sets a value wins; a bad value in it is an error that names it, never a reason to look in the next layer.
pydantic's ValidationError becomes a ConfigError here and nowhere else; it holds inputs, so it is not chained.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import PrivateAttr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from memkv_core.errors import ConfigError
from memkv_core.log import MASK, RateLimitedLog, get_logger
from memkv_core.yamlfile import read_yaml_mapping

_log = RateLimitedLog(get_logger(__name__), interval_s=3600.0)  # a process that makes many clients warns once

S = TypeVar("S", bound="LayeredSettings")

KEYWORD = "keyword argument"
DEFAULT = "default"
UNSET = "not set"


class SettingProblem(ValueError):
    """What a field's validator raises: why the value is wrong, and what is accepted."""

    def __init__(self, cause: str, accepted: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.accepted = accepted


class MissingSettingError(ConfigError):
    """A setting without default is set nowhere."""


@dataclass(frozen=True)
class Setting:
    """One row of ``explain()``: where a value came from. ``value`` is for eyes only: secrets are masked."""

    name: str
    value: str
    source: str  # a file's path, a variable's name, "keyword argument", "default" or "not set"
    shadowed: tuple[str, ...]  # the lower sources that set it too, in vain

    @property
    def warning(self) -> str | None:
        """One line for the operator where a value that someone set has no effect."""
        if not self.shadowed:
            return None
        return f"{' and '.join(self.shadowed)} sets {self.name} without effect: {self.source} comes first"


@dataclass(frozen=True)
class Layer:
    """What one source sets, and how to call that source in a message."""

    label: str  # of the whole layer; the environment's label is its prefix
    values: Mapping[str, Any]

    def label_of(self, name: str) -> str:
        return self.label + name.upper() if self.label.endswith("_") else self.label


class LayeredSettings(BaseSettings):
    """Base of a frozen table of settings. A field's description says what is accepted."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True, validate_default=False
    )
    file_variable: ClassVar[str] = "MEMKV_CONFIG"
    secret_fields: ClassVar[frozenset[str]] = frozenset()
    other_variables: ClassVar[set[str]] = set()  # of the same prefix, but no fields; adapters add theirs
    other_prefixes: ClassVar[tuple[str, ...]] = ()  # of variables that another table reads

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    def __init__(self, **overrides: Any) -> None:
        layers = self._layers(overrides)
        merged: dict[str, Any] = {}
        for layer in reversed(layers):
            merged.update(layer.values)
        try:
            super().__init__(**merged)
        except ValidationError as error:
            raise self._translate(error, layers) from None
        self._sources = {name: layer.label_of(name) for layer in reversed(layers) for name in layer.values}

    @classmethod
    def load(cls: type[S], **overrides: Any) -> S:
        """The settings of the whole chain. An override of None counts as not given. Raises ConfigError."""
        return cls(**overrides)

    @classmethod
    def explain(cls, **overrides: Any) -> list[Setting]:
        """Every field with its value (secrets masked), its source, and the sources that it shadows.

        A required setting that is missing is a row with the source "not set"; anything else wrong raises
        ConfigError.
        """
        layers = cls._layers(overrides)
        try:
            shown = cls(**overrides).masked()
        except MissingSettingError:
            merged = {name: value for layer in reversed(layers) for name, value in layer.values.items()}
            shown = {name: cls._shown(name, value) for name, value in merged.items()}
        rows = []
        for name, field in cls.model_fields.items():
            labels = [layer.label_of(name) for layer in layers if name in layer.values]
            if not labels:
                labels = [UNSET if field.is_required() else DEFAULT]
            value = shown.get(name, "" if field.is_required() else cls._shown(name, field.default))
            rows.append(Setting(name, value, labels[0], tuple(labels[1:])))
        return rows

    def source_of(self, name: str) -> str:
        """Where a field's value came from, in words: a file's path, a variable's name, ..."""
        return self._sources.get(name, DEFAULT)

    def masked(self) -> dict[str, str]:
        """Every field as text for a log or a table, secrets masked."""
        return {name: self._shown(name, getattr(self, name)) for name in type(self).model_fields}

    def describe(self) -> str:
        """``{"servers": ["a:9900"], "auth_key": "****", ...}``: one line for a log, secrets masked."""
        shown: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            hidden = value is not None and type(self)._is_secret(name, value)
            shown[name] = MASK if hidden else value
        return json.dumps(shown, default=str)

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.describe()}"

    __str__ = __repr__

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The layers are merged in __init__, which must know them one by one to name the source of an error.
        return (init_settings,)

    # -- the layers -------------------------------------------------------------------------------------
    @classmethod
    def _layers(cls, overrides: Mapping[str, Any]) -> list[Layer]:
        keywords = Layer(KEYWORD, {name: value for name, value in overrides.items() if value is not None})
        prefix = str(cls.model_config.get("env_prefix", ""))
        environment = Layer(prefix, EnvSettingsSource(cls)())
        cls._warn_unknown_variables(prefix)
        path = os.environ.get(cls.file_variable, "")
        if not path:
            return [keywords, environment]
        values = read_yaml_mapping(Path(path), named_by=cls.file_variable)
        optional = {name for name, field in cls.model_fields.items() if field.default is None}
        # `namespace:` with nothing after it leaves an optional field unset; elsewhere null is an error.
        set_values = {name: value for name, value in values.items() if value is not None or name not in optional}
        return [keywords, Layer(path, set_values), environment]

    @classmethod
    def _warn_unknown_variables(cls, prefix: str) -> None:
        known = {prefix + name.upper() for name in cls.model_fields} | cls.other_variables | {cls.file_variable}
        for name in os.environ:
            foreign = name in known or name.startswith(cls.other_prefixes)
            if prefix and name.startswith(prefix) and not foreign:
                near = nearest(name, known)
                hint = f"; did you mean {near}?" if near else ""
                _log.warning(name, "environment variable %s is not known and has no effect%s", name, hint)

    # -- words ------------------------------------------------------------------------------------------
    @classmethod
    def _is_secret(cls, name: str, value: object) -> bool:
        return name in cls.secret_fields

    @classmethod
    def _shown(cls, name: str, value: object) -> str:
        if value is None:
            return ""
        if cls._is_secret(name, value):
            return MASK
        return ",".join(str(item) for item in value) if isinstance(value, tuple | list) else str(value)

    @classmethod
    def _translate(cls, error: ValidationError, layers: list[Layer]) -> ConfigError:
        details = error.errors(include_url=False)
        missing = [str(detail["loc"][0]) for detail in details if detail["type"] == "missing"]
        others = [detail for detail in details if detail["type"] != "missing"]
        if others:
            cause, remedy = cls._words(others[0], layers)
            more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
            return ConfigError(cause + more, remedy=remedy)
        return MissingSettingError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set",
            remedy=cls._how_to_set(missing),
        )

    @classmethod
    def _how_to_set(cls, names: Iterable[str]) -> str:
        prefix = str(cls.model_config.get("env_prefix", ""))
        hints = [f"{prefix}{name.upper()} ({cls.model_fields[name].description})" for name in names]
        keys = "` and `".join(f"{name}:" for name in names)
        return f"set {' and '.join(hints)}, or `{keys}` in the yaml file that {cls.file_variable} names"

    @classmethod
    def _words(cls, detail: ErrorDetails, layers: list[Layer]) -> tuple[str, str]:
        if not detail["loc"]:  # a rule about several fields
            problem = detail.get("ctx", {}).get("error")
            return str(problem), problem.accepted if isinstance(problem, SettingProblem) else "correct one of them"
        name = str(detail["loc"][0])
        layer = next((layer for layer in layers if name in layer.values), Layer(DEFAULT, {}))
        where = layer.label_of(name)
        if detail["type"] == "extra_forbidden":
            near = nearest(name, cls.model_fields)
            hint = f"did you mean {near!r}? " if near else ""
            return f"{where}: unknown setting {name!r}", f"{hint}accepted: {', '.join(cls.model_fields)}"
        value = layer.values.get(name)
        accepted = str(cls.model_fields[name].description)
        cause = detail["msg"][:1].lower() + detail["msg"][1:]
        problem = detail.get("ctx", {}).get("error")
        if isinstance(problem, SettingProblem):
            cause, accepted = problem.cause, problem.accepted
        elif detail["type"] == "literal_error":
            cause = "it is not one of the accepted words"
            near = nearest(str(value), accepted.replace("(", "").replace(")", "").split(" | "))
            accepted += f"; did you mean {near!r}?" if near else ""
        shown = "" if cls._is_secret(name, value) else f" = {_short(value)}"
        return f"{where}: {name}{shown}: {cause}", f"accepted: {accepted}"


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that ``name`` was most likely meant to be."""
    return next(iter(difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)), None)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
