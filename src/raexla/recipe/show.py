"""Recipe object -> YAML, JSON schema, hash, difference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from raexla.recipe.base import Recipe
from raexla.recipe.source import write


def show(recipe: Recipe) -> str:
    """The resolved recipe, defaults included, as YAML text that loads back to an equal object."""
    return write(recipe.model_dump(mode="json"))


def digest(recipe: Recipe) -> str:
    """sha256 (hex) of the resolved recipe; the same whatever the order of keys, and however it was written."""
    text = json.dumps(recipe.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Dotted paths of the values in which two recipes differ, in the order of the new one."""
    return _differences(old.model_dump(mode="json"), new.model_dump(mode="json"), "")


def _differences(old: Any, new: Any, path: str) -> list[str]:
    prefix = f"{path}." if path else ""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*new, *(key for key in old if key not in new)]
        missing = object()
        return [d for key in keys for d in _differences(old.get(key, missing), new.get(key, missing), f"{prefix}{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [d for i, (a, b) in enumerate(zip(old, new, strict=True)) for d in _differences(a, b, f"{prefix}{i}")]
    return [] if old == new and type(old) is type(new) else [path]


def schema(stages: Mapping[str, type[Recipe]]) -> dict[str, Any]:
    """JSON schema of a recipe *file* of any of the stages, for editors.

    A file may inherit any key from the recipe it extends, so no key is required here; the loader checks that.
    """
    references, everything = models_json_schema([(model, "validation") for model in stages.values()])
    definitions: dict[str, Any] = {name: _relax(item) for name, item in everything["$defs"].items()}
    arms: list[dict[str, Any]] = []
    for name, model in stages.items():
        arm = references[(model, "validation")]
        own = definitions[arm["$ref"].removeprefix("#/$defs/")]
        own["properties"] = {
            "extends": {"type": "string", "description": "One parent recipe, relative to this file."},
            **own.get("properties", {}),
            "stage": {"const": name, "type": "string"},
        }
        arms.append(arm)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "raexla recipe",
        "anyOf": arms,
        "$defs": definitions,
    }


def _relax(node: Any) -> Any:
    """Without `required`, and with anyOf for oneOf (without required keys several arms may fit)."""
    if isinstance(node, list):
        return [_relax(item) for item in node]
    if not isinstance(node, dict):
        return node
    relaxed: dict[str, Any] = {}
    for key, value in node.items():
        if key == "required" and isinstance(value, list):
            continue
        if key == "properties":
            relaxed[key] = {name: _relax(item) for name, item in value.items()}
        elif key == "oneOf":
            relaxed["anyOf"] = _relax(value)
        elif key == "discriminator":
            continue
        else:
            relaxed[key] = _relax(value)
    return relaxed
