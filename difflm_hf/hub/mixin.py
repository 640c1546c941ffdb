"""`push_to_hub` and `from_pretrained` of what goes to the Hub by itself: models, denoisers, schedulers, processors."""

from __future__ import annotations

import os
import tempfile
from pathlib import PurePosixPath

from huggingface_hub import CommitInfo

from .upload import commit_files, explain_hub_errors, folder_files


# Weights that an earlier push may have left, in other shards.
STALE = ("model*.safetensors*", "diffusion_pytorch_model*.safetensors*")


class PushToHubMixin:
    """`push_to_hub` for whatever has a `save_pretrained`, and errors of loading that say what to do."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None = None, *args, **kwargs):
        with explain_hub_errors(pretrained_model_name_or_path, is_upload=False):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        subfolder: str | None = None,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        **kwargs,
    ) -> CommitInfo:
        """
        Saves to a repository of the Hub, in one commit.

        Args:
            repo_id (`str`): The repository, `"name"` or `"namespace/name"`; created where it does not exist.
            subfolder (`str`, *optional*): Where in the repository.
            commit_message, commit_description (`str`, *optional*): Of the commit.
            private (`bool`, *optional*): Whether a new repository is private.
            token (`str` or `bool`, *optional*): A token to write with; the one of `hf auth login` if not given.
            revision (`str`, *optional*): The branch, which is created where it does not exist.
            create_pr (`bool`, defaults to `False`): Open a pull request instead of changing the branch.
            kwargs (*optional*): Those of `save_pretrained`.

        Returns:
            `CommitInfo`.

        Raises:
            `HfHubHTTPError`, `ConnectionError`: when the Hub refuses, or is out of reach. The message says what to do.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **kwargs)
            return commit_files(
                folder_files(folder, subfolder),
                repo_id,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                commit_description=commit_description,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
                delete_patterns=[str(PurePosixPath(subfolder or "") / pattern) for pattern in STALE],
            )
