"""Where diffusers looks for the classes of a pipeline's components."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar


def register_components(libraries: Mapping[type, str]) -> None:
    """Makes classes, and not those of another copy of their modules, the ones that model_index.json names."""
    for cls, library in libraries.items():
        # Imported here: transformers puts another module object in its place while it is being imported.
        setattr(import_module(library), cls.__name__, cls)


class ComponentsMixin:
    """
    A pipeline with components that diffusers is to find in libraries which it loads from.

    A subclass names them in `libraries`: the library of each class, `"diffusers"` or `"transformers"`.
    """

    libraries: ClassVar[dict[type, str]]

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict[str, Any]:
        config = super()._dict_from_json_file(json_file)
        # A repository that carries code names a module of its own; this class needs none.
        if isinstance(config.get("_class_name"), list):
            config["_class_name"] = config["_class_name"][-1]
        return config

    def register_to_config(self, **kwargs) -> None:
        # diffusers would name the module of a component, and look for it in the repository.
        names = {(cls.__module__, cls.__name__): (lib, cls.__name__) for cls, lib in self.libraries.items()}
        super().register_to_config(**{k: names.get(v, v) if isinstance(v, tuple) else v for k, v in kwargs.items()})
