"""
Records from latents and uniform random numbers: by fixed ranges of ids, by a grammar, or as free texts.

Each of the three loops takes a [`DiffLMForCausalLM`], and the arguments of its `sample_records`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import record_function
from transformers import LogitsProcessor, PreTrainedModel

from .cache import BufferedLayer, buffered_cache
from .control.allowed import AllowedIds
from .records.grammar import Grammar
from .records.hashing import derive_keys, keys_of, uniforms_of
from .utils import check_cancelled


# Causal LMs that count positions in the cache, those that a mask leaves out included: by windows, or by ALiBi
COUNTING_MODELS = ("gpt_neo", "mpt")
# Of documents: positions that the cache has room for at first, and how much of a batch may be open for it to leave the
# complete rest behind
CACHE_ROOM, SHRINKING = 128, 7 / 8
# Tokens that take as long as a pass of a causal LM takes beside them: on processors to read its weights, and on
# accelerators, which wait for it, to start its operations
PASS_TOKENS = {"cpu": 8}
ACCELERATOR_PASS_TOKENS = 4096


def inverse_transform_sample(
    logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float
) -> torch.LongTensor:
    """One id for each row of logits: the cumulative distribution, inverted at a uniform number."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float()
    probs = (logits if temperature == 1 else logits / temperature).softmax(-1)
    if top_p < 1:
        ordered, _ = probs.sort(-1, descending=True)
        num_kept = (ordered.cumsum(-1) - ordered < top_p).sum(-1, keepdim=True)
        probs = probs.where(probs >= ordered.gather(-1, num_kept - 1), 0)
    cumulative = probs.cumsum(-1)
    total = cumulative[:, -1:]
    # Below the total however products round: then an id that the target falls to has some probability.
    targets = torch.minimum(uniforms[:, None].to(probs) * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, targets, right=True).squeeze(-1)


class InverseTransformSampler(LogitsProcessor):
    """
    Sampling from given random numbers, inside `generate`: leaves one id for greedy decoding to take.

    Args:
        uniforms (`torch.FloatTensor` of shape `(batch_size, max_new_tokens)`): Uniform random numbers in [0, 1).
        temperature (`float`): Divides the logits; 0 takes the likeliest id.
        top_p (`float`): Samples from the likeliest ids that together have this probability.
    """

    def __init__(self, uniforms: torch.FloatTensor, temperature: float, top_p: float):
        self.uniforms = uniforms
        self.temperature, self.top_p = temperature, top_p
        self.step = 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        ids = inverse_transform_sample(scores, self.uniforms[:, self.step], self.temperature, self.top_p)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(-1, ids[:, None], 0.0)


def sample_rows(
    model: PreTrainedModel,
    latents: torch.FloatTensor,
    uniforms: torch.FloatTensor,
    temperature: float,
    top_p: float,
    allowed: AllowedIds | None = None,
    free_latents: torch.FloatTensor | None = None,
) -> tuple[torch.LongTensor, torch.FloatTensor, torch.FloatTensor]:
    """
    Rows of `config.position_ranges`; the logarithm of the probability that the allowed ids had, each given those
    before it, where the model was not told which one it is; and that of the ratio of the probability of a row given
    `free_latents` to the one that it was drawn with, known ids aside.
    """
    config, num_fixed, layout = model.config, len(model.config.fixed_ranges), model.layout
    bos, eos, pad = (getattr(model.lm.config, f"{name}_token_id") for name in ("bos", "eos", "pad"))
    num_rows = len(latents)
    num_open = torch.full((num_rows,), config.num_texts, device=latents.device)
    # Positions come first, in memory: each step reads and writes those of all records.
    ids = torch.full((config.max_record_length, num_rows), pad, device=latents.device)
    ids[0] = bos
    uniforms = uniforms.T.contiguous()
    log_weights, log_ratios = torch.zeros(2, num_rows, device=latents.device)
    if free_latents is not None:
        latents = torch.cat([latents, free_latents])
    cache = buffered_cache(model.lm.config, config.max_record_length + model.injection.num_virtual_tokens)
    for position in range(config.max_record_length - 1):
        check_cancelled()
        with record_function("difflm::step" if position else "difflm::prefill"):
            is_needed = position == 0 or model.injection.every_token
            read = ids[position] if free_latents is None else ids[position].repeat(2)
            hidden, _ = model.hidden_states(read[:, None], latents if is_needed else None, cache, use_cache=True)
        with record_function("difflm::head"):
            start, end = config.position_ranges[min(position, len(config.position_ranges) - 1)]
            all_logits = model.range_logits(hidden[:, -1], start, end)
            if layout is not None:
                all_logits = layout.levels[0].limit(all_logits, position, ids[1:].T)
            logits = all_logits[:num_rows]
        with record_function("difflm::sampling"):
            if allowed is not None and (shares := allowed.log_shares(position, ids)) is not None:
                logits, log_shares = limit_logits(logits, shares, temperature)
                log_weights += log_shares
            next_ids = start + inverse_transform_sample(logits, uniforms[position], temperature, top_p)
            if allowed is not None and position < num_fixed and (known := allowed.is_known[:, position]).any():
                next_ids = next_ids.where(~known, allowed.ids[:, position])
                if not config.condition_size:  # what the model is not told counts as what is allowed
                    log_probs = logits.log_softmax(-1).gather(1, next_ids[:, None] - start).squeeze(1)
                    log_weights += log_probs.where(known, 0)
            if free_latents is not None:
                chosen = (next_ids - start)[:, None]
                told, free = (
                    part.gather(1, chosen).squeeze(1) - part.logsumexp(-1) for part in all_logits.split(num_rows)
                )
                if position < num_fixed:
                    log_ratios += free - told.where(~allowed.is_known[:, position], 0)
                else:
                    log_ratios += (free - told).where(num_open > 0, 0)
            if position >= num_fixed:
                next_ids = next_ids.where(num_open > 0, pad)
                num_open = num_open - (next_ids == eos).long()
            ids[position + 1] = next_ids
            if position >= num_fixed - 1 and not (num_open > 0).any():
                break
    ids = ids[: position + 2].T
    if layout is not None:
        keys, last = derive_keys(*map(keys_of, uniforms[-2:])), ids[:, -1]
        # Of a model that is told nothing, if there is one: then lists need no weight for what it was told.
        sums = model.sums(cache, last if free_latents is None else last.repeat(2))[-num_rows:]
        ids, of_lists = sample_lists(model, ids[:, 1:], sums, keys, temperature, top_p, allowed)
        log_weights = log_weights + of_lists
    return ids, log_weights, log_ratios


def sample_lists(
    model: PreTrainedModel,
    ids: torch.LongTensor,
    sums: torch.Tensor,
    keys: torch.LongTensor,
    temperature: float,
    top_p: float,
    allowed: AllowedIds | None = None,
) -> tuple[torch.LongTensor, torch.FloatTensor]:
    """
    Records with their lists, by the records without: list by list, item by item, of all that have one there.

    Args:
        model ([`DiffLMForCausalLM`]): The model.
        ids (`torch.LongTensor` of shape `(batch_size, num_positions)`): The tokens of records without lists.
        sums (`torch.Tensor` of shape `(batch_size, embedding_size)`): Their sums, latents included.
        keys (`torch.LongTensor` of shape `(batch_size,)`): All the randomness there is.
        temperature, top_p: As of `sample_records`.
        allowed ([`AllowedIds`], *optional*): What conditions leave of records, and of their items.

    Returns:
        Ids from BOS on, right-padded, `torch.LongTensor` of shape `(batch_size, sequence_length)`, and of each record
        the logarithm of the probability that the allowed ids had, of shape `(batch_size,)`.
    """
    log_weights = torch.zeros(len(ids), device=ids.device)
    all_records = [torch.arange(len(ids), device=ids.device)]
    layout, embedding = model.layout, model.get_input_embeddings()
    all_ids, all_parents, all_keys, after = [ids], [torch.arange(len(ids), device=ids.device)], [keys], [sums]
    given = [torch.full_like(all_records[0], -1) if allowed is None or allowed.numbers is None else allowed.numbers]
    for number, (level, modules) in enumerate(zip(layout.levels[1:], model.lm.model.lists), 1):
        above, of_level = level.parent, None if allowed is None else allowed.items.get(number)
        lengths = layout.num_items(number, all_ids[above])
        order = lengths.argsort(descending=True, stable=True)  # those that have an item at a place come first
        state, total = modules.memory.start(len(order)), torch.zeros_like(after[above])
        context, list_keys = after[above][order], derive_keys(all_keys[above][order], number)
        found = []
        for place in range(int(lengths.max()) if len(lengths) else 0):
            check_cancelled()
            num = int((lengths > place).sum())
            item_keys = derive_keys(list_keys[:num], place)
            rows, left = given[above][order[:num]], of_level
            if of_level is not None and of_level.starts is not None:
                rows = of_level.rows_of_items(rows, place)
                left = of_level.take(rows)
            before = context[:num] + modules.memory.to_item(state[:num]).float()
            items, whole = torch.zeros(num, len(level.ranges), dtype=torch.long, device=ids.device), before
            for position, (start, end) in enumerate(level.ranges):
                hidden = modules.states(whole[None], slice(position, position + 1))[0]
                logits = level.limit(model.range_logits(hidden, start, end), position, items)
                uniforms = uniforms_of(derive_keys(item_keys, position))
                of_items = torch.zeros(num, device=ids.device)
                if left is not None and (shares := left.log_shares(position, F.pad(items, (1, 0)).T)) is not None:
                    logits, of_items = limit_logits(logits, shares, temperature)
                items[:, position] = start + inverse_transform_sample(logits, uniforms, temperature, top_p)
                if left is not None and (known := left.is_known[:, position]).any():
                    items[:, position] = items[:, position].where(~known, left.ids[:, position])
                    log_probs = logits.log_softmax(-1).gather(1, items[:, position, None] - start).squeeze(1)
                    of_items = of_items.where(~known, log_probs)
                if left is not None:
                    log_weights.index_add_(0, all_records[above][order[:num]], of_items)
                whole = whole + embedding(items[:, position]).float()
            terms = whole - before
            state = torch.cat([modules.memory.step(terms, state[:num]), state[num:]])
            total[:num] += terms
            found.append((items, order[:num], item_keys, whole, rows))
        after[above] = after[above].index_add(0, order, modules.memory.summary(total, state, lengths[order]))
        found = found or [(ids.new_zeros(0, len(level.ranges)), order[:0], keys[:0], sums[:0], order[:0])]
        items, parents, item_keys, whole, rows = map(torch.cat, zip(*found))
        by_list = parents.argsort(stable=True)  # places ascend already
        all_records.append(all_records[above][parents[by_list]])
        all_levels, found = (all_ids, all_parents, all_keys, after, given), (items, parents, item_keys, whole, rows)
        for all_rows, of_rows in zip(all_levels, found):
            all_rows.append(of_rows[by_list])
    return layout.pack(all_ids, all_parents), log_weights


def limit_logits(
    logits: torch.Tensor, log_shares: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of what is allowed, by the logarithm of the share of each id, and that of their probability in all."""
    scale = 1 if temperature in (0, 1) else temperature
    limited = logits / scale + log_shares
    return limited * scale, limited.logsumexp(-1) - (logits / scale).logsumexp(-1)


def sample_by_grammar(
    model: PreTrainedModel,
    latents: torch.FloatTensor,
    uniforms: torch.FloatTensor,
    temperature: float,
    top_p: float,
    grammar: Grammar,
) -> torch.LongTensor:
    """
    Records that the grammar allows. Each step feeds ids that were sampled or have to follow such a one, of as many
    places as [`pass_length`] says, so that records move on at different paces: the cache has gaps, which the attention
    mask leaves out. LMs that count what is in the cache, as those with a window do, get one id of each record at a
    time.
    """
    bos, device = model.lm.config.bos_token_id, latents.device
    parsers = [grammar.start() for _ in range(len(latents))]
    queues = [[bos, *parser.ids] for parser in parsers]  # ids that the LM has not seen

    def is_open(row: int) -> bool:
        return not parsers[row].is_complete and len(parsers[row].ids) < uniforms.shape[1]

    cache = buffered_cache(model.lm.config, CACHE_ROOM)
    is_plain = all(isinstance(layer, BufferedLayer) for layer in cache.layers)
    has_gaps = is_plain and model.lm.config.model_type not in COUNTING_MODELS
    pass_tokens = PASS_TOKENS.get(device.type, ACCELERATOR_PASS_TOKENS)
    rows = [row for row in range(len(latents)) if is_open(row)]  # records that are in the batch
    attention_mask = torch.zeros(len(rows), 0, dtype=torch.long, device=device)
    while any(map(is_open, rows)):
        # What is complete, but has to stay in the batch, gets an id that no one looks at.
        waiting = [len(queues[row]) for row in rows if is_open(row)]
        length = pass_length(waiting, len(rows), pass_tokens) if has_gaps else 1
        new_ids = [queues[row][:length] or [bos] for row in rows]
        for row, ids in zip(rows, new_ids):
            queues[row] = queues[row][len(ids) :]
        sampled = [k for k, row in enumerate(rows) if is_open(row) and not queues[row]]
        with record_function("difflm::grammar"):
            forbidden = grammar.forbidden(parsers[rows[k]] for k in sampled)
        is_first = attention_mask.shape[1] == 0
        with record_function("difflm::prefill" if is_first else "difflm::step"):
            # Padding is on the left: logits are those of the last position then.
            input_ids = torch.tensor([[bos] * (length - len(ids)) + ids for ids in new_ids], device=device)
            is_real = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in new_ids], device=device)
            attention_mask = torch.cat([attention_mask, is_real], dim=1)
            is_needed = is_first or model.injection.every_token
            logits = model.last_logits(input_ids, latents[rows] if is_needed else None, cache, attention_mask, sampled)
            logits = logits[:, : grammar.vocab_size].float()
        if not sampled:
            continue
        with record_function("difflm::grammar"):
            mask = torch.from_numpy(forbidden.result()).to(device)
            logits.masked_fill_(mask[:, : logits.shape[1]], -torch.inf)
        with record_function("difflm::sampling"):
            written = [rows[k] for k in sampled]
            positions = [len(parsers[row].ids) for row in written]
            next_ids = inverse_transform_sample(logits, uniforms[written, positions], temperature, top_p).tolist()
        with record_function("difflm::grammar"):
            for row, next_id in zip(written, next_ids):
                queues[row] = parsers[row].append(next_id)
        still_open = [k for k, row in enumerate(rows) if is_open(row)]
        if has_gaps and 0 < len(still_open) <= SHRINKING * len(rows):
            # No record waits for the longest: the batch shrinks, at times, as it takes a copy of the cache.
            cache.batch_select_indices(torch.tensor(still_open, device=device))
            attention_mask = attention_mask[still_open]
            rows = [rows[k] for k in still_open]
    pad = model.lm.config.pad_token_id
    records = [torch.tensor([bos, *parser.ids]) for parser in parsers]
    return nn.utils.rnn.pad_sequence(
        records, batch_first=True, padding_value=grammar.eos_token_id if pad is None else pad
    )


def pass_length(queues: list[int], num_rows: int, pass_tokens: int) -> int:
    """
    How many ids of each record a pass takes, where queues of these lengths wait: those by which it feeds the most in
    its time, which goes into padding, too, and is that of `pass_tokens` more in any case.
    """

    def rate(length: int) -> float:
        return sum(min(queue, length) for queue in queues) / (pass_tokens + num_rows * length)

    return max(sorted(set(queues)), key=rate)


def sample_texts(
    model: PreTrainedModel, latents: torch.FloatTensor, uniforms: torch.FloatTensor, temperature: float, top_p: float
) -> torch.LongTensor:
    """Texts that end with EOS, by `generate`."""
    return model.generate(
        latents=latents,
        max_new_tokens=uniforms.shape[1],
        do_sample=False,
        logits_processor=[InverseTransformSampler(uniforms, temperature, top_p)],
        past_key_values=buffered_cache(model.lm.config, CACHE_ROOM),
    )
