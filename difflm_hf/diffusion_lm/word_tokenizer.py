"""Texts as words."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast


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
