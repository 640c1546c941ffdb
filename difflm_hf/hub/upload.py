"""Folders to the Hub, whole or not at all, and what to do when the Hub says no."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import httpx2
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    file_exists,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled


UNHARMED = " No half commit is left behind, and files that were sent whole are not sent again."


def commit_files(
    files: Mapping[str, Path | bytes],
    repo_id: str,
    *,
    repo_type: str = "model",
    commit_message: str = "Upload with difflm_hf",
    commit_description: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    delete_patterns: Sequence[str] = (),
) -> CommitInfo:
    """
    Makes files one commit of a repository, which is created where it does not exist. A reader sees all of it or
    nothing. After a cut-off the same call goes on: files that were sent whole are not sent again.

    Args:
        files (`Mapping[str, Path | bytes]`): Files, or what is in them, by their paths in the repository.
        repo_id (`str`): The repository: `"name"` in the user's own namespace, or `"namespace/name"`.
        repo_type (`str`, defaults to `"model"`): `"model"` or `"dataset"`.
        commit_message, commit_description (`str`, *optional*): Of the commit.
        private (`bool`, *optional*): Whether a new repository is private; what is usual for its owner if not given.
        token (`str` or `bool`, *optional*): A token to write with; the one of `hf auth login` if not given.
        revision (`str`, *optional*): The branch, which is created where it does not exist.
        create_pr (`bool`, defaults to `False`): Open a pull request instead of changing the branch.
        delete_patterns (`Sequence[str]`, defaults to none):
            Files to delete from the repository, unless they are uploaded.

    Returns:
        `CommitInfo`.

    Raises:
        `HfHubHTTPError`, `ConnectionError`, `OSError`:
            when the Hub refuses, or is out of reach. The message says what to do.
    """
    api = HfApi(token=token, library_name="difflm_hf")
    with explain_hub_errors(repo_id):
        repo_id = api.create_repo(repo_id, private=private, repo_type=repo_type, exist_ok=True).repo_id
        if revision is not None and not create_pr and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
        # To be told of what others commit from here on, which would otherwise mix with this.
        parent = api.repo_info(repo_id, revision=revision, repo_type=repo_type)
        stale = [
            file.rfilename
            for file in parent.siblings
            if file.rfilename not in files and any(fnmatch(file.rfilename, pattern) for pattern in delete_patterns)
        ]
        if private and not parent.private:
            raise ValueError(f"{repo_id} is there already, and public; make it private first, or name another one")
        # Not `upload_folder` of huggingface_hub, which may make several commits.
        return api.create_commit(
            repo_id,
            [*(CommitOperationAdd(*file) for file in files.items()), *map(CommitOperationDelete, stale)],
            repo_type=repo_type,
            commit_message=commit_message,
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
            parent_commit=parent.sha,
        )


def full_repo_id(repo_id: str, token: str | bool | None = None) -> str:
    """`"namespace/name"`, in the namespace of the token's user where none is given."""
    if "/" in repo_id:
        return repo_id
    with explain_hub_errors(repo_id):
        return f"{HfApi(token=token).whoami()['name']}/{repo_id}"


def folder_files(folder: str | os.PathLike, subfolder: str | None = None) -> dict[str, Path]:
    """The files of a folder by their paths in a repository, there in a subfolder."""
    root = PurePosixPath(subfolder or "")
    paths = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
    return {str(root / path.relative_to(folder).as_posix()): path for path in paths}


def check_reach(
    name: str,
    filename: str,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
) -> None:
    """
    Raises an error at once where a file is neither in a folder nor in the cache, and the Hub is out of reach. A
    download would try for half a minute.
    """
    if not os.path.isdir(name) and not try_to_load_from_cache(name, filename, cache_dir, revision):
        try:
            file_exists(name, filename, revision=revision, token=token)
        except httpx2.TransportError as error:
            raise ConnectionError(str(error)) from error


@contextmanager
def explain_hub_errors(repo_id: str | os.PathLike, is_upload: bool = True) -> Iterator[None]:
    """
    Says what to do, below what the Hub says.

    Args:
        repo_id (`str`): The repository.
        is_upload (`bool`, defaults to `True`): Whether it is written to, or read.
    """
    try:
        yield
    except (httpx2.HTTPError, OSError, RuntimeError, ValueError) as error:
        if getattr(error, "is_explained", False):
            raise
        # The libraries turn what the Hub answers into errors of their own.
        answer = _in_chain(error, HfHubHTTPError)
        cls = OSError
        if answer is not None:
            advice = _advice(answer.response.status_code, answer.response.headers, repo_id, is_upload)
        elif _in_chain(error, httpx2.TransportError) is not None:
            advice, cls = _lost_connection(is_upload), ConnectionError
        elif not is_upload and _in_chain(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)) is not None:
            advice = (
                f"{repo_id} is not in the cache: load it once with the network, without HF_HUB_OFFLINE and "
                "local_files_only."
            )
        else:
            raise
        if isinstance(error, HfHubHTTPError):
            error.append_to_message(f"\n\n{advice}")
            error.is_explained = True
            raise
        explanation = cls(f"{error}\n\n{advice}")
        explanation.is_explained = True
        raise explanation from error


def _in_chain(error: BaseException | None, cls: type | tuple[type, ...]) -> Any:
    while error is not None and not isinstance(error, cls):
        error = error.__cause__ or error.__context__
    return error


def _advice(status: int, headers: Any, repo_id: str | os.PathLike, is_upload: bool) -> str:
    access = "write access" if is_upload else "read access"
    again = "push again" if is_upload else "try again"
    if status == 401:
        return (
            f"Log in with `hf auth login`, or pass a token with {access} to {repo_id} as token=... or in HF_TOKEN; if "
            "there is one, it is wrong, revoked or out of date."
        )
    if status == 403:
        return (
            f"The token has no {access} to {repo_id}: make one that has at {constants.ENDPOINT}/settings/tokens, ask "
            "the owner to let you in, or choose a repository of your own."
        )
    if status == 404:
        return (
            f"There is no {repo_id} with what was asked for, or the token may not see it: look at the spelling of "
            "name and revision, and log in with `hf auth login` if the repository is private."
        )
    if status in (409, 412):
        return f"Someone else changed {repo_id} at the same moment: {again}."
    if status == 429:
        wait = headers.get("Retry-After")
        when = f"in {wait} seconds" if wait and wait.isdigit() else f"after {wait}" if wait else "in some minutes"
        return f"Too many requests in a short time. Nothing is wrong with yours: {again} {when}."
    if status >= 500:
        return f"The Hub has trouble of its own ({status}): {again} in some minutes.{UNHARMED if is_upload else ''}"
    return f"The Hub refuses the request ({status}); what it says above tells why."


def _lost_connection(is_upload: bool) -> str:
    if is_upload:
        return f"The connection to {constants.ENDPOINT} was lost: push again.{UNHARMED}"
    return (
        f"{constants.ENDPOINT} is out of reach: look at the network, or pass local_files_only=True (or set "
        "HF_HUB_OFFLINE=1) for what is cached."
    )
