"""
The code with which a saved pipeline or model loads where this package is not installed.

The loaders of transformers and diffusers follow relative imports, but only within one folder, and that of diffusers
only those of the module it begins with. Hence modules of the package go side by side into the root of a repository,
each under its full name (`difflm_hf.records.schema` becomes `difflm_hf_records_schema.py`), and one more, named as the
package is, imports all of them. Nothing but the names of modules in relative imports differs from the package, and
that pushing takes the package.
"""

from __future__ import annotations

import ast
import json
import os
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

from ..files import atomic_write


PACKAGE = __name__.partition(".")[0]
ROOT = f"{PACKAGE}.pipeline_difflm"  # it and all that it imports are the code
LEFT_OUT = (f"{PACKAGE}.hub.publishing",)  # but for these, with cards and evaluation: to load a model takes none
ENTRY = '''"""
What generating records takes of {package} {version} (DiffLM, arXiv 2411.03250).

transformers and diffusers load this module when they are told to trust remote code. It imports all the others, as
diffusers finds none but those.
"""

{imports}


# Code of another repository may have been loaded since the modules above were.
register_components(DiffLMPipeline.libraries)
'''
STUB = """
def {name}(*args, **kwargs):
    raise ImportError("to push a model, install the package {package}")
"""
FOLDERS = ("", "vae", "processor")  # with configurations, in what save_pretrained writes
KINDS = {  # the field that says what a configuration is for
    "model_index.json": "_class_name",
    "config.json": "model_type",
    "processor_config.json": "processor_class",
}
CLASSES: dict[str, dict[str, Any]] = {  # and which fields name the classes of the code
    "DiffLMPipeline": {"_class_name": [PACKAGE, "DiffLMPipeline"]},
    "difflm": {
        "auto_map": {
            "AutoConfig": f"{PACKAGE}.DiffLMConfig",
            "AutoModel": f"{PACKAGE}.DiffLMModel",
            "AutoModelForCausalLM": f"{PACKAGE}.DiffLMForCausalLM",
        }
    },
    "difflm-pipeline": {"auto_map": {"AutoConfig": f"{PACKAGE}.DiffLMPipelineConfig"}},
    "DiffLMProcessor": {"auto_map": {"AutoProcessor": f"{PACKAGE}.DiffLMProcessor"}},
}


def add_code(folder: str | os.PathLike) -> None:
    """
    Adds to a saved pipeline, model or processor the code that it needs where this package is not installed.

    There it loads with `trust_remote_code=True`, and not without. [`DiffLMPipeline.from_pretrained`] and the other
    classes of the installed package load it as before. Code that is there already is replaced.

    Args:
        folder (`str` or `os.PathLike`): What `save_pretrained` wrote.

    Raises:
        `FileNotFoundError`: when nothing of this package is saved there.

    Example:

    ```python
    >>> pipe.save_pretrained("my-model")
    >>> add_code("my-model")

    >>> # Where this package is not installed
    >>> pipe = DiffusionPipeline.from_pretrained("my-model", trust_remote_code=True)
    >>> model = AutoModel.from_pretrained("my-model", subfolder="vae", trust_remote_code=True)
    >>> processor = AutoProcessor.from_pretrained("my-model", subfolder="processor", trust_remote_code=True)
    ```
    """
    folder = Path(folder)
    configs = {}
    for path in (folder / subfolder / name for subfolder in FOLDERS for name in KINDS):
        if path.is_file():
            config = json.loads(path.read_text(encoding="utf-8"))
            kind = config.get(KINDS[path.name])
            if (fields := CLASSES.get(kind[-1] if isinstance(kind, list) else kind)) is not None:
                configs[path] = json.dumps({**config, **fields}, indent=2) + "\n"
    if not configs:
        raise FileNotFoundError(f"{folder} holds no pipeline, model or processor of {PACKAGE}; save one there first")
    # What names the code comes after it.
    for path, text in ({folder / f"{name}.py": source for name, source in code_modules().items()} | configs).items():
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def code_modules() -> dict[str, str]:
    """The source of each module that [`add_code`] adds, by its name in the repository."""
    sources: dict[str, str] = {}
    _collect(ROOT, sources)
    version = import_module(PACKAGE).__version__
    imports = "\n".join(f"from .{name} import *" for name in sorted(sources))
    return {**sources, PACKAGE: ENTRY.format(package=PACKAGE, version=version, imports=imports)}


def _collect(name: str, sources: dict[str, str]) -> None:
    """Adds the source of a module and of all modules that it imports."""
    module = import_module(name)
    source = Path(module.__file__).read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)
    sources[_flat(name)] = source  # for now, so that no module is read twice
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level > 0:
            relative = "." * node.level + (node.module or "")
            imported = resolve_name(relative, module.__package__)
            if imported in LEFT_OUT:
                stubs = [STUB.format(name=alias.name, package=PACKAGE) for alias in node.names]
                sources[_flat(imported)] = "\n".join(stubs).lstrip()
            elif _flat(imported) not in sources:
                _collect(imported, sources)
            line = node.lineno - 1
            # With a space, which loaders do not look behind: that of diffusers takes all paths from module to module,
            # of which there are millions. It finds each of them in the one that imports all.
            lines[line] = lines[line].replace(f"from {relative} import", f"from . {_flat(imported)} import", 1)
    sources[_flat(name)] = "".join(lines)


def _flat(name: str) -> str:
    return name.replace(".", "_")
