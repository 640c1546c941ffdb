"""Records that satisfy conditions, and latents that are steered."""

from ..lazy import lazy_names


_NAMES = {
    "allowed": ["AllowedIds", "Condition"],
    "guidance": ["Guidance", "Guide"],
    "latent_classifier": ["LatentClassifier"],
    "predicates": ["Between", "Not", "StartsWith"],
    "where": ["parse_where"],
}
__all__, __getattr__, __dir__ = lazy_names(__name__, _NAMES)
