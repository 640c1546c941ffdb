"""The six controls of Diffusion-LM (arXiv 2205.14217, section 5 and table 1): what texts are steered by."""

from ...lazy import lazy_names


_NAMES = {
    "infilling": ["Infilling"],
    "length": ["Length"],
    "parts_of_speech": ["PartsOfSpeech"],
    "semantic_content": ["SemanticContent"],
    "syntax": ["SyntaxSpans", "SyntaxTree"],
}
__all__, __getattr__, __dir__ = lazy_names(__name__, _NAMES)
