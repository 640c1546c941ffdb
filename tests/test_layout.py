"""The package as a house: imports run one way, files are short, and importing it is quick."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1] / "difflm_hf"

# From the ground up: modules import from their own floor and from those below it. A name stands for all that is in it,
# where no longer one says otherwise.
FLOORS = [
    ["utils", "seeds", "checks", "files", "lazy", "step_callbacks", "distributed"],
    ["hub.upload", "hub.mixin", "hub.components", "hub.damage"],
    ["records"],
    ["control"],
    [
        *("configuration_running_sum", "modeling_running_sum", "known_fields"),
        *("positionwise", "modeling_lists", "likelihood"),
        *("configuration_difflm", "cache", "float32_buffers", "injection", "posterior", "lora", "base_model"),
    ],
    ["denoiser", "scheduling_latent_edm", "privacy"],
    ["sampling", "pretrained_model", "modeling_latent_lm", "modeling_difflm"],
    ["processing_difflm"],
    ["batches", "latents", "callbacks", "denoising"],
    ["evaluation"],
    ["hub.loading", "hub.remote_code", "hub.cards", "hub.text_cards", "hub.publishing"],
    [
        "blocks",
        "control.documents",
        "control.generation",
        "control.groups",
        "control.given_records",
        "control.imputation",
        "control.latent_classifier",
        "pipeline_difflm",
        "record_generation",
        "evaluation.latents",
    ],
    ["hub.datasets", "profiling", "ray_generation", "diffusion_lm"],
    ["training", "synthesizer"],
    ["app"],
    ["commands", "__main__"],
]
# Packages whose names are looked up when they are asked for
LAZY = ["", "control", "hub", "evaluation", "commands", "diffusion_lm", "diffusion_lm.controls"]
MAX_LINES = 500


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# `evaluate` loads each of its modules as a script.
FILES = {name_of(path): path for path in sorted(ROOT.rglob("*.py")) if "modules" not in path.parts}


def packages_of(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:k]) for k in range(len(parts))}


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(name: str, inside_functions: bool) -> set[str]:
    """The modules of the package that a module imports, its packages and theirs included."""
    path, found = FILES[name], set()
    package = f"difflm_hf.{name}".rstrip(".")
    package = package if path.name == "__init__.py" else package.rpartition(".")[0]

    def visit(node: ast.AST, depth: int) -> None:
        if is_for_types(node):
            return
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("difflm_hf")):
            if bool(depth) == inside_functions:
                module = resolve_name("." * node.level + (node.module or ""), package)
                module = module.removeprefix("difflm_hf").lstrip(".")
                for alias in node.names:
                    full = f"{module}.{alias.name}".lstrip(".")
                    found.add(full if full in FILES else module)
        for child in ast.iter_child_nodes(node):
            visit(child, depth + is_function)

    visit(ast.parse(path.read_text(encoding="utf-8")), 0)
    # What is imported brings the packages that it is in; those that the module itself is in are there already.
    around = packages_of(name)
    return (found | {package for other in found for package in packages_of(other)} - around) - {name}


def floor_of(name: str) -> int:
    fitting = {
        floor: max(len(prefix) for prefix in prefixes if f"{name}.".startswith(f"{prefix}."))
        for floor, prefixes in enumerate(FLOORS)
        if any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)
    }
    assert fitting, f"{name} is on no floor: say in FLOORS where it belongs"
    return max(fitting, key=fitting.get)


def test_no_cycles():
    graph = {name: imports_of(name, inside_functions=False) for name in FILES}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"these import each other: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("name", [name for name in FILES if name not in LAZY])
def test_imports_run_one_way(name):
    for other in imports_of(name, inside_functions=False) - set(LAZY):
        assert floor_of(other) <= floor_of(name), f"{name} imports {other}, which stands above it"


@pytest.mark.parametrize("name", LAZY)
def test_lazy_packages_import_nothing(name):
    assert imports_of(name, inside_functions=False) - packages_of("lazy") <= {"lazy"}


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("commands")])
def test_no_imports_inside_functions(name):
    """But for the command, whose start-up they shorten. Optional packages are none of this one."""
    assert not imports_of(name, inside_functions=True)


@pytest.mark.parametrize("name", FILES)
def test_files_are_short(name):
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.slow
def test_names_are_found_when_they_are_asked_for():
    """In a process for all of it, as libraries take seconds to load; the last by several threads at once."""
    code = """
import sys
from threading import Thread
import difflm_hf
assert not {"torch", "transformers", "diffusers", "datasets", "pandas"} & {*sys.modules}
assert difflm_hf.records.RecordSchema and "difflm_hf.pipeline_difflm" not in sys.modules
found = []
names = ("DiffLMPipeline", "DiffLMModel", "train", "LatentEDMScheduler", "pipeline_difflm")
threads = [Thread(target=lambda name: found.append(getattr(difflm_hf, name)), args=(name,)) for name in names]
[thread.start() for thread in threads], [thread.join() for thread in threads]
assert len(found) == len(names) and difflm_hf.pipeline_difflm in found
assert {"difflm_hf.training", "difflm_hf.pipeline_difflm"} <= {*sys.modules}"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
