"""Saved pipelines that are damaged, or made to do harm: one error that names the file, before much is done."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn


MAX_LAYERS = 1000  # of a model whose weights are elsewhere
SPARE = 2**22  # numbers that a model may have beside those of its weights: buffers, and weights that stand for two
ADVICE = "copy the model anew, or train it again"


@contextmanager
def explain_damage(source: Any) -> Iterator[None]:
    """Turns whatever the files of a folder lead to into an `OSError` that names it."""
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        asks_for_trust = "trust_remote_code" in said  # of code that a base brings with it, in many words
        if isinstance(error, ValueError) and (len(said) < 500 or asks_for_trust):
            raise
        raise OSError(f"{source} is damaged ({type(error).__name__}: {said[:300]}); {ADVICE}") from error


def check_file(path: Path) -> None:
    """Raises an `OSError` for what is no file of its kind, or is cut short."""
    if not stat.S_ISREG(path.stat().st_mode):  # whose end nobody knows
        raise OSError(f"{path} is no regular file; {ADVICE}")
    try:
        if path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".safetensors":
            safe_open(path, "pt")
    except (ValueError, RecursionError, SafetensorError) as error:
        raise OSError(f"{path} is damaged ({error}); {ADVICE}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file. Raises a `ValueError` for another value, and what is no JSON."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(tree, dict):
        raise ValueError(f"a {type(tree).__name__} in place of an object")
    return tree


def check_model(folder: Path, cls: type[nn.Module]) -> None:
    """
    Raises an `OSError` for a configuration that cannot be, or asks for a model that is much larger than the weights
    beside it, or for weights that are not there, before any memory is taken.
    """
    path = folder / "config.json"
    weights = [safe_open(file, "pt") for file in sorted(folder.glob("*.safetensors"))]
    shapes = {name: file.get_slice(name).get_shape() for file in weights for name in file.keys()}
    fields = read_json(path)
    is_whole = fields.get("base_model") is None
    for name, value in _numbers(fields):
        if "layers" in name and value > (len(shapes) if is_whole else MAX_LAYERS):
            raise OSError(f"{path} asks for {name}={value}, and there are {len(shapes)} weights; {ADVICE}")
    if not is_whole:
        return
    with explain_damage(path), torch.device("meta"):
        model = make_model(cls, folder)
        size = sum(part.numel() for parts in (model.parameters(), model.buffers()) for part in parts)
    given = sum(torch.Size(shape).numel() for shape in shapes.values())
    if size > 2 * given + SPARE:
        raise OSError(f"{path} asks for a model of {size:,} numbers, and its weights are {given:,}; {ADVICE}")
    # Of weights that stand for several, one is enough.
    names: dict[int, list[str]] = {}
    for name, weight in [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]:
        names.setdefault(id(weight), []).append(name)
    kept = model.state_dict().keys()
    for same in names.values():
        if kept & set(same) and not shapes.keys() & set(same):
            raise OSError(f"{folder} lacks weights, such as {same[0]}; {ADVICE}")


def make_model(cls: type[nn.Module], folder: Path) -> nn.Module:
    """A model of a saved configuration, of transformers or diffusers."""
    if hasattr(cls, "config_class"):
        return cls(cls.config_class.from_pretrained(folder))
    return cls.from_config(cls.load_config(folder))


def _numbers(fields: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a configuration and of those inside it, by name."""
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name, value


def check_weights(source: Any, model: nn.Module) -> None:
    """Raises an `OSError` for the first weight of a model that is not finite."""
    for name, weight in model.state_dict().items():
        if weight.is_floating_point() and not weight.isfinite().all():
            raise OSError(f"{source}: the weight {name} has values that are not finite; {ADVICE}")
