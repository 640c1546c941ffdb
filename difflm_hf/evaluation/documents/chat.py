"""LLMs behind any endpoint that speaks the chat completions of OpenAI, and the answers that they have given."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import httpx2
from anyio.from_thread import start_blocking_portal
from tqdm.auto import tqdm


FIRST_WAIT, MAX_WAIT = 0.5, 60.0  # seconds
MAX_SIZE = 4 * 2**20  # bytes of a reply
MAX_UNANSWERED = 10  # requests in a row
MAX_TOKENS = 2**31  # that an answer may say it took, since any number may stand there


class Prompt(NamedTuple):
    subject: str  # what is judged, for messages
    text: str


class Answer(NamedTuple):
    content: str
    prompt_tokens: int
    completion_tokens: int


class NoAnswer(Exception):
    """What the endpoint does in place of answering a request. Others may fare better."""


class ChatModel:
    """
    An LLM behind an endpoint, and the answers that it has given.

    This is no `InferenceClient` of huggingface_hub, which sends the user's Hub token to endpoints without a key, never
    tries again, reads replies of any size, refuses to work under `HF_HUB_OFFLINE`, and rewrites `response_format`.
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
        if not 0 < timeout < math.inf:
            raise ValueError(f"`timeout` is {timeout}; it is a finite number of seconds above 0")
        self.url, self.model, self.api_key = f"{endpoint.rstrip('/')}/chat/completions", model, api_key
        self.system = system
        self.body = {"model": model, "temperature": 0} | (extra_body or {})
        self.answers_file, self.show_progress = answers_file, show_progress
        self.max_concurrency, self.max_retries, self.timeout = max_concurrency, max_retries, timeout

    def ask(self, prompts: Sequence[Prompt]) -> tuple[list[str | NoAnswer], dict[str, int]]:
        """The answer to each prompt, if there is one, and the usage. Prompts that are the same are asked once."""
        requests, keys = {}, []
        for prompt in prompts:
            messages = [{"role": "system", "content": self.system}, {"role": "user", "content": prompt.text}]
            body = self.body | {"messages": messages}
            key = hashlib.sha256(json.dumps([self.url, body], sort_keys=True).encode()).hexdigest()
            requests.setdefault(key, (prompt.subject, body))
            keys.append(key)

        with AnswersFile(self.answers_file) as answers:
            num_reused = sum(key in answers.known for key in requests)
            progress = tqdm(total=len(requests), desc="judging", disable=not self.show_progress)
            # A thread of its own for the event loop: that of the caller may run another, as in notebooks.
            with progress, start_blocking_portal() as portal:
                unanswered = portal.call(self._ask_all, requests, answers, progress)
        given = [answers.known[key] for key in requests if key not in unanswered]
        usage = {
            "prompt_tokens": sum(answer.prompt_tokens for answer in given),
            "completion_tokens": sum(answer.completion_tokens for answer in given),
            "num_requests": len(requests) - num_reused,
            "num_reused": num_reused,
        }
        return [unanswered.get(key) or answers.known[key].content for key in keys], usage

    async def _ask_all(
        self, requests: dict[str, tuple[str, dict]], answers: AnswersFile, progress: tqdm
    ) -> dict[str, NoAnswer]:
        """Adds the answers that are not known yet, and returns what came in place of others."""
        waiting, in_a_row, unanswered = iter(requests.items()), 0, {}
        errors, stopped = [], anyio.Event()
        headers = {"Accept-Encoding": "identity"}  # compressed, a few bytes may hold gigabytes
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        limits = httpx2.Limits(max_connections=self.max_concurrency)
        client = httpx2.AsyncClient(headers=headers, timeout=None, limits=limits)

        async def work() -> None:
            nonlocal in_a_row
            try:
                for key, (subject, body) in waiting:
                    try:
                        if key not in answers.known:
                            answer = await self._post(client, body, stopped)
                            if answer is None:
                                return
                            answers.add(key, answer)
                        in_a_row = 0  # for known ones too, lest a second run fails at what the first went past
                    except NoAnswer as error:
                        unanswered[key] = error
                        in_a_row += 1
                        # A run of fewer requests fails when none of them is answered.
                        if in_a_row == min(MAX_UNANSWERED, len(requests)):
                            row = f"Requests in a row without an answer: {in_a_row}, the last about {subject}."
                            raise self._failure(f"{error}\n\n{row}") from None
                    progress.update()
            except Exception as error:
                # Answers under way are paid for: they are waited for, and kept. Nothing new is sent.
                errors.append(error)
                stopped.set()

        async with client, anyio.create_task_group() as group:
            for _ in range(min(self.max_concurrency, len(requests))):
                group.start_soon(work)
        if errors:
            raise errors[0]
        return unanswered

    async def _post(self, client: httpx2.AsyncClient, body: dict[str, Any], stopped: anyio.Event) -> Answer | None:
        """The answer, or `None` where another request has failed for good."""
        wait = 0.0
        for attempt in count():
            with anyio.move_on_after(wait):
                await stopped.wait()
            if stopped.is_set():
                return None
            wait, cause, failure = None, None, NoAnswer
            try:
                response, content = await self._send(client, body)
            except TimeoutError:
                trouble = f"has not answered within {self.timeout:g} s"
            except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
                trouble, cause, failure = f"cannot be reached ({self._name(error)})", error, self._failure
            except httpx2.RequestError as error:
                trouble = f"sends no proper reply ({self._name(error)})"  # no cause: it may hold the key
            else:
                answer = _read_answer(content) if response.is_success else None
                if answer is not None:
                    return answer
                status = response.status_code
                trouble = f"answers {status}: {self._message(content)}"
                if response.is_success:
                    trouble = f"answers what is no chat completion: {self._message(content)}"
                elif status in (408, 429) or status >= 500:
                    failure = self._failure
                elif status in (401, 403, 404) or status < 400:
                    raise self._refusal(status, trouble)
                else:
                    raise NoAnswer(trouble)
                wait = _retry_after(response)
            if wait is None:
                wait = min(FIRST_WAIT * 2**attempt, MAX_WAIT) * random.uniform(0.5, 1)
            if attempt == self.max_retries or wait > MAX_WAIT:
                raise failure(f"{trouble} (retry in {wait:.0f} s)" if wait > MAX_WAIT else trouble) from cause

    async def _send(self, client: httpx2.AsyncClient, body: dict[str, Any]) -> tuple[httpx2.Response, bytes]:
        """The response and its content, which is left off beyond `MAX_SIZE`."""
        content = bytearray()
        with anyio.fail_after(self.timeout):
            async with client.stream("POST", self.url, json=body) as response:
                async for chunk in response.aiter_raw():
                    content += chunk
                    if len(content) > MAX_SIZE:
                        break
        return response, bytes(content)

    def _failure(self, trouble: str) -> ConnectionError:
        advice = (
            f"Answers so far are kept in {self.answers_file}: run the same again later to go on."
            if self.answers_file
            else "Pass `answers_file` to keep the answers that come before such an error."
        )
        return ConnectionError(f"{self._about(trouble)}\n\n{advice}")

    def _refusal(self, status: int, trouble: str) -> Exception:
        about = self._about(trouble)
        if status == 401:
            how = "is wrong or out of date" if self.api_key else "is missing"
            return PermissionError(f"{about}\n\nThe key {how}: pass a valid one as `api_key`.")
        if status == 403:
            return PermissionError(f"{about}\n\nThe key may not use this model: choose another, or ask for access.")
        return ValueError(
            f"{about}\n\nThere is no such model, or no such address: look at the spelling of `model`; `endpoint` is "
            "what stands before /chat/completions, most often with /v1 at its end."
        )

    def _about(self, trouble: str) -> str:
        return f"{self.url}, asked for the model {self.model!r}, {trouble}"

    def _message(self, content: bytes) -> str:
        """What the endpoint says."""
        if len(content) > MAX_SIZE:
            return f"more than {MAX_SIZE:,} bytes"
        try:
            text = str(json.loads(content)["error"]["message"])
        except (ValueError, RecursionError, LookupError, TypeError):
            text = content.decode(errors="replace")
        return self._shorten(text)

    def _name(self, error: httpx2.RequestError) -> str:
        return self._shorten(f"{type(error).__name__}: {error}")

    def _shorten(self, text: str) -> str:
        """A text for messages, without the key, which some endpoints repeat, and without what steers terminals."""
        text = text.replace(self.api_key, "***") if self.api_key else text
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text if len(text) <= 300 else f"{text[:300]}…"


class AnswersFile:
    """The answers by the keys of their requests, which a file keeps from run to run."""

    START = b'{"key": '

    def __init__(self, path: str | os.PathLike | None):
        self.known: dict[str, Answer] = {}
        self.file = None
        if path is None:
            return
        path = Path(path)
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is no file of a judge's answers; name another")
        data = path.read_bytes() if path.exists() else b""
        *lines, rest = data.split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                fields = json.loads(line)
                key, answer = fields.pop("key"), Answer(**fields)
                if not isinstance(key, str) or list(map(type, answer)) != [str, int, int]:
                    raise TypeError("values of other types")
                self.known[key] = answer
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
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


def _read_answer(content: bytes) -> Answer | None:
    """The answer in a chat completion, or `None` where it is none. Usage is optional, and so is a content."""
    if len(content) > MAX_SIZE:
        return None
    try:
        completion = json.loads(content)
        content = completion["choices"][0]["message"].get("content")
        usage = completion.get("usage") or {}
        tokens = [min(int(usage.get(name) or 0), MAX_TOKENS) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError, OverflowError):
        return None
    return Answer(content if isinstance(content, str) else "", *tokens)


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds to wait, which the header gives as such or as a date (RFC 9110, section 10.2.3)."""
    header = response.headers.get("Retry-After", "")
    if re.fullmatch(r"\d+(\.\d+)?", header):
        return float(header)
    try:
        date = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
