"""Records that satisfy conditions, and latents that are steered."""

from ..lazy import lazy_names


_NAMES = {
    "allowed": ["AllowedIds", "IdLimits", "StepLimits"],
    "conditions": ["Condition"],
    "documents": ["DocumentCondition"],
    "guidance": ["Guidance", "Guide"],
    "latent_classifier": ["LatentClassifier"],
    "predicates": ["Between", "Contains", "Matches", "Not", "StartsWith"],
    "where": ["parse_where"],
}
__all__, __getattr__, __dir__ = lazy_names(__name__, _NAMES)
