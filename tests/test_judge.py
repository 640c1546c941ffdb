"""The judge, against an endpoint on the loopback interface that can misbehave."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import os
import re
import signal
import threading
import time
import traceback
import tracemalloc
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import pytest

from difflm_hf.evaluation import TOOL_CRITERIA, judge_pairs, judge_records


KEY = "sk-secret-0123456789"
# Quality is the number of exclamation marks, which the judge of these tests looks for.
GOOD, FAIR, POOR = (
    [{"name": f"{kind}_{i}", "description": kind + mark} for i in range(20)]
    for kind, mark in (("good", "!!"), ("fair", "!"), ("poor", ""))
)


class Endpoint:
    """
    Chat completions by `judge`, a function from the user's message to an answer.

    An answer is a text, which becomes a completion, or a function that takes the handler and does what it likes.
    `script` has answers that come first.
    """

    def __init__(self):
        self.judge, self.script = prefer, []
        self.requests, self.headers, self.lock = [], [], threading.Lock()
        handler = type("Handler", (_Handler,), {"endpoint": self})
        self.server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # a connection that finds no place is tried again after a second

    def handle_error(self, request, client_address):
        """Clients may leave before an answer ends."""


class _Handler(BaseHTTPRequestHandler):
    endpoint: Endpoint

    def do_POST(self):
        endpoint = self.endpoint
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with endpoint.lock:
            endpoint.requests.append(request)
            endpoint.headers.append(self.headers)
            answer = endpoint.script.pop(0) if endpoint.script else endpoint.judge
        if self.path != "/v1/chat/completions":
            answer = fail(404, "no such address")
        if answer is endpoint.judge:
            answer = answer(request["messages"][-1]["content"])
        if callable(answer):
            answer(self)
        else:
            self.send(200, completion(answer))

    def send(self, status, body, **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def completion(text):
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}


def fail(status, message="no", **headers):
    return lambda handler: handler.send(status, {"error": {"message": message}}, **headers)


def drop(handler):
    """The connection is closed without an answer."""


def garble(handler):
    handler.wfile.write(f"{KEY} ".encode() * 2000 + b"\r\n\r\n")


def drip(start, piece=b"x"):
    """An answer that goes on for longer than a test may take."""

    def answer(handler):
        handler.wfile.write(start)
        for _ in range(250):
            handler.wfile.write(piece)
            time.sleep(0.02)

    return answer


silence = drip(b"", b"")


def judge_with(odd):
    """A judge that gives an odd answer about one record."""
    return lambda question: odd if "good_1" in question else prefer(question)


def records_in(question):
    return [json.loads(text) for text in re.findall(r"<record\w*>\n(.*?)\n</record", question)]


def prefer(question):
    """The verdict on two records, or the score of one."""
    qualities = [record["description"].count("!") for record in records_in(question)]
    if len(qualities) == 1:
        return json.dumps({"reason": "so it is", "score": 1 + qualities[0]})
    first, second = qualities
    return json.dumps({"reason": "so it is", "winner": "A" if first > second else "B" if second > first else "tie"})


def prefer_first(question):
    return json.dumps({"reason": "the first", "winner": "A"})


@pytest.fixture
def endpoint():
    endpoint = Endpoint()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


# Pairs


@pytest.mark.parametrize(
    "synthetic, real, outcome", [(GOOD, POOR, "win"), (POOR, GOOD, "loss"), (FAIR, FAIR, "tie"), (POOR, FAIR, "loss")]
)
def test_the_better_record_wins_in_both_orders(endpoint, synthetic, real, outcome):
    result = judge_pairs(synthetic, real, endpoint.url, "judge")
    rates = {name: result[f"{name}_rate"]["rate"] for name in ("win", "tie", "loss")}
    assert rates == {"win": 0, "tie": 0, "loss": 0} | {outcome: 1}
    assert result["consistency"]["rate"] == 1
    assert (result["num_pairs"], result["num_judged"], result["num_unparsable"]) == (20, 20, 0)
    assert {pair["verdict"] for pair in result["pairs"]} == {outcome}
    assert result["pairs"][0]["reasons"] == ["so it is", "so it is"]
    assert sorted(pair["synthetic"] for pair in result["pairs"]) == list(range(20))
    assert sorted(pair["real"] for pair in result["pairs"]) == list(range(20))


def test_a_judge_that_prefers_the_first_gives_ties(endpoint):
    endpoint.judge = prefer_first
    result = judge_pairs(GOOD, POOR, endpoint.url, "judge")
    assert result["tie_rate"]["rate"] == 1
    assert result["consistency"]["rate"] == 0
    assert result["first_rate"]["rate"] == 1
    assert result["pairs"][0]["verdicts"] == ["win", "loss"]


def test_a_win_and_a_tie_are_a_tie(endpoint):
    endpoint.script = [prefer_first(""), '{"winner": "tie"}']
    result = judge_pairs(GOOD[:1], POOR[:1], endpoint.url, "judge", max_concurrency=1)
    assert result["pairs"][0]["verdicts"] == ["win", "tie"]
    assert result["pairs"][0]["verdict"] == "tie"


def test_intervals_are_wilsons(endpoint):
    synthetic = GOOD[:3] + POOR[:7]
    rate = judge_pairs(synthetic, FAIR[:10], endpoint.url, "judge")["win_rate"]
    n, p, z = 10, 0.3, 1.959964
    centre, margin = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((centre + sign * margin) / (1 + z * z / n) for sign in (-1, 1))
    assert rate == pytest.approx({"rate": 0.3, "low": low, "high": high}, abs=1e-6)


def test_what_is_asked(endpoint):
    judge_pairs(GOOD[:1], POOR[:1], endpoint.url + "/", "judge", KEY, extra_body={"max_tokens": 9}, max_concurrency=1)
    first, second = endpoint.requests
    assert {name: first[name] for name in ("model", "temperature", "max_tokens")} == {
        **{"model": "judge", "temperature": 0, "max_tokens": 9}
    }
    questions = [request["messages"][-1]["content"] for request in (first, second)]
    assert [records_in(question) for question in questions] == [[GOOD[0], POOR[0]], [POOR[0], GOOD[0]]]
    assert all(criterion in questions[0] for criterion in TOOL_CRITERIA)
    assert [headers["Authorization"] for headers in endpoint.headers] == [f"Bearer {KEY}"] * 2


def test_without_a_key_none_is_sent(endpoint, monkeypatch):
    for name in ("OPENAI_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, KEY)
    judge_records(GOOD[:1], endpoint.url, "judge", criteria=["Is it short?"])
    assert endpoint.headers[0]["Authorization"] is None
    assert "1. Is it short?" in endpoint.requests[0]["messages"][-1]["content"]


def test_settings_reach_the_endpoint_as_they_are(endpoint):
    schema = {"name": "verdict", "schema": {"type": "object", "required": ["score"]}}
    settings = {"temperature": None, "response_format": {"type": "json_schema", "json_schema": schema}}
    judge_records(GOOD[:1], endpoint.url, "judge", extra_body=settings)
    assert settings.items() <= endpoint.requests[0].items()


def test_pairing_depends_on_the_seed_alone(endpoint):
    def pairing(**options):
        pairs = judge_pairs(GOOD, POOR[:9], endpoint.url, "judge", **options)["pairs"]
        return [(pair["synthetic"], pair["real"]) for pair in pairs]

    assert len(pairing()) == 9
    assert pairing(seed=1) == pairing(seed=1, max_concurrency=2) != pairing(seed=2)
    # Fewer pairs are the first of more, so that a small run goes on as a larger one.
    assert pairing(num_pairs=4) == pairing()[:4]


def test_layout_of_json_does_not_show(endpoint):
    texts = [json.dumps(record, indent=4) for record in GOOD[:1]]
    judge_pairs(texts, GOOD[:1], endpoint.url, "judge")
    assert len(endpoint.requests) == 1  # both orders are the same question
    endpoint.judge = lambda question: ""
    judge_records(["not JSON \ud800"], endpoint.url, "judge")
    assert "<record>\nnot JSON ?\n</record>" in endpoint.requests[-1]["messages"][-1]["content"]


# Answers


@pytest.mark.parametrize(
    "answer",
    [
        '{"winner": "B"}',
        '{"reason": "it\'s {good}", "winner": " b "}',
        '```json\n{"winner": "Record B", "reason": "of\ntwo lines"}\n```',
        'Of {"winner": "A"|"B"|"tie"} I choose:\n{"winner": "B", "reason": ""}\nHope that helps!',
        'First I thought {"winner": "A"}, but then {"winner": "B"}.',
        '<think>{"winner": "A"} { </think>{"winner": "B"}',
        '{"verdict": {"winner": "B"}}',
        '{"winner": "B", "reason": "it says "exactly" this"}',
        '{"winner": "B", "reason": "and then it was cut o',
        '[{"winner": "B"}]',
        "{" * 5_000 + '{"winner": "B"}',
        '{"a":' * 2_000 + '1 {"winner": "B"}',
    ],
)
def test_verdicts_are_read_from(endpoint, answer):
    endpoint.script = ['{"winner": "A"}', answer]
    result = judge_pairs(GOOD[:1], POOR[:1], endpoint.url, "judge", max_concurrency=1)
    assert result["pairs"][0]["verdict"] == "win"
    assert result["num_unparsable"] == 0


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "A is better.",
        '{"winner": "C"}',
        '{"winner": null}',
        '{"winner": ["A"]}',
        '{"winner": "A"|"B"|"tie"}',
        '<think>perhaps {"winner": "A"}, but',
        '{"winner": "A", "reason": "in "short", "winner": "B", ',
        lambda handler: handler.send(200, completion(None)),
    ],
)
def test_answers_without_a_verdict_are_counted(endpoint, answer):
    endpoint.script = [answer]
    result = judge_pairs(GOOD[:3], POOR[:3], endpoint.url, "judge", max_concurrency=1)
    assert (result["num_unparsable"], result["num_pairs"], result["num_judged"]) == (1, 3, 2)
    assert result["win_rate"]["rate"] == 1
    pair = result["pairs"][0]
    assert (pair["verdict"], pair["verdicts"]) == (None, [None, "win"])
    if isinstance(answer, str):
        assert pair["reasons"][0] == answer


def test_no_verdict_at_all(endpoint):
    endpoint.judge = lambda question: "I'd rather not."
    result = judge_pairs(GOOD, POOR, endpoint.url, "judge")
    assert (result["num_unparsable"], result["num_judged"]) == (40, 0)
    assert all(math.isnan(value) for value in result["win_rate"].values())


def test_scores(endpoint):
    answers = ['{"score": 7, "reason": "fine"}', '{"score": "8/10"}', '{"score": 4.5}', "Score: 9", '{"score": 11}']
    answers += ['{"score": 0}', '{"score": true}', '{"score": 3, "reason": "cut o', '{"score": 1-10}']
    endpoint.script = list(answers)
    result = judge_records(GOOD[: len(answers)], endpoint.url, "judge", max_concurrency=1)
    assert result["scores"] == [7, 8, 4.5, None, None, None, None, 3, None]
    assert result["num_unparsable"] == 5
    assert (result["reasons"][0], result["reasons"][3]) == ("fine", "Score: 9")
    assert result["score"]["mean"] == 22.5 / 4
    # Student's t of 3 degrees of freedom, and a deviation of 2.2867.
    assert result["score"]["high"] - result["score"]["mean"] == pytest.approx(3.18245 * 2.28674 / 2, rel=1e-4)


@pytest.mark.parametrize(
    "piece",
    ["{", '{"a":', '{"a":"', '{"a":{},"b":', '"score": ', '{"score":', '{"score": 1 ', "<think>", '{\\"', "[", '"'],
)
def test_verdicts_are_read_in_no_time(endpoint, piece):
    endpoint.judge = lambda question: piece * (2**20 // len(piece)) + '</think>{"score": 3}'
    start = time.monotonic()
    assert judge_records(GOOD[:1], endpoint.url, "judge")["scores"] == [3]
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("answer", ['{"score": 9}' + " " * 2**15, "<think>" + '{"score": 9} ' * 2**12])
def test_verdicts_are_read_where_they_belong(endpoint, answer):
    endpoint.judge = lambda question: answer
    result = judge_records(GOOD[:1], endpoint.url, "judge")
    assert (result["scores"], result["reasons"]) == ([None], [answer])


# Trouble


@pytest.mark.parametrize(
    "trouble",
    [
        fail(429, Retry_After="0"),
        fail(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
        fail(500, Retry_After="0"),
        fail(503, Retry_After="nonsense"),
        drop,
        lambda handler: handler.send(200, b'{"choices": ['),
        lambda handler: handler.send(200, {"error": {"message": "overloaded"}}),
        lambda handler: handler.send(200, b"", Content_Encoding="gzip"),
    ],
)
def test_trouble_that_passes(endpoint, trouble):
    endpoint.script = [trouble, prefer_first(""), trouble]
    result = judge_pairs(GOOD[:2], POOR[:2], endpoint.url, "judge")
    assert result["num_judged"] == 2
    assert len(endpoint.requests) == 6
    assert result["usage"] == {"prompt_tokens": 400, "completion_tokens": 40, "num_requests": 4, "num_reused": 0}


def test_it_waits_as_long_as_it_is_told(endpoint, monkeypatch):
    waits, move_on_after = [], anyio.move_on_after
    monkeypatch.setattr(anyio, "move_on_after", lambda wait: waits.append(wait) or move_on_after(0))
    endpoint.script = [fail(429, Retry_After="0.25"), fail(500), fail(500)]
    judge_records(GOOD[:1], endpoint.url, "judge")
    first, *waits = waits
    assert (first, waits[0]) == (0, 0.25)
    assert 0.5 <= waits[1] <= 1 <= waits[2] <= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "trouble, said",
    [
        (fail(500, "on fire"), "500: on fire"),
        (fail(429), "429: no"),
        (drop, "no proper reply"),
        (garble, "no proper reply"),
    ],
)
def test_trouble_that_stays(endpoint, tmp_path, trouble, said):
    endpoint.judge = lambda question: trouble
    path = tmp_path / "answers.jsonl"
    with pytest.raises(ConnectionError, match="later to go on") as error:
        judge_records(GOOD[:1], endpoint.url, "my-judge", KEY, answers_file=path, max_retries=1)
    assert len(endpoint.requests) == 2
    for part in (endpoint.url, "'my-judge'", said, str(path)):
        assert part in str(error.value)
    assert KEY not in "".join(traceback.format_exception(error.value))


def test_waits_beyond_patience_are_no_waits(endpoint):
    endpoint.judge = lambda question: fail(429, "quota", Retry_After="3600")
    with pytest.raises(ConnectionError, match=r"quota \(retry in 3600 s\)\n\nPass `answers_file`"):
        judge_records(GOOD[:1], endpoint.url, "judge")
    assert len(endpoint.requests) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "odd",
    [silence, drip(b"HTTP/1.1 200 OK\r\nX-Drip: "), drip(b"HTTP/1.1 200 OK\r\n\r\n")],
    ids=["silence", "headers", "body"],
)
def test_an_answer_takes_no_longer_than_it_may_in_all(endpoint, odd):
    endpoint.judge = judge_with(odd)
    result = judge_records(GOOD[:3], endpoint.url, "judge", timeout=0.5, max_retries=0)
    assert result["scores"] == [3, None, 3]
    assert (result["num_no_answer"], result["num_unparsable"]) == (1, 0)
    assert result["reasons"][1] == "The endpoint has not answered within 0.5 s"


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_an_answer_is_no_larger_than_it_may_be(endpoint, encoding):
    content = json.dumps(completion('{"score": 3}')).encode() + b" " * 2**26
    content = gzip.compress(content) if encoding == "gzip" else content
    endpoint.judge = judge_with(lambda handler: handler.send(200, content, Content_Encoding=encoding))
    tracemalloc.start()
    result = judge_records(GOOD[:3], endpoint.url, "judge", max_retries=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**25
    assert result["scores"] == [3, None, 3]
    said = "more than 4,194,304 bytes" if encoding == "identity" else ""
    assert result["reasons"][1].startswith(f"The endpoint answers what is no chat completion: {said}")


@pytest.mark.parametrize(
    "body",
    [
        b"<h1>Busy</h1>",
        {"choices": [], "error": {"message": "Busy"}},
        completion("Busy") | {"usage": {"prompt_tokens": math.inf}},
    ],
)
def test_an_odd_reply_does_not_end_the_run(endpoint, body):
    endpoint.judge = judge_with(lambda handler: handler.send(200, body, Retry_After="0"))
    result = judge_records(GOOD[:3], endpoint.url, "judge", max_retries=1)
    assert result["scores"] == [3, None, 3]
    assert (result["num_no_answer"], result["num_unparsable"]) == (1, 0)
    assert re.match("The endpoint answers what is no chat completion: .*Busy", result["reasons"][1])
    assert len(endpoint.requests) == 4


@pytest.mark.parametrize("odd", [drop, garble])
def test_nor_does_what_is_no_reply(endpoint, odd):
    endpoint.judge = judge_with(odd)
    result = judge_records(GOOD[:3], endpoint.url, "judge", KEY, max_retries=0)
    assert result["scores"] == [3, None, 3]
    reason = result["reasons"][1]
    assert reason.startswith("The endpoint sends no proper reply (RemoteProtocolError: ")
    assert KEY not in reason and len(reason) < 400


def test_an_odd_date_to_come_back_is_none(endpoint):
    endpoint.judge = lambda question: fail(503, "Busy", Retry_After=f"Wed, 21 Oct {'9' * 30} 07:28:00 GMT")
    with pytest.raises(ConnectionError, match="503: Busy"):
        judge_records(GOOD[:1], endpoint.url, "judge", max_retries=0)


def test_refused_questions_are_asked_again_in_the_next_run_only(endpoint, tmp_path):
    def run():
        del endpoint.requests[:]
        return judge_pairs(GOOD[:3], POOR[:3], endpoint.url, "judge", KEY, answers_file=tmp_path / "answers.jsonl")

    endpoint.judge = judge_with(fail(400, f"too long for {KEY}{'!' * 1000}"))
    first = run()
    assert len(endpoint.requests) == 6
    assert (first["num_no_answer"], first["num_unparsable"], first["num_judged"]) == (2, 0, 2)
    (pair,) = (pair for pair in first["pairs"] if pair["synthetic"] == 1)
    assert (pair["verdict"], pair["verdicts"]) == (None, [None, None])
    for reason in pair["reasons"]:
        assert re.fullmatch(r"The endpoint answers 400: too long for \*\*\*!{200,300}…", reason)

    again = run()
    assert len(endpoint.requests) == 2
    assert (again["pairs"], again["num_no_answer"]) == (first["pairs"], 2)
    endpoint.judge = prefer
    last = run()
    assert len(endpoint.requests) == 2
    assert (last["num_no_answer"], last["num_judged"]) == (0, 3)


@pytest.mark.parametrize("num_records, num_requests", [(20, 10), (3, 3)])
def test_ten_questions_in_a_row_without_an_answer_end_the_run(endpoint, num_records, num_requests):
    endpoint.judge = lambda question: fail(422, "no such setting")
    message = rf"422: no such setting\n\n.*without an answer: {num_requests}, .* records\[{num_requests - 1}\]"
    with pytest.raises(ConnectionError, match=message):
        judge_records(GOOD[:num_records], endpoint.url, "judge", max_concurrency=1)
    assert len(endpoint.requests) == num_requests


def test_more_than_ten_do_not_if_others_are_between(endpoint, tmp_path):
    endpoint.script = [*[fail(400)] * 9, '{"score": 5}'] * 2
    endpoint.judge = lambda question: fail(400)
    for num_requests in (20, 38):
        path = tmp_path / "answers.jsonl"
        result = judge_records(GOOD, endpoint.url, "judge", max_concurrency=1, answers_file=path)
        assert result["scores"] == [*[None] * 9, 5] * 2
        assert len(endpoint.requests) == num_requests


def test_answers_under_way_are_kept(endpoint, tmp_path):
    asked, refused = threading.Event(), threading.Event()

    def slow(handler):
        asked.set()
        refused.wait(10)
        time.sleep(0.1)
        handler.send(200, completion('{"score": 3}'))

    def refuse(handler):
        asked.wait(10)
        fail(401)(handler)
        refused.set()

    endpoint.judge = lambda question: slow if "good_0" in question else refuse
    path = tmp_path / "answers.jsonl"
    with pytest.raises(PermissionError):
        judge_records(GOOD, endpoint.url, "judge", max_concurrency=2, answers_file=path)
    assert len(path.read_bytes().splitlines()) == 1
    assert len(endpoint.requests) == 2


def test_it_can_be_interrupted(endpoint):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells take from what runs in the background
    interrupted = []

    def interrupt(handler):
        interrupted.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        silence(handler)

    endpoint.judge = lambda question: interrupt
    with pytest.raises(KeyboardInterrupt):
        judge_records(GOOD, endpoint.url, "judge", max_concurrency=1)
    assert time.monotonic() - interrupted[0] < 2


def test_an_event_loop_may_run(endpoint):
    async def notebook():
        return judge_records(GOOD[:3], endpoint.url, "judge")

    assert asyncio.run(notebook())["scores"] == [3, 3, 3]


@pytest.mark.parametrize(
    "status, cls, advice",
    [
        (401, PermissionError, "pass a valid one as `api_key`"),
        (403, PermissionError, "may not use this model"),
        (404, ValueError, "look at the spelling of `model`"),
        (307, ValueError, "no such address"),
    ],
)
def test_refusals_are_final_and_do_not_show_the_key(endpoint, status, cls, advice, caplog):
    caplog.set_level(0)
    endpoint.judge = lambda question: fail(status, f"not with {KEY}")
    with pytest.raises(cls, match=advice) as error:
        judge_pairs(GOOD[:1], POOR[:1], endpoint.url, "my-judge", KEY, max_concurrency=1)
    assert len(endpoint.requests) == 1
    assert f"{endpoint.url}/chat/completions, asked for the model 'my-judge', answers {status}: not with ***" in str(
        error.value
    )
    assert KEY not in str(error.value) + caplog.text


def test_a_refusal_stops_what_waits(endpoint):
    endpoint.judge = lambda question: fail(401) if "good_7" in question else fail(503, Retry_After="50")
    with pytest.raises(PermissionError, match="is missing"):
        judge_records(GOOD, endpoint.url, "judge", max_concurrency=8)


def test_concurrency_is_limited(endpoint):
    barrier = threading.Barrier(3)
    running, seen = [], []

    def judge(question):
        running.append(question)
        barrier.wait(10)  # breaks unless three are under way at a time
        seen.append(len(running))
        barrier.wait(10)
        running.remove(question)
        return prefer(question)

    endpoint.judge = judge
    assert judge_pairs(GOOD[:3], POOR[:3], endpoint.url, "judge", max_concurrency=3)["num_judged"] == 3
    assert max(seen) == 3


# The answers file


def test_a_run_that_was_cut_off_goes_on(endpoint, tmp_path):
    path = tmp_path / "answers.jsonl"
    options = {"answers_file": path, "max_concurrency": 1, "max_retries": 0}
    endpoint.script = ['{"winner": "A"}', *['{"winner": "tie"}'] * 4, fail(500)]
    with pytest.raises(ConnectionError):
        judge_pairs(GOOD, POOR, endpoint.url, "judge", KEY, **options)
    assert len(path.read_bytes().splitlines()) == 5
    path.write_bytes(path.read_bytes()[:-20])  # and half a line

    asked = len(endpoint.requests)
    result = judge_pairs(GOOD, POOR, endpoint.url, "judge", KEY, **options)
    assert len(endpoint.requests) - asked == 36
    assert result["usage"] == {"prompt_tokens": 4000, "completion_tokens": 400, "num_requests": 36, "num_reused": 4}
    assert result["pairs"][0]["verdicts"] == ["win", "tie"]

    again = judge_pairs(GOOD, POOR, endpoint.url, "judge", KEY, **options)
    assert again["usage"].pop("num_reused") == 40
    assert again["pairs"] == result["pairs"]
    assert len(endpoint.requests) - asked == 36
    assert KEY.encode() not in path.read_bytes()


def test_other_questions_are_asked_anew(endpoint, tmp_path):
    path = tmp_path / "answers.jsonl"

    def num_requests(model="judge", **options):
        return judge_pairs(GOOD, POOR, endpoint.url, model, answers_file=path, **options)["usage"]["num_requests"]

    assert [num_requests(num_pairs=5), num_requests(), num_requests()] == [10, 30, 0]
    assert num_requests(model="other") == 40
    assert num_requests(criteria=["Is it short?"]) == 40
    assert num_requests(extra_body={"seed": 1}) == 40


@pytest.mark.parametrize("content", ["name,age\nAda,36\n", '{"name": "f"}\n', "not ours", '{"key": 1}\n', "\n"])
def test_other_files_are_left_alone(endpoint, tmp_path, content):
    path = tmp_path / "precious.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match="name another"):
        judge_records(GOOD, endpoint.url, "judge", answers_file=path)
    assert path.read_text() == content
    assert not endpoint.requests


# Mistakes


@pytest.mark.parametrize(
    "options, cls, message",
    [
        ({"synthetic": []}, ValueError, "`synthetic` is empty"),
        ({"real": ["a", 1]}, TypeError, r"`real\[1\]` is of type int"),
        ({"synthetic": [{"a": {1, 2}}]}, TypeError, r"`synthetic\[0\]` holds what JSON cannot"),
        ({"criteria": "short"}, TypeError, "`criteria` is of type str"),
        ({"criteria": []}, ValueError, "`criteria` is empty"),
        ({"num_pairs": 21}, ValueError, "from 1 to 20"),
        ({"num_pairs": 0}, ValueError, "from 1 to 20"),
        ({"endpoint": "localhost:8000/v1"}, ValueError, "`endpoint` is 'localhost:8000/v1'"),
        ({"endpoint": "http://"}, ValueError, "pass an address such as"),
        ({"endpoint": f"http://{KEY}@localhost/v1"}, ValueError, "pass the key as `api_key`"),
        ({"endpoint": f"http://localhost/v1?key={KEY}"}, ValueError, "pass the key as `api_key`"),
        ({"api_key": f"{KEY}\n"}, ValueError, "`api_key` is empty or has spaces"),
        ({"api_key": ""}, ValueError, "`api_key` is empty"),
        ({"max_concurrency": 0}, ValueError, "`max_concurrency` is 0"),
        ({"max_retries": -1}, ValueError, "`max_retries` is -1"),
        ({"timeout": 0}, ValueError, "`timeout` is 0"),
        ({"timeout": math.nan}, ValueError, "`timeout` is nan"),
        ({"timeout": math.inf}, ValueError, "`timeout` is inf"),
    ],
)
def test_mistakes_are_named_before_anything_is_asked(endpoint, options, cls, message):
    with pytest.raises(cls, match=message) as error:
        judge_pairs(**{"synthetic": GOOD, "real": POOR, "endpoint": endpoint.url, "model": "judge", **options})
    assert KEY not in str(error.value)
    assert not endpoint.requests


def test_nobody_there():
    with pytest.raises(ConnectionError, match=r"http://127.0.0.1:9/v1/chat/completions.*'judge'.*ConnectError"):
        judge_records(GOOD[:1], "http://127.0.0.1:9/v1", "judge", max_retries=0)


def test_verdicts_follow_the_records_whatever_the_order_of_answers(endpoint):
    synthetic = [record for trio in zip(GOOD, FAIR, POOR) for record in trio]
    result = judge_pairs(synthetic, FAIR * 3, endpoint.url, "judge", max_concurrency=16)
    expected = {0: "win", 1: "tie", 2: "loss"}
    assert all(pair["verdict"] == expected[pair["synthetic"] % 3] for pair in result["pairs"])
    assert Counter(pair["verdict"] for pair in result["pairs"]) == {"win": 20, "tie": 20, "loss": 20}


@pytest.mark.parametrize(
    "line", ['{"key": 1, "content": "", "prompt_tokens": 0, "completion_tokens": 0}', "[" * 10**5]
)
def test_answers_of_other_types_are_no_answers(endpoint, tmp_path, line):
    (tmp_path / "answers").write_text(line + "\n")
    with pytest.raises(ValueError, match="line 1 of .* is no answer of a judge"):
        judge_records(GOOD[:1], endpoint.url, "judge", answers_file=tmp_path / "answers")


def test_a_pipe_keeps_no_answers(endpoint, tmp_path):
    os.mkfifo(tmp_path / "answers")
    with pytest.raises(ValueError, match="no file of a judge's answers"):
        judge_records(GOOD[:1], endpoint.url, "judge", answers_file=tmp_path / "answers")


def test_errors_do_not_steer_terminals(endpoint):
    endpoint.judge = lambda question: fail(401, "no \x1b[2J\ud800key")
    with pytest.raises(PermissionError) as error:
        judge_records(GOOD[:1], endpoint.url, "judge")
    assert str(error.value).replace("\n", "").isprintable() and "key" in str(error.value)


def test_usage_is_a_number_that_can_be_written(endpoint):
    answer = completion('{"score": 3}') | {"usage": {"prompt_tokens": 10**4000}}
    endpoint.judge = lambda question: lambda handler: handler.send(200, answer)
    json.dumps(judge_records(GOOD[:2], endpoint.url, "judge"))
