"""LLMs behind any endpoint that speaks the chat completions of OpenAI, and the answers that they have given."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from pathlib import Path
from threading import Event, Lock
from typing import Any, NamedTuple

import httpx2
from tqdm.auto import tqdm


FIRST_WAIT, MAX_WAIT = 0.5, 60.0  # seconds


class Prompt(NamedTuple):
    subject: str  # what is judged, for messages
    text: str


class Answer(NamedTuple):
    content: str
    prompt_tokens: int
    completion_tokens: int


class ChatModel:
    """
    An LLM behind an endpoint, and the answers that it has given.

    This is no `InferenceClient` of huggingface_hub, which sends the user's Hub token to endpoints without a key, never
    tries again, refuses to work under `HF_HUB_OFFLINE`, and rewrites `response_format`.
    """

    def __init__(
        self,
        endpoint: str,
        model: str,
        system: str,
        api_key: str | None,
        answers_file: str | os.PathLike | None,
        max_concurrency: int,
        timeout: float,
        max_retries: int,
        extra_body: dict[str, Any] | None,
        show_progress: bool,
    ):
        _check_endpoint(endpoint)
        # The client's own message about such a header would show the key.
        if api_key is not None and not re.fullmatch(r"[!-~]+", api_key):
            raise ValueError("`api_key` is empty or has spaces, line breaks or other characters that no key has")
        if max_concurrency < 1:
            raise ValueError(f"`max_concurrency` is {max_concurrency}; it is at least 1")
        if max_retries < 0:
            raise ValueError(f"`max_retries` is {max_retries}; it is at least 0")
        if timeout <= 0:
            raise ValueError(f"`timeout` is {timeout}; it is a number of seconds above 0")
        self.url, self.model, self.api_key = f"{endpoint.rstrip('/')}/chat/completions", model, api_key
        self.system = system
        self.body = {"model": model, "temperature": 0} | (extra_body or {})
        self.answers_file, self.show_progress = answers_file, show_progress
        self.max_concurrency, self.max_retries, self.timeout = max_concurrency, max_retries, timeout
        self.stopped = Event()

    def ask(self, prompts: Sequence[Prompt]) -> tuple[list[str], dict[str, int]]:
        """The answer to each prompt, and the usage. Prompts that are the same are asked once."""
        requests, keys = {}, []
        for prompt in prompts:
            messages = [{"role": "system", "content": self.system}, {"role": "user", "content": prompt.text}]
            body = self.body | {"messages": messages}
            key = hashlib.sha256(json.dumps([self.url, body], sort_keys=True).encode()).hexdigest()
            requests.setdefault(key, (prompt.subject, body))
            keys.append(key)

        with AnswersFile(self.answers_file) as answers:
            missing = [key for key in requests if key not in answers.known]
            self._ask_all({key: requests[key] for key in missing}, answers)
        given = [answers.known[key] for key in requests]
        usage = {
            "prompt_tokens": sum(answer.prompt_tokens for answer in given),
            "completion_tokens": sum(answer.completion_tokens for answer in given),
            "num_requests": len(missing),
            "num_reused": len(requests) - len(missing),
        }
        return [answers.known[key].content for key in keys], usage

    def _ask_all(self, requests: dict[str, tuple[str, dict]], answers: AnswersFile) -> None:
        client = httpx2.Client(
            headers={} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"},
            timeout=self.timeout,
            limits=httpx2.Limits(max_connections=self.max_concurrency),
        )

        def ask(key: str, subject: str, body: dict[str, Any]) -> None:
            try:
                answer = self._post(client, subject, body)
            except BaseException:
                self.stopped.set()  # at once, lest this thread takes the next request
                raise
            if answer is not None:
                answers.add(key, answer)

        progress = tqdm(total=len(requests), desc="judging", disable=not self.show_progress)
        with client, progress, ThreadPoolExecutor(self.max_concurrency) as executor:
            futures = [executor.submit(ask, key, *request) for key, request in requests.items()]
            try:
                for future in as_completed(futures):
                    future.result()
                    progress.update()
            except BaseException:
                # Answers under way are paid for: they are waited for, and kept. Nothing new is sent.
                self.stopped.set()
                executor.shutdown(cancel_futures=True)
                raise

    def _post(self, client: httpx2.Client, subject: str, body: dict[str, Any]) -> Answer | None:
        """The answer, or `None` where another request has failed for good."""
        wait = 0.0
        for attempt in count():
            if self.stopped.wait(wait):
                return None
            wait = cause = None
            try:
                response = client.post(self.url, json=body)
            except httpx2.RequestError as error:
                trouble, cause = f"cannot be reached ({type(error).__name__}: {error})", error
            else:
                answer = _read_answer(response) if response.is_success else None
                if answer is not None:
                    return answer
                status = response.status_code
                trouble = f"answers {status}: {self._message(response)}"
                if response.is_success:
                    trouble = f"answers what is no chat completion: {self._message(response)}"
                elif status not in (408, 429) and status < 500:
                    raise self._refusal(status, subject, trouble)
                wait = _retry_after(response)
            if wait is None:
                wait = min(FIRST_WAIT * 2**attempt, MAX_WAIT) * random.uniform(0.5, 1)
            if attempt == self.max_retries or wait > MAX_WAIT:
                raise self._failure(f"{trouble} (retry in {wait:.0f} s)" if wait > MAX_WAIT else trouble) from cause

    def _failure(self, trouble: str) -> ConnectionError:
        advice = (
            f"Answers so far are kept in {self.answers_file}: run the same again later to go on."
            if self.answers_file
            else "Pass `answers_file` to keep the answers that come before such an error."
        )
        return ConnectionError(f"{self._about(trouble)}\n\n{advice}")

    def _refusal(self, status: int, subject: str, trouble: str) -> Exception:
        about = self._about(trouble)
        if status == 401:
            how = "is wrong or out of date" if self.api_key else "is missing"
            return PermissionError(f"{about}\n\nThe key {how}: pass a valid one as `api_key`.")
        if status == 403:
            return PermissionError(f"{about}\n\nThe key may not use this model: choose another, or ask for access.")
        if status == 404:
            return ValueError(
                f"{about}\n\nThere is no such model, or no such address: look at the spelling of `model`; `endpoint` "
                "is what stands before /chat/completions, most often with /v1 at its end."
            )
        return ValueError(f"{about}\n\nThe request about {subject} is refused; what the endpoint says tells why.")

    def _about(self, trouble: str) -> str:
        return f"{self.url}, asked for the model {self.model!r}, {trouble}"

    def _message(self, response: httpx2.Response) -> str:
        """What the endpoint says, in short, and without the key, which some repeat."""
        try:
            text = str(response.json()["error"]["message"])
        except (ValueError, RecursionError, LookupError, TypeError):
            text = response.text
        text = " ".join(text.replace(self.api_key, "***").split() if self.api_key else text.split())
        return text if len(text) <= 300 else f"{text[:300]}…"


class AnswersFile:
    """The answers by the keys of their requests, which a file keeps from run to run."""

    START = b'{"key": '

    def __init__(self, path: str | os.PathLike | None):
        self.known: dict[str, Answer] = {}
        self.lock = Lock()
        self.file = None
        if path is None:
            return
        path = Path(path)
        data = path.read_bytes() if path.exists() else b""
        *lines, rest = data.split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                fields = json.loads(line)
                key = fields.pop("key")
                self.known[key] = Answer(**fields)
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                raise ValueError(f"line {number} of {path} is no answer of a judge; name another file") from error
        if not rest.startswith(self.START[: len(rest)]):
            raise ValueError(f"{path} is no file of a judge's answers; name another")
        self.file = open(path, "ab")
        # A run that was cut off may have left half a line.
        self.file.truncate(len(data) - len(rest))

    def __enter__(self) -> AnswersFile:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.file is not None:
            self.file.close()

    def add(self, key: str, answer: Answer) -> None:
        with self.lock:
            self.known[key] = answer
            if self.file is not None:
                self.file.write(json.dumps({"key": key, **answer._asdict()}).encode() + b"\n")
                self.file.flush()


def _check_endpoint(endpoint: str) -> None:
    if "@" in endpoint or "?" in endpoint:
        raise ValueError("`endpoint` holds a name or a query, which messages would show; pass the key as `api_key`")
    try:
        url = httpx2.URL(endpoint)
    except httpx2.InvalidURL:
        url = None
    if url is None or url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"`endpoint` is {endpoint!r}; pass an address such as http://localhost:8000/v1")


def _read_answer(response: httpx2.Response) -> Answer | None:
    """The answer in a chat completion, or `None` where it is none. Usage is optional, and so is a content."""
    try:
        completion = response.json()
        content = completion["choices"][0]["message"].get("content")
        usage = completion.get("usage") or {}
        tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    return Answer(content if isinstance(content, str) else "", *tokens)


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds to wait, which the header gives as such or as a date (RFC 9110, section 10.2.3)."""
    header = response.headers.get("Retry-After", "")
    if re.fullmatch(r"\d+(\.\d+)?", header):
        return float(header)
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
