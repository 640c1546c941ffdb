"""What causal LMs write where prompts end, and the code in it."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase


FENCE = re.compile(r"^[ \t]*```([^\n`]*)\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
FENCE_LINE = re.compile(r"^[ \t]*```([^\n`]*)$", re.MULTILINE)
PYTHON = ("", "py", "python", "python3")  # what fences call it
# Instead of what LMs come with: tokens are chosen as asked for alone.
NEUTRAL = {
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
# A line that no function goes on with: a closing bracket may stand at its beginning.
TOP_LEVEL = re.compile(r"\n(?=[^\s)\]}])")


def extract_code(completion: str, is_body: bool = False) -> str:
    """
    Cuts the code out of what a model wrote: what precedes `[DONE]`, and of that the first fenced block of Python, if
    there is one, or, where the prompt has opened a fence, what precedes its end. Code alone stays as it is.

    Args:
        completion (`str`): The text.
        is_body (`bool`, defaults to `False`):
            Whether the text goes on with a function whose beginning was the prompt, as in HumanEval. It then ends
            before the next line that is not indented, unless it is fenced.

    Returns:
        `str`: The code, with its indentation.
    """
    text = completion.split("[DONE]")[0].split("[BEGIN]")[-1].lstrip("\r\n")
    fences = list(FENCE_LINE.finditer(text))
    if len(fences) % 2 and not fences[0][1].strip() and _is_code(text[: fences[0].start()], is_body):
        text = text[: fences[0].start()]  # the prompt has opened it
    fenced = [match[2] for match in FENCE.finditer(text) if match[1].strip().lower() in PYTHON]
    if fenced:
        text = fenced[0].lstrip("\r\n")
    elif is_body:
        text = TOP_LEVEL.split(text, maxsplit=1)[0]
    return text.rstrip()


def generate_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    num_samples: int = 1,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 0.95,
    stop_strings: Sequence[str] = (),
    batch_size: int = 16,
    seed: int = 0,
    add_special_tokens: bool = True,
) -> list[list[str]]:
    """
    Lets a causal LM go on with prompts.

    Args:
        model (`PreTrainedModel`): Any causal LM that generates.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer of the LM. It needs no padding token.
        prompts (`Sequence[str]`): The prompts.
        num_samples (`int`, defaults to 1): The completions of each prompt.
        max_new_tokens (`int`, defaults to 512): The length of a completion that does not come to an end.
        temperature (`float`, defaults to 0.0): That of sampling; 0 takes the most probable token each time.
        top_p (`float`, defaults to 0.95): The mass of the tokens that are sampled from, as in HumanEval's paper.
        stop_strings (`Sequence[str]`, defaults to none):
            Strings before which a completion ends, such as `["[DONE]"]` for [`mbpp_prompt`].
        batch_size (`int`, defaults to 16): The completions that are written at a time.
        seed (`int`, defaults to 0): The seed. The samples depend on `batch_size` too.
        add_special_tokens (`bool`, defaults to `True`):
            Whether the tokenizer adds its own, such as BOS; not where a chat template has done so.

    Returns:
        `list[list[str]]`: For each prompt its completions, without the prompt.

    Raises:
        `ValueError`: for prompts that leave less than `max_new_tokens` of the positions of the LM, or are empty, and
            for more than one sample at a temperature of 0, where all would be the same.
    """
    for name, value in (("num_samples", num_samples), ("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"`{name}` is {value}; it is at least 1")
    if temperature < 0:
        raise ValueError(f"`temperature` is {temperature}; it is at least 0")
    if temperature == 0 and num_samples > 1:
        raise ValueError(f"at a temperature of 0 all {num_samples} samples are the same; set `temperature`")
    ids = [tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"] for prompt in prompts]
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
    for index, own in enumerate(ids):
        if not own:
            raise ValueError(f"`prompts[{index}]` has no tokens; a prompt has at least one")
        if len(own) + max_new_tokens > positions:
            raise ValueError(
                f"`prompts[{index}]` has {len(own)} tokens, and the LM {positions} positions: lower "
                f"`max_new_tokens`, which is {max_new_tokens}, or shorten the prompt"
            )

    sampling = NEUTRAL | {"do_sample": False}
    if temperature > 0:
        sampling |= {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    if stop_strings:
        sampling |= {"stop_strings": list(stop_strings), "tokenizer": tokenizer}
    rows = [own for own in ids for _ in range(num_samples)]
    texts: list[str] = []
    on_cpu = model.device.type == "cpu"
    with (
        torch.random.fork_rng([] if on_cpu else [model.device], device_type="cuda" if on_cpu else model.device.type),
        tqdm(total=len(rows), desc="Completions", disable=None) as progress,
    ):
        torch.manual_seed(seed)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            texts += _complete(model, tokenizer, batch, max_new_tokens, sampling)
            progress.update(len(batch))
    texts = [_before(text, stop_strings) for text in texts]
    return [texts[start : start + num_samples] for start in range(0, len(texts), num_samples)]


def _complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[list[int]],
    max_new_tokens: int,
    arguments: dict[str, Any],
) -> list[str]:
    """Completions of prompts of ids."""
    # Padding is masked, so that any token will do.
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    output = model.generate(ids, attention_mask=mask, max_new_tokens=max_new_tokens, pad_token_id=pad, **arguments)[
        :, width:
    ].tolist()
    decode = partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    # With their prompts, since some tokenizers drop a space at the beginning, which in Python has a meaning.
    return [decode(row + new)[len(decode(row)) :] for row, new in zip(rows, output)]


def _before(text: str, stop_strings: Sequence[str]) -> str:
    return text[: min((text.find(stop) for stop in stop_strings if stop in text), default=len(text))]


def _is_code(text: str, is_body: bool) -> bool:
    if is_body:
        return text[:1].isspace()
    try:
        return bool(ast.parse(text).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two of deep nesting
        return False
