"""The local Hub, through the real clients."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import httpx2
import pytest
from hub_server import HubServer, hub_fixture, validate_card  # noqa: F401
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    constants,
    get_hf_file_metadata,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


MODEL = "alice/model"
WEIGHTS = bytes(range(256)) * 40

pytestmark = pytest.mark.slow  # of what only tests use


@pytest.fixture(autouse=True)
def without_xet(monkeypatch):
    # As the environment variable, which is read when the package is imported.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.url, token="hf_alice")


@pytest.fixture
def bob(hub):
    return HfApi(endpoint=hub.url, token="hf_bob")


@pytest.fixture
def model(api):
    """A model with a small and a large file."""
    api.create_repo(MODEL)
    return upload(api, {"config.json": b"{}", "weights/model.safetensors": WEIGHTS})


def upload(api, files, **kwargs):
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    return api.create_commit(MODEL, operations, commit_message="Upload", **kwargs)


def status_of(error):
    return error.value.response.status_code


def statuses(hub, method, path):
    return [request.status for request in hub.requests if request.method == method and path in request.path]


# Users and repositories


def test_users(hub, api):
    hub.add_user("carol", orgs=["lab"])
    carol = HfApi(endpoint=hub.url, token="hf_carol")
    assert [org["name"] for org in carol.whoami()["orgs"]] == ["lab"]
    assert carol.create_repo("lab/model").repo_id == "lab/model"
    assert api.whoami()["auth"]["accessToken"]["role"] == "write"
    assert api.whoami(token="hf_alice_read")["auth"]["accessToken"]["role"] == "read"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(token="hf_wrong")


@pytest.mark.parametrize("repo_type, page", [("model", ""), ("dataset", "/datasets"), ("space", "/spaces")])
def test_repositories(hub, api, repo_type, page):
    sdk = {"space_sdk": "static"} if repo_type == "space" else {}
    url = api.create_repo("thing", repo_type=repo_type, **sdk)
    assert (url, url.repo_id, url.repo_type) == (f"{hub.url}{page}/alice/thing", "alice/thing", repo_type)
    with pytest.raises(HfHubHTTPError, match="You already created this") as error:
        api.create_repo("alice/thing", repo_type=repo_type, **sdk)
    assert status_of(error) == 409
    assert api.create_repo("alice/thing", repo_type=repo_type, exist_ok=True, **sdk) == url

    info = api.repo_info("alice/thing", repo_type=repo_type)
    assert (info.id, info.author, info.private) == ("alice/thing", "alice", False)
    api.update_repo_settings("alice/thing", repo_type=repo_type, private=True)
    assert api.repo_info("alice/thing", repo_type=repo_type).private
    api.delete_repo("alice/thing", repo_type=repo_type)
    api.delete_repo("alice/thing", repo_type=repo_type, missing_ok=True)
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("alice/thing", repo_type=repo_type)


def test_private_repositories_are_invisible_to_others(hub, api, bob):
    api.create_repo(MODEL, private=True)
    upload(api, {"config.json": b"{}"})
    assert api.model_info(MODEL, token="hf_alice_read").private
    assert not bob.repo_exists(MODEL)
    for call in (bob.model_info, bob.list_repo_files, bob.list_repo_refs, bob.list_repo_commits):
        with pytest.raises(RepositoryNotFoundError) as error:
            call(MODEL)
        assert status_of(error) == 404
        with pytest.raises(RepositoryNotFoundError) as error:
            call(MODEL, token=False)
        assert status_of(error) == 401
    with pytest.raises(RepositoryNotFoundError):
        upload(bob, {"config.json": b"[]"})
    with pytest.raises(RepositoryNotFoundError):
        get_hf_file_metadata(hf_hub_url(MODEL, "config.json", endpoint=hub.url), token="hf_bob")
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        api.model_info(MODEL, token="hf_wrong")


def test_only_owners_write(hub, api, bob, model):
    reader = HfApi(endpoint=hub.url, token="hf_alice_read")
    for client in (reader, bob):
        calls = [
            lambda client=client: upload(client, {"config.json": b"[]"}),
            lambda client=client: client.delete_file("config.json", MODEL),
            lambda client=client: client.create_branch(MODEL, branch="mine"),
            lambda client=client: client.create_tag(MODEL, tag="mine"),
            lambda client=client: client.update_repo_settings(MODEL, private=True),
            lambda client=client: client.delete_repo(MODEL),
            lambda client=client: client.create_repo("alice/other"),
        ]
        for call in calls:
            with pytest.raises(HfHubHTTPError) as error:
                call()
            assert status_of(error) == 403
        # Which is no error if it exists; the client then wants the endpoint from its environment.
        code = f"from huggingface_hub import create_repo; print(create_repo({MODEL!r}, exist_ok=True).repo_id)"
        assert hub.run_python(code, token=client.token).strip() == MODEL
    assert hub.repo(MODEL).refs["refs/heads/main"].id == model.oid


# Files and commits


def test_commits(hub, api, model):
    assert hub.files(MODEL) == {"config.json": b"{}", "weights/model.safetensors": WEIGHTS}
    operations = [
        CommitOperationCopy("config.json", "copies/config.json"),
        CommitOperationCopy("weights/model.safetensors", "copies/model.safetensors"),
        CommitOperationDelete("weights/"),
        CommitOperationDelete("config.json"),
    ]
    second = api.create_commit(MODEL, operations, commit_message="Move", commit_description="to copies")
    assert hub.files(MODEL) == {"copies/config.json": b"{}", "copies/model.safetensors": WEIGHTS}
    commits = api.list_repo_commits(MODEL)
    assert [commit.title for commit in commits] == ["Move", "Upload", "initial commit"]
    assert [commit.commit_id for commit in commits[:2]] == [second.oid, model.oid]
    assert (commits[0].message, commits[0].authors) == ("to copies", ["alice"])
    with pytest.raises(EntryNotFoundError, match="A file with this name doesn't exist"):
        api.delete_file("config.json", MODEL)
    with pytest.raises(EntryNotFoundError):
        api.delete_folder("weights", MODEL)


def test_unchanged_files_make_no_commit(hub, api, model):
    assert upload(api, {"config.json": b"{}", "weights/model.safetensors": WEIGHTS}).oid == model.oid
    # Of another name, but known: not sent again.
    upload(api, {"again.safetensors": WEIGHTS})
    assert len(statuses(hub, "PUT", "/lfs/")) == 1


def test_parent_commit(hub, api, model):
    second = upload(api, {"config.json": b"[]"}, parent_commit=model.oid[:7])
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as error:
        upload(api, {"config.json": b"1"}, parent_commit=model.oid)
    assert status_of(error) == 412
    assert api.model_info(MODEL).sha == second.oid


def test_invalid_commits_change_nothing(hub, api, model):
    with pytest.raises(EntryNotFoundError):
        operations = [CommitOperationAdd("new.json", b"{}"), CommitOperationDelete("missing.json")]
        api.create_commit(MODEL, operations, commit_message="Half")
    for line in (
        b"{",
        b'{"key": "file"}\n',
        b'{"key": "header", "value": {"summary": ""}}\n{"key": "x", "value": {}}',
    ):
        response = httpx2.post(
            f"{hub.url}/api/models/{MODEL}/commit/main", content=line, headers={"Authorization": "Bearer hf_alice"}
        )
        assert response.status_code == 400
    assert api.model_info(MODEL).sha == model.oid


def test_listings_come_in_pages(hub, api, model):
    for index in range(20):
        path = f"data/{index % 2}/file {index:02}.txt"
        api.upload_file(path_or_fileobj=b"%d" % index, path_in_repo=path, repo_id=MODEL)
    files = api.list_repo_files(MODEL)
    assert len(files) == 23 and "data/0/file 00.txt" in files
    assert len(statuses(hub, "GET", "/tree/main")) == -(-26 // hub.page_size)
    assert len(api.list_repo_commits(MODEL)) == 22
    assert len(statuses(hub, "GET", "/commits/main")) == -(-22 // hub.page_size)

    top = {entry.path for entry in api.list_repo_tree(MODEL)}
    assert top == {".gitattributes", "config.json", "data", "weights"}
    assert len(list(api.list_repo_tree(MODEL, "data/1"))) == 10
    (entry,) = (entry for entry in api.list_repo_tree(MODEL, "data", expand=True) if entry.path == "data/1")
    assert entry.last_commit.oid == api.list_repo_commits(MODEL)[0].commit_id
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(MODEL, "missing"))
    with pytest.raises(RevisionNotFoundError):
        list(api.list_repo_tree(MODEL, revision="missing"))


def test_file_information(hub, api, model):
    paths = ["config.json", "weights", "weights/model.safetensors", "missing"]
    config, folder, weights = api.get_paths_info(MODEL, paths, expand=True)
    assert (config.size, config.lfs, folder.path) == (2, None, "weights")
    assert config.blob_id == hashlib.sha1(b"blob 2\0{}").hexdigest()
    assert (weights.lfs.sha256, weights.lfs.size) == (hashlib.sha256(WEIGHTS).hexdigest(), len(WEIGHTS))
    assert weights.last_commit.oid == model.oid
    siblings = {sibling.rfilename: sibling for sibling in api.model_info(MODEL, files_metadata=True).siblings}
    assert siblings["weights/model.safetensors"].lfs == weights.lfs
    assert api.model_info(MODEL, expand=["sha"]).sha == model.oid
    assert api.file_exists(MODEL, "config.json") and not api.file_exists(MODEL, "missing")


def test_which_files_are_large(hub, api):
    api.create_repo(MODEL)
    hub.lfs_size = 1000
    upload(api, {"a.bin": b"a", "a.txt": b"a", "long.txt": b"a" * 1001, "zeros": b"\0", "empty.bin": b""})
    large = {entry.path for entry in api.list_repo_tree(MODEL) if entry.lfs}
    assert large == {"a.bin", "long.txt", "zeros"}


def test_folders(hub, api, model, tmp_path):
    for path in ("a.txt", "data/b.txt", "data/c.bin"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(path)
    options = {"path_in_repo": "weights", "delete_patterns": "*.safetensors", "ignore_patterns": "a.txt"}
    api.upload_folder(repo_id=MODEL, folder_path=tmp_path, **options)
    assert hub.files(MODEL).keys() == {"config.json", "weights/data/b.txt", "weights/data/c.bin"}


# Branches, tags and pull requests


def test_branches_and_tags(hub, api, model):
    api.create_branch(MODEL, branch="feature/x")
    api.create_branch(MODEL, branch="feature/x", exist_ok=True)
    with pytest.raises(HfHubHTTPError) as error:
        api.create_branch(MODEL, branch="feature/x")
    assert status_of(error) == 409
    with pytest.raises(BadRequestError):
        api.create_branch(MODEL, branch="refs/pr/1")
    on_branch = upload(api, {"config.json": b"[]"}, revision="feature/x")
    api.create_tag(MODEL, tag="v1", revision="feature/x", tag_message="First")
    api.create_tag(MODEL, tag="v1", exist_ok=True)
    api.create_branch(MODEL, branch="old", revision=model.oid)

    refs = api.list_repo_refs(MODEL, include_pull_requests=True)
    branches = {"main": model.oid, "feature/x": on_branch.oid, "old": model.oid}
    assert {ref.name: ref.target_commit for ref in refs.branches} == branches
    assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1", on_branch.oid)]
    assert api.model_info(MODEL, revision="v1").sha == on_branch.oid

    api.delete_branch(MODEL, branch="feature/x")
    api.delete_tag(MODEL, tag="v1")
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(MODEL, tag="v1")
    with pytest.raises(HfHubHTTPError):
        api.delete_branch(MODEL, branch="main")
    for call in (api.model_info, api.list_repo_commits, lambda *a, **k: upload(api, {"a.txt": b"a"}, **k)):
        with pytest.raises(RevisionNotFoundError):
            call(MODEL, revision="feature/x")


def test_pull_requests(hub, api, bob, model):
    first = upload(bob, {"config.json": b"[]", "more.safetensors": WEIGHTS[:100]}, create_pr=True)
    assert (first.pr_num, first.pr_revision) == (1, "refs/pr/1")
    assert hub.files(MODEL)["config.json"] == b"{}"
    upload(bob, {"README.md": CARD.encode()}, revision="refs/pr/1")
    upload(api, {"main.txt": b"main"})

    details = api.get_discussion_details(MODEL, 1)
    assert (details.status, details.author, details.conflicting_files) == ("open", "bob", [])
    assert [event.type for event in details.events] == ["comment", "commit", "commit"]
    assert bob.comment_discussion(MODEL, 1, "Done").content == "Done"
    with pytest.raises(HfHubHTTPError):
        bob.merge_pull_request(MODEL, 1)
    api.merge_pull_request(MODEL, 1)
    merged = {"config.json": b"[]", "README.md": CARD.encode(), "main.txt": b"main", "more.safetensors": WEIGHTS[:100]}
    assert hub.files(MODEL) == {**merged, "weights/model.safetensors": WEIGHTS}
    assert api.get_discussion_details(MODEL, 1).merge_commit_oid == api.model_info(MODEL).sha

    upload(bob, {"config.json": b"1"}, create_pr=True)
    upload(api, {"config.json": b"2"})
    assert api.get_discussion_details(MODEL, 2).conflicting_files == ["config.json"]
    with pytest.raises(HfHubHTTPError) as error:
        api.merge_pull_request(MODEL, 2)
    assert status_of(error) == 409
    assert api.change_discussion_status(MODEL, 2, "closed").new_status == "closed"
    for _ in range(10):
        api.create_discussion(MODEL, "Question")
    assert api.create_pull_request(MODEL, "Draft").status == "draft"
    assert len(list(api.get_repo_discussions(MODEL))) == 13
    kinds = {"discussion_type": "pull_request", "discussion_status": "open"}
    assert [found.num for found in api.get_repo_discussions(MODEL, **kinds)] == [13]
    assert len(api.list_repo_refs(MODEL, include_pull_requests=True).pull_requests) == 3


# Large files


def test_a_changed_file_is_refused(hub, api, model, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"good")
    operation = CommitOperationAdd("new.safetensors", path)
    assert operation.upload_info.sha256
    path.write_bytes(b"evil")
    with pytest.raises(RuntimeError) as error:
        api.create_commit(MODEL, [operation], commit_message="Upload")
    assert "does not have the oid" in str(error.value.__cause__)
    assert api.model_info(MODEL).sha == model.oid
    assert statuses(hub, "POST", "objects/verify")[-1] == 400


@pytest.mark.parametrize("size", [1000, 1001, 4500])
def test_uploads_in_parts(hub, api, size):
    hub.multipart_size = 1000
    api.create_repo(MODEL)
    upload(api, {"model.safetensors": WEIGHTS[:size]})
    assert hub.files(MODEL) == {"model.safetensors": WEIGHTS[:size]}
    assert len(statuses(hub, "PUT", "/parts/")) == (0 if size == 1000 else -(-size // 1000))


def test_downloads(hub, api, model):
    config = get_hf_file_metadata(hf_hub_url(MODEL, "config.json", endpoint=hub.url))
    assert (config.commit_hash, config.size) == (model.oid, 2)
    url = hf_hub_url(MODEL, "weights/model.safetensors", endpoint=hub.url)
    weights = get_hf_file_metadata(url)
    assert (weights.commit_hash, weights.size) == (model.oid, len(WEIGHTS))
    assert weights.etag == hashlib.sha256(WEIGHTS).hexdigest()
    assert weights.location.startswith(hub.cdn_url)

    for wanted, part in (
        ("bytes=10-19", WEIGHTS[10:20]),
        ("bytes=10000-", WEIGHTS[10000:]),
        ("bytes=-5", WEIGHTS[-5:]),
    ):
        headers = {"Range": wanted, "Authorization": "Bearer hf_alice"}
        response = httpx2.get(url, headers=headers, follow_redirects=True)
        assert (response.status_code, response.content) == (206, part)
    assert httpx2.get(weights.location, headers={"Range": f"bytes={len(WEIGHTS)}-"}).status_code == 416
    # Neither without its signature, nor with a token as well.
    assert httpx2.get(weights.location[:-1]).status_code == 403
    assert httpx2.get(weights.location, headers={"Authorization": "Bearer hf_alice"}).status_code == 400


@pytest.mark.parametrize("revision", ["main", "side", "v1", "refs/pr/1", "commit"])
def test_snapshots(hub, api, bob, model, tmp_path, revision):
    api.create_branch(MODEL, branch="side")
    upload(api, {"revision.txt": b"side"}, revision="side")
    api.create_tag(MODEL, tag="v1", revision=upload(api, {"revision.txt": b"v1"}).oid)
    commit = upload(api, {"revision.txt": b"commit"}).oid
    upload(bob, {"revision.txt": b"refs/pr/1"}, create_pr=True)
    upload(api, {"revision.txt": b"main"})
    asked = {"revision": commit if revision == "commit" else revision, "endpoint": hub.url, "cache_dir": tmp_path}
    folder = Path(snapshot_download(MODEL, token=False, **asked))
    assert (folder / "revision.txt").read_text() == revision
    assert (folder / "weights/model.safetensors").read_bytes() == WEIGHTS

    num_requests = len(hub.requests)
    assert snapshot_download(MODEL, local_files_only=True, **asked) == str(folder)
    assert len(hub.requests) == num_requests
    with pytest.raises(RevisionNotFoundError):
        snapshot_download(MODEL, **{**asked, "revision": "missing"})


# Faults


def test_failures(hub, api, model):
    for status in (401, 403, 404, 409, 500):
        hub.fail("POST", "/commit/main", status, body={"error": f"No {status}"})
        with pytest.raises(HfHubHTTPError, match=f"No {status}") as error:
            upload(api, {"config.json": b"[]"})
        assert status_of(error) == status
    hub.fail("GET", f"/api/models/{MODEL}$", 404, headers={"X-Error-Code": "RepoNotFound"})
    with pytest.raises(RepositoryNotFoundError):
        api.model_info(MODEL)
    assert api.model_info(MODEL).sha == model.oid
    assert upload(api, {"config.json": b"[]"}).oid != model.oid


def test_too_many_requests(hub, api, model, tmp_path):
    hub.fail("POST", "/preupload/", 429, headers={"Retry-After": "0"})
    upload(api, {"config.json": b"[]"})
    assert statuses(hub, "POST", "/preupload/")[-2:] == [429, 200]
    hub.fail("GET", f"/api/models/{MODEL}/revision/main", 429, headers={"Retry-After": "0"})
    with pytest.raises(LocalEntryNotFoundError):
        api.snapshot_download(MODEL, cache_dir=tmp_path)


@pytest.mark.parametrize("after_bytes", [1, len(WEIGHTS) // 2, len(WEIGHTS)])
def test_a_cut_off_upload_is_sent_again(hub, api, after_bytes):
    api.create_repo(MODEL)
    hub.cut_off(after_bytes)
    upload(api, {"model.safetensors": WEIGHTS})
    assert statuses(hub, "PUT", "/lfs/") == [None, 200]
    assert hub.files(MODEL) == {"model.safetensors": WEIGHTS}


def test_a_cut_off_commit_changes_nothing(hub, api, model):
    files = {"config.json": b"[]" * 1000, "more.json": b"{}"}
    hub.cut_off(1000)
    with pytest.raises(httpx2.TransportError):
        upload(api, files)
    assert statuses(hub, "POST", "/commit/")[-1] is None
    # Of two files, the first of which comes in.
    hub.cut_off(len(WEIGHTS) + 10, times=None)
    with pytest.raises(httpx2.TransportError):
        upload(api, {"new.safetensors": WEIGHTS[::-1], **files})
    assert api.model_info(MODEL).sha == model.oid
    hub.clear_faults()
    upload(api, {"new.safetensors": WEIGHTS[::-1], **files})
    assert len(hub.files(MODEL)) == 4


def test_a_lost_answer(hub, api, model):
    hub.lose_answer("POST", "/commit/main")
    with pytest.raises(httpx2.TransportError):
        upload(api, {"config.json": b"[]"})
    assert hub.files(MODEL)["config.json"] == b"[]"
    # The second time there is nothing to do.
    assert upload(api, {"config.json": b"[]"}).oid == api.model_info(MODEL).sha
    assert len(api.list_repo_commits(MODEL)) == 3


def test_parallel_requests(hub, api, model):
    def push(index):
        name = f"alice/model-{index}"
        HfApi(endpoint=hub.url, token="hf_alice").create_repo(name)
        files = {f"{index}.safetensors": WEIGHTS[index:], f"{index}.json": b"%d" % index}
        for repo_id in (name, MODEL):
            operations = [CommitOperationAdd(path, data) for path, data in files.items()]
            api.create_commit(repo_id, operations, commit_message=str(index))
        assert hub.files(name) == files

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(push, range(16)))
    assert len(hub.files(MODEL)) == 34
    assert len(api.list_repo_commits(MODEL)) == 18


# Cards

CARD = """---
license: mit
language: [en, gsw, code]
library_name: difflm_hf
pipeline_tag: tabular-to-text
tags: [tabular]
datasets: [scikit-learn/adult-census-income]
base_model: openai-community/gpt2
model-index:
- name: model
  results:
  - task: {type: tabular-to-text}
    dataset: {type: scikit-learn/adult-census-income, name: Adult}
    metrics: [{type: f1, value: 0.5}]
---
# Model
"""


def test_cards(hub, api, model):
    upload(api, {"README.md": CARD.encode()})
    info = api.model_info(MODEL)
    assert (info.library_name, info.pipeline_tag, info.card_data.license) == ("difflm_hf", "tabular-to-text", "mit")
    assert {"tabular", "license:mit", "dataset:scikit-learn/adult-census-income"} <= {*info.tags}
    assert info.card_data.eval_results[0].metric_value == 0.5
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        upload(api, {"README.md": b"# Model"})
    with pytest.raises(ValueError, match='"license" must be one of'):
        upload(api, {"README.md": CARD.replace("mit", "MIT").encode()})


@pytest.mark.parametrize(
    "right, wrong, error",
    [
        ("license: mit", "license: mine", '"license" must be one of'),
        ("[en, gsw, code]", "[en, english]", '"language[1]" with value "english" is not valid'),
        ("[en, gsw, code]", "EN", '"language" must only contain lowercase characters'),
        ("[en, gsw, code]", "[no]", '"language[0]" must be a string'),
        ("[tabular]", "tabular", '"tags" must be an array'),
        ("[tabular]", "[1]", '"tags[0]" must be a string'),
        ("difflm_hf", "[difflm_hf]", '"library_name" must be a string'),
        ("[scikit-learn/adult-census-income]", "[/data/adult]", '"datasets[0]" with value "/data/adult"'),
        ("openai-community/gpt2", "./gpt2/", '"base_model" with value "./gpt2/"'),
        ("- name: model", "- title: model", '"model-index[0].name" is required'),
        ("{type: tabular-to-text}", "{}", '"model-index[0].results[0].task.type" is required'),
        (", name: Adult", "", '"model-index[0].results[0].dataset.name" is required'),
        (", value: 0.5", "", '"model-index[0].results[0].metrics[0].value" is required'),
        ("[{type: f1, value: 0.5}]", "{}", '"model-index[0].results[0].metrics" must be an array'),
        ("license: mit", "license: [", "Invalid YAML"),
    ],
)
def test_invalid_cards(right, wrong, error):
    assert validate_card(CARD) == ([], [])
    errors, _ = validate_card(CARD.replace(right, wrong))
    assert len(errors) == 1 and errors[0].startswith(error)


def test_a_card_validates_itself(hub):
    def validate(good: str, bad: str) -> None:
        from huggingface_hub import ModelCard

        ModelCard(good).validate()
        try:
            ModelCard(bad).validate()
        except ValueError as error:
            print(error)

    printed = hub.run_python(validate, CARD, CARD.replace("mit", "MIT"))
    assert printed.startswith('"license" must be one of')


# The libraries


def test_datasets(hub, tmp_path):
    def push_and_load() -> None:
        from datasets import Dataset, load_dataset

        for start, private in ((0, True), (5, None)):
            Dataset.from_dict({"a": [start, 1, 2], "b": ["x", "y", None]}).push_to_hub("alice/data", private=private)
        Dataset.from_dict({"a": [7]}).push_to_hub("alice/data", "other", split="test", num_shards=1)
        data = load_dataset("alice/data", split="train")
        print(data["a"], load_dataset("alice/data", "other")["test"]["a"])

    def load_offline() -> None:
        from datasets import load_dataset

        print(load_dataset("alice/data", "default")["train"]["a"])

    assert hub.run_python(push_and_load, token="hf_alice", home=tmp_path).strip() == "Column([5, 1, 2]) Column([7])"
    assert hub.repo("alice/data", "dataset").private
    paths = ["README.md", "data/train-00000-of-00001.parquet", "other/test-00000-of-00001.parquet"]
    assert list(hub.files("alice/data", repo_type="dataset")) == paths
    num_requests = len(hub.requests)
    assert hub.run_python(load_offline, home=tmp_path, HF_HUB_OFFLINE="1").strip() == "Column([5, 1, 2])"
    assert len(hub.requests) == num_requests
    with pytest.raises(RuntimeError, match="DatasetNotFoundError"):
        hub.run_python(load_offline, token="hf_bob")


def test_transformers(hub, tmp_path):
    def push() -> None:
        from tokenizers import Tokenizer, models
        from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

        words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
        PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").push_to_hub("alice/gpt", private=True)
        config = GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=3, bos_token_id=0, eos_token_id=1)
        GPT2LMHeadModel(config).push_to_hub("alice/gpt")
        AutoTokenizer.from_pretrained("alice/gpt", token="hf_alice_read")
        GPT2LMHeadModel.from_pretrained("alice/gpt", token="hf_alice_read")
        AutoTokenizer.from_pretrained("alice/gpt", token="hf_bob", cache_dir="elsewhere")

    def load() -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        print(AutoTokenizer.from_pretrained("alice/gpt")("b")["input_ids"])
        print(AutoModelForCausalLM.from_pretrained("alice/gpt", local_files_only=True).config.n_embd)

    with pytest.raises(RuntimeError, match="is not a valid model identifier"):
        hub.run_python(push, token="hf_alice", home=tmp_path)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= hub.files("alice/gpt").keys()
    num_requests = len(hub.requests)
    assert hub.run_python(load, home=tmp_path, HF_HUB_OFFLINE="1") == "[1]\n8\n"
    assert len(hub.requests) == num_requests


def test_diffusers(hub):
    def push_and_load() -> None:
        from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel

        blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 2}
        unet = UNet2DModel(sample_size=4, block_out_channels=(4,), layers_per_block=1, **blocks)
        DDPMPipeline(unet, DDPMScheduler()).push_to_hub("alice/images", private=True)
        print(type(DiffusionPipeline.from_pretrained("alice/images")).__name__)

    assert hub.run_python(push_and_load, token="hf_alice").strip() == "DDPMPipeline"
    assert {"model_index.json", "unet/diffusion_pytorch_model.safetensors"} <= hub.files("alice/images").keys()


# The server itself


def test_environment(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "mine")
    monkeypatch.setenv("https_proxy", "http://proxy")
    environment = hub.environment(EXTRA="1")
    assert environment["HF_ENDPOINT"] == hub.url and environment["EXTRA"] == "1"
    assert not {"HF_TOKEN", "https_proxy"} & {*environment}
    assert environment["HF_HOME"] != hub.environment()["HF_HOME"]
    assert hub.environment("hf_alice", "here")["HF_TOKEN"] == "hf_alice"
    assert hub.run_python("from importlib.util import find_spec; print(bool(find_spec('tiny')))") == "True\n"
    with pytest.raises(RuntimeError, match="(?s)Exit status 3.*why"):
        hub.run_python("import sys; print('why', file=sys.stderr); sys.exit(3)")


def test_unknown_addresses(hub):
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{hub.url}/api/unknown")
    assert error.value.code == 404


def test_closing_is_fast():
    start = monotonic()
    with HubServer() as hub:
        HfApi(endpoint=hub.url, token=hub.add_user("carol")).whoami()
    assert monotonic() - start < 2


def test_by_hand():
    command = [sys.executable, "tests/hub_server.py", "--port", "0"]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()
            assert HfApi(endpoint=url, token="hf_alice").whoami()["name"] == "alice"
        finally:
            process.terminate()
