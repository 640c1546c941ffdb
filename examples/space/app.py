"""A Space that serves one model: name it in the Space's settings, as the variable `MODEL`."""

import os

from difflm_hf.app import launch


if __name__ == "__main__":
    launch(os.environ.get("MODEL"), host="0.0.0.0", port=7860)
