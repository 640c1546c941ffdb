"""Texts as words."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import LongTensor
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging


logger = logging.get_logger(__name__)

# Numbers with what belongs to them, words with their hyphens, endings such as 's, and punctuation
WORD = r"[£$€]?\d+(?:[.,]\d+)*(?:-[£$€]?\d+(?:[.,]\d+)*)*|\w+(?:-\w+)*|['’](?:s|t|d|m|ll|re|ve)\b|[^\w\s]"
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def train_word_tokenizer(
    texts: Sequence[str], min_frequency: int = 2, max_length: int = 64, lowercase: bool = False
) -> PreTrainedTokenizerFast:
    """
    Makes a tokenizer of the words of texts, each of which begins with `<s>` and ends with `</s>`.

    Args:
        texts (`Sequence[str]`): The texts.
        min_frequency (`int`, defaults to 2): Of a word in all texts; rarer ones are `<unk>`.
        max_length (`int`, defaults to 64): Words of a text, with `<s>` and `</s>`, that the model takes.
        lowercase (`bool`, defaults to `False`): Whether to write all words small.

    Returns:
        `PreTrainedTokenizerFast`.

    Raises:
        `ValueError`: for no texts, and where no word is frequent enough.
    """
    if not len(texts) or not all(isinstance(text, str) for text in texts):
        raise ValueError("texts are needed, as a list of str")
    tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIAL_TOKENS["unk_token"]))
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(cleanup=False),  # a space between words
            decoders.Fuse(),
            decoders.Replace(Regex(r" (?=[.,;:!?)\]]|['’](?:s|t|d|m|ll|re|ve)\b)"), ""),
            decoders.Replace(Regex(r"(?<=[(\[]) "), ""),
        ]
    )
    trainer = trainers.WordLevelTrainer(
        min_frequency=min_frequency, special_tokens=list(SPECIAL_TOKENS.values()), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() == len(SPECIAL_TOKENS):
        raise ValueError(f"no word of the texts occurs {min_frequency} times; lower min_frequency")
    begin, end = SPECIAL_TOKENS["bos_token"], SPECIAL_TOKENS["eos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(t, tokenizer.token_to_id(t)) for t in (begin, end)]
    )
    # What looks like a special token in a text is its words.
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length, split_special_tokens=True, **SPECIAL_TOKENS
    )


def encode_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, max_length: int
) -> tuple[LongTensor, list[int]]:
    """
    Words of texts, without those of more words than a model takes, of which it warns.

    Args:
        texts (`Sequence[str]`): The texts.
        tokenizer (`PreTrainedTokenizerFast`): Of [`train_word_tokenizer`].
        max_length (`int`): Words of a text, with `<s>` and `</s>`, that the model takes.

    Returns:
        Ids of shape `(num_kept, max_length)`, padded, and the positions of the texts that were kept.

    Raises:
        `ValueError`: where none is left.
    """
    encoded = tokenizer(list(texts), verbose=False)["input_ids"]
    kept = [k for k, ids in enumerate(encoded) if len(ids) <= max_length]
    if not kept:
        raise ValueError(f"all texts have more than {max_length - 2} words; raise max_sequence_length")
    if left_out := len(encoded) - len(kept):
        logger.warning(
            f"{left_out} of {len(encoded)} texts have more than {max_length - 2} words and are left out; a larger "
            "max_sequence_length of the model takes them"
        )
    padding = {"padding": "max_length", "max_length": max_length, "return_tensors": "pt"}
    return tokenizer.pad({"input_ids": [encoded[k] for k in kept]}, **padding)["input_ids"], kept


def words_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """The words of a text, as the tokenizer cuts it."""
    return [word for word, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]
