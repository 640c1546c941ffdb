"""
Private API of other libraries that the package relies on, and the versions that it was seen in. When a library drops
one, a test says which and who uses it; when the package takes up another, a test says that it is not listed here.
"""

import ast
import inspect
import pkgutil
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import difflm_hf


SEEN_IN = {
    "accelerate": "1.15.0",
    "diffusers": "0.42.1",
    "evaluate": "0.4.6",
    "peft": "0.21.2",
    "torch": "2.13.0",
    "transformers": "5.23.0",
}

# Read, called or set: the module of the library that has the name, and the module of the package that takes it
USED = {
    "_attn_implementation": ("transformers.configuration_utils", "training.fit"),
    "_batch_size": ("transformers.pipelines.base", "record_generation"),
    "_execution_device": ("diffusers.pipelines.pipeline_utils", "blocks"),
    "_feature_names": ("evaluate.module", "evaluation.record_metric"),
    "_finish_current_push": ("transformers.trainer", "training.base_trainer"),
    "_from_model_config": ("transformers.generation.configuration_utils", "modeling_latent_lm"),
    "_is_hf_initialized": ("transformers.modeling_utils", "lora"),
    "_is_mkldnn_bf16_supported": ("torch.ops.mkldnn", "utils"),
    "_keys_to_ignore_on_save": ("transformers.modeling_utils", "pretrained_model"),
    "_name_or_path": ("diffusers.configuration_utils", "pipeline_difflm"),
    "_prepare_inputs": ("transformers.trainer", "training.base_trainer"),
    "_train_batch_size": ("transformers.trainer", "training.fit"),
}
# Of the standard library, where a leading underscore does not mean private
DOCUMENTED = {"_asdict", "_exit", "_getframe"}

# Of base classes, what classes of the package put their own in the place of
REPLACED = {
    ("torch.nn", "Module"): ["_apply"],
    ("transformers.cache_utils", "DynamicLayer"): ["_layer_type"],
    ("transformers", "PreTrainedModel"): [
        "_keep_in_fp32_modules_strict",
        "_init_weights",
        "_keys_to_ignore_on_load_unexpected",
        "_no_split_modules",
        "_supports_attention_backend",
        "_supports_flash_attn",
        "_supports_flex_attn",
        "_supports_sdpa",
    ],
    ("transformers", "GenerationMixin"): ["_prepare_cache_for_generation"],
    ("transformers", "Trainer"): [
        "_get_eval_sampler",
        "_get_train_sampler",
        "_load_best_model",
        "_load_from_checkpoint",
        "_load_optimizer_and_scheduler",
        "_push_from_checkpoint",
        "_save",
        "_save_optimizer_and_scheduler",
    ],
    ("transformers", "Pipeline"): [
        "_forward",
        "_load_feature_extractor",
        "_load_image_processor",
        "_load_processor",
        "_load_tokenizer",
        "_load_video_processor",
        "_sanitize_parameters",
    ],
    ("diffusers", "ModelMixin"): ["_keep_in_fp32_modules"],
    ("diffusers", "SchedulerMixin"): ["_compatibles"],
    ("diffusers", "ConfigMixin"): ["_dict_from_json_file"],
    ("evaluate", "EvaluationModule"): ["_compute", "_info"],
}
ROOT = Path(difflm_hf.__file__).parent


def is_private(name: str | None) -> bool:
    return bool(name) and name.startswith("_") and not name.startswith("__")


def seen(library: str) -> str:
    name = library.partition(".")[0]
    return f"{name} {version(name)} (it was there in {SEEN_IN[name]})"


@pytest.mark.parametrize("name", USED)
def test_what_is_used_is_there(name):
    library, user = USED[name]
    owner = torch.ops.mkldnn if library == "torch.ops.mkldnn" else import_module(library)
    is_there = hasattr(owner, name) or name in inspect.getsource(owner)  # attributes of instances stand in the source
    assert is_there, f"{library}.{name}, which difflm_hf.{user} uses, is not in {seen(library)}"


@pytest.mark.parametrize(("base", "names"), REPLACED.items(), ids=lambda value: getattr(value, "name", str(value[-1])))
def test_what_is_replaced_is_there(base, names):
    library, cls = base
    for name in names:
        assert hasattr(getattr(import_module(library), cls), name), f"{cls}.{name} is not in {seen(library)}"


def test_all_that_is_used_is_listed():
    used, own = set(), set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                is_own = (
                    isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self"
                )
                (own if is_own else used).add(node.attr)
            elif isinstance(node, ast.keyword):
                used.add(node.arg)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                used |= {alias.name for alias in node.names}
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                own.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
    assert set(filter(is_private, used)) - own - DOCUMENTED <= USED.keys()


SET_BY_METACLASSES = ("_abc_impl", "_backward_cls")  # the latter of functions with gradients of their own


def test_all_that_is_replaced_is_listed():
    listed = {name for names in REPLACED.values() for name in names}
    for module in pkgutil.walk_packages(difflm_hf.__path__, "difflm_hf."):
        if ".modules" in module.name or module.name.endswith("__main__"):
            continue
        for cls in filter(inspect.isclass, vars(import_module(module.name)).values()):
            if cls.__module__ != module.name:
                continue
            others = [base for base in cls.__mro__ if not base.__module__.startswith(("difflm_hf", "abc", "builtins"))]
            for name in filter(is_private, vars(cls)):
                theirs = any(name in vars(base) for base in others)
                is_set_by_them = name in SET_BY_METACLASSES or name.startswith("_hub_mixin_")
                assert not theirs or is_set_by_them or name in listed, f"{cls.__name__}.{name} is not listed"
