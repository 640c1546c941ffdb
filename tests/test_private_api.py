"""
Private API of libraries that the package relies on, with the version that each was seen in. Where a library drops one,
a test says which, and who uses it; where the package takes up another, a test says that it is not listed here.
"""

from pathlib import Path

import difflm_hf


ROOT = Path(difflm_hf.__file__).parent

# Attributes that are read or called, by where they are defined
USED: dict[str, str] = {}
# Methods of base classes that the package's own replace
REPLACED: dict[str, str] = {}
