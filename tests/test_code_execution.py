"""Programs that pass, fail, cheat, hang and grab; the scorers of MBPP and HumanEval; completions of a causal LM."""

import itertools
import socket
import string
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from difflm_hf.evaluation import (
    ExecutionResult,
    evaluate_human_eval,
    evaluate_mbpp,
    extract_code,
    generate_completions,
    mbpp_prompt,
    pass_at_k,
    run_code,
)


MBPP = [
    {
        "task_id": 1,
        "text": "Write a function to double a number.",
        "code": "def double(n):\r\n    return 2 * n",
        "test_list": ["assert double(2) == 4", "assert double(-1.5) == -3"],
        "test_setup_code": "",
    },
    {
        "task_id": 2,
        "text": "Write a function to sum the values of a linked list.",
        "code": (
            "from __future__ import annotations\n"
            "class Node:\n    def __init__(self, value, rest=None):\n        self.value, self.rest = value, rest\n"
            "def total(node):\n    return node.value + total(node.rest) if node else 0"
        ),
        "tests": ["assert total(nodes) == 3", "assert total(None) == 0"],
        "test_setup_code": "nodes = Node(1, Node(2))",
    },
    {
        "task_id": 3,
        "prompt": "Write a function to find the area of a circle.",
        "code": "import math\ndef area(r): return math.pi * r ** 2",
        "test_list": ["assert math.isclose(area(1), 3.14159, rel_tol=0.001)"],
        "test_imports": ["import math"],
    },
]
HUMAN_EVAL = [
    {
        "task_id": "Made/0",
        "prompt": 'from typing import List\n\n\ndef largest(values: List[int]) -> int:\n    """The largest."""\n',
        "entry_point": "largest",
        "canonical_solution": "    return max(values)\n",
        "test": "\n\ndef check(candidate):\n    assert candidate([1, 3, 2]) == 3\n    assert candidate([-1]) == -1\n",
    }
]
REFUSED = {
    "os.fork": "import os\nfor _ in range(6): os.fork()",
    "os.system": "import os\nos.system('true')",
    "os.exec": "import os\nos.execv('/bin/true', ['true'])",
    "subprocess.Popen": "import subprocess\nsubprocess.run(['true'])",
    "processes and threads": "import threading\nthreading.Thread(target=print).start()",
    "processes": "from multiprocessing.util import spawnv_passfds\nspawnv_passfds(b'/bin/true', [b'true'], [])",
    "os.kill": "import os\nos.kill(os.getppid(), 0)",
    "ctypes.dlopen": "import ctypes\nctypes.CDLL(None)",
    "gc.get_objects": "import gc\ngc.get_objects()",
    "sys.settrace": "import sys\nsys.settrace(print)",
    "resource.setrlimit": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
}
# Each comes before an assertion that is false.
PRETENCES = [
    "import os; os._exit(0)",
    "import sys; sys.exit(0)",
    "raise SystemExit",
    "print('passed', flush=True); import os; os._exit(0)",
    "import os, atexit; atexit.register(os._exit, 0)",
    "import os\nfor n in range(64):\n  try: os.write(n, b'passed')\n  except OSError: pass\nos._exit(0)",
    "import sys, os; sys.audit('program.end'); os._exit(0)",
    "import sys, os\nf = sys._getframe(1)\nsys._getframe = lambda *_: f\nsys.audit('program.end')\nos._exit(0)",
    "if False:",
    "'''",
    "x = \\",
    "def f(): '''",
]
# Takes all secrets that are in reach, and sends them wherever it can.
THIEF = """
import os, sys, types

def frames():
    frame = sys._getframe()
    while frame:
        yield frame
        frame = frame.f_back
    try:
        open("/nowhere", "w")
    except PermissionError as error:
        trace = error.__traceback__
    while trace:
        yield trace.tb_frame
        trace = trace.tb_next

def values():
    for frame in frames():
        for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
            yield value
            if isinstance(value, types.FunctionType):
                yield from (cell.cell_contents for cell in value.__closure__ or ())

for secret in {v for v in values() if isinstance(v, bytes) and len(v) == 32}:
    for target in range(64):
        try:
            os.write(target, secret)
        except OSError:
            pass
os._exit(0)
"""


def fails(program, **kwargs):
    result = run_code(program, **kwargs)
    assert result.status == "failed" and not result.passed
    return result.error


def children():
    return {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


# Running


@pytest.mark.parametrize(
    "program",
    [
        "",
        "assert sorted([2, 1]) == [1, 2]",
        "if __name__ != '__main__': raise ValueError",
        "import typing\nclass A:\n  b: 'A'\nassert typing.get_type_hints(A)['b'] is A",
        "import asyncio\nasync def f(): return 1\nassert asyncio.run(f()) == 1",
        "import contextlib, os\nwith open(os.devnull, 'w') as f, contextlib.redirect_stdout(f): print(1)",
        "import tempfile\nwith tempfile.TemporaryDirectory() as d: open(f'{d}/a', 'w').write('é')",
        "import sys\nfor _ in range(9): print('x' * 10**6); print('x' * 10**6, file=sys.stderr)",
        "import os; os.write = os._exit = None",
    ],
)
def test_programs_that_pass(program):
    assert run_code(program, timeout=30) == ExecutionResult("passed")


def test_errors_are_named():
    assert fails("assert 0") == "AssertionError"
    assert fails("assert 0, 'é'") == "AssertionError: é"
    assert fails("def f(:").startswith("SyntaxError: invalid syntax")
    assert "null bytes" in fails("x = '\0'")
    assert "surrogates" in fails("x = '\ud800'")
    assert fails("def f(): f()\nf()").startswith("RecursionError")
    assert fails("input()").startswith("EOFError")
    assert fails("import os; os.abort()") == "killed by signal 6, Aborted"
    assert len(fails("raise ValueError('x' * 10**6)")) == 500
    assert fails("class E(Exception):\n  def __str__(self): raise E\nraise E")


@pytest.mark.parametrize("pretence", PRETENCES)
def test_pretences_do_not_pass(pretence):
    assert fails(f"{pretence}\nassert False")


def test_token_cannot_be_reached_by_name():
    assert fails(THIEF) == "exit with code 0 before the end of the program"


def test_endless_programs_are_ended():
    before = children()
    for program in ("while True: pass", "import time; time.sleep(600)", "while True:\n  try: input()\n  except: pass"):
        result = run_code(program, timeout=0.3)
        assert (result.status, result.error) == ("timed out", "no end after 0.3 seconds")
    assert children() <= before


@pytest.mark.parametrize("program", ["x = 'x' * 10**9", "x = [0]\nwhile True: x += x", "raise MemoryError"])
def test_memory_is_limited(program):
    result = run_code(program, max_memory=2**27, timeout=30)
    assert (result.status, result.error) == ("out of memory", "MemoryError")


def test_size_of_files_is_limited():
    assert "File too large" in fails("open('x', 'wb').write(b'x' * 2**25)")


@pytest.mark.parametrize("name", REFUSED)
def test_other_processes_are_out_of_reach(name):
    assert fails(REFUSED[name]).startswith(f"PermissionError: {name}")


def test_hook_holds_where_errors_are_swallowed():
    program = "import os\nfor _ in range(6):\n  try: os.fork()\n  except OSError: pass\n"
    assert run_code(program + "assert os.listdir('.') == []").passed


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.create_connection(('127.0.0.1', PORT), timeout=5)",
        "s = socket.socket(); s.connect(('127.0.0.1', PORT))",
        "s = socket.socket(); s.connect_ex(('127.0.0.1', PORT))",
        "s = socket.socket(type=socket.SOCK_DGRAM); s.sendto(b'x', ('127.0.0.1', PORT))",
        "s = socket.socket(); s.bind(('127.0.0.1', 0))",
        "socket.gethostbyname('localhost')",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:PORT')",
    ],
)
def test_network_is_refused(attempt):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        assert "is refused" in fails("import socket\n" + attempt.replace("PORT", str(server.getsockname()[1])))
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.skipif(
    subprocess.run(["unshare", "-Un", "true"], capture_output=True).returncode != 0,
    reason="the kernel has no namespaces for users",
)
def test_there_is_no_network():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{server.getsockname()[1]:04X}"
        assert address in Path("/proc/self/net/tcp").read_text()
        assert run_code(f"assert {address!r} not in open('/proc/self/net/tcp').read()").passed


@pytest.mark.parametrize(
    "attempt",
    [
        "open('FILE', 'w')",
        "open('FILE', 'a')",
        "open('FILE', 'r+')",
        "open(os.path.relpath('FILE'), 'wb')",
        "os.open('FILE', os.O_RDONLY | os.O_TRUNC)",
        "os.symlink('FILE', 'link'); open('link', 'w')",
        "import pathlib; pathlib.Path('FILE').write_text('')",
        "os.remove('FILE')",
        "os.rename('FILE', 'here')",
        "open('here', 'w').close(); os.replace('here', 'FILE')",
        "os.truncate('FILE', 0)",
        "os.chmod('FILE', 0)",
        "import shutil; shutil.rmtree(os.path.dirname('FILE'))",
        "os.mkdir('FILE' + '-folder')",
        "import sqlite3; sqlite3.connect('FILE' + '.db')",
    ],
)
def test_files_outside_are_safe(attempt, tmp_path):
    (tmp_path / "file").write_text("kept")
    program = "import os\n" + attempt.replace("FILE", str(tmp_path / "file"))
    assert "is refused outside of the working directory" in fails(program)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "kept"
    assert (tmp_path / "file").stat().st_mode & 0o600 == 0o600


def test_nothing_goes_in_and_nothing_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("SECRET", "1")
    program = """
        import os, sys
        open("file", "w").write("x")
        os.makedirs("a/b")
        os.chmod("a", 0)
        assert "SECRET" not in os.environ
        assert not [path for path in sys.path if "site-packages" in path or path in ("", os.getcwd())]
    """
    assert run_code("if True:" + program).passed
    assert list(tmp_path.iterdir()) == []


def test_sets_have_an_order():
    program = "raise ValueError(''.join(set('abcdefghijklmnopqrstuvwxyz')))"
    assert fails(program) == fails(program)


def test_wrong_limits(monkeypatch):
    for timeout in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="`timeout` is"):
            run_code("", timeout=timeout)
    with pytest.raises(ValueError, match="`max_memory` is 1000 bytes"):
        run_code("", max_memory=1000)
    assert run_code("", max_memory=2**26).passed
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="no interpreter started .* nothing came from /bin/false"):
        run_code("")


def test_other_systems_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(NotImplementedError, match="this is darwin"):
        run_code("")
    with pytest.raises(NotImplementedError, match="this is darwin"):
        evaluate_mbpp(MBPP, [[""]] * 3)


# Scores


@pytest.mark.parametrize("n", range(1, 7))
def test_pass_at_k_is_that_of_all_subsets(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_of_many_samples():
    product = 1.0
    for i in range(2000 - 30 + 1, 2001):  # the product by which Chen et al. compute it
        product *= 1 - 100 / i
    assert pass_at_k(2000, 30, 100) == pytest.approx(1 - product)
    assert pass_at_k(200, 0, 100) == 0
    assert pass_at_k(200, 101, 100) == 1


def test_pass_at_k_of_what_is_not_there():
    with pytest.raises(ValueError, match="`k` is 3; with 2 samples"):
        pass_at_k(2, 1, 3)
    with pytest.raises(ValueError, match="`k` is 0"):
        pass_at_k(2, 1, 0)
    with pytest.raises(ValueError, match="`num_correct` is 3 of 2"):
        pass_at_k(2, 3, 1)


def test_known_solutions_of_mbpp_pass():
    scores = evaluate_mbpp(MBPP, [[problem["code"]] for problem in MBPP], timeout=30)
    passed = [[ExecutionResult("passed")]] * 3
    counts = {"passed": 3, "failed": 0, "timed_out": 0, "out_of_memory": 0}
    assert scores == {"pass@1": 1.0, "num_problems": 3, "num_samples": 3, **counts, "results": passed}


def test_mbpp_counts_what_happens():
    wrong = ["def double(n): return n", "def double(n):\n  while True: pass", "def double(n): return 'x' * 10**9"]
    right = [MBPP[0]["code"]] * 3
    completions = [[*wrong, right[0]], [MBPP[1]["code"], "", "", ""]]
    scores = evaluate_mbpp(MBPP[:2], completions, k=(1, 2), timeout=1.5, num_workers=2)
    statuses = [[result.status for result in own] for own in scores.pop("results")]
    assert statuses == [["failed", "timed out", "out of memory", "passed"], ["passed", "failed", "failed", "failed"]]
    assert scores == {
        **{"pass@1": 1 / 4, "pass@2": 1 / 2, "num_problems": 2, "num_samples": 8},
        **{"passed": 2, "failed": 4, "timed_out": 1, "out_of_memory": 1},
    }


def test_human_eval():
    solution = HUMAN_EVAL[0]["canonical_solution"]
    again = "from typing import List\ndef largest(values: List[int]) -> int:\n    return sorted(values)[-1]"
    wrong = ["    return values[0]\n", "", "    return max(values", "    return 0\ndef check(_): pass\nlargest = max"]
    scores = evaluate_human_eval(HUMAN_EVAL, [[solution, again, *wrong]], k=(1, 5), timeout=30)
    passed = [result.passed for result in scores["results"][0]]
    assert passed == [True, True, False, False, False, True]
    assert scores["pass@1"] == pytest.approx(1 / 2)
    assert scores["pass@5"] == pytest.approx(1)
    empty = {**HUMAN_EVAL[0], "test": "def check(candidate):\n    assert False"}
    assert evaluate_human_eval([empty], [["    return 1\ndef check(_): pass"]])["pass@1"] == 0


@pytest.mark.parametrize("evaluate, problems", [(evaluate_mbpp, MBPP), (evaluate_human_eval, HUMAN_EVAL)])
def test_wrong_completions(evaluate, problems):
    n = len(problems)
    with pytest.raises(ValueError, match=f"`completions` has samples of {n + 1} problems, `problems` has {n}"):
        evaluate(problems, [["x"]] * (n + 1))
    with pytest.raises(ValueError, match=f"task {problems[-1]['task_id']} has 0 samples; pass@1 takes at least 1"):
        evaluate(problems, [["x"]] * (n - 1) + [[]])
    with pytest.raises(ValueError, match="has 1 samples; pass@10 takes at least 10"):
        evaluate(problems, [["x"]] * n, k=(1, 10))
    with pytest.raises(TypeError, match="the completions of task .* are not a list of str"):
        evaluate(problems, ["x"] * n)
    with pytest.raises(TypeError, match="the completions of task .* are not a list of str"):
        evaluate(problems, [[None]] * n)
    with pytest.raises(ValueError, match=r"`k` is \(0,\)"):
        evaluate(problems, [["x"]] * n, k=(0,))
    with pytest.raises(ValueError, match="`problems` is empty"):
        evaluate([], [])


def test_problems_that_lack_a_field():
    with pytest.raises(ValueError, match="task 7 has no 'test_list' or 'tests'; its fields are task_id, text"):
        evaluate_mbpp([{"task_id": 7, "text": ""}], [["x"]])
    with pytest.raises(ValueError, match="task 7 has no 'entry_point'; its fields are task_id"):
        evaluate_human_eval([{"task_id": 7}], [["x"]])
    with pytest.raises(ValueError, match=r"task \? has no 'task_id'"):
        evaluate_mbpp([{"tests": []}], [["x"]])
    with pytest.raises(ValueError, match="task 1 has no 'code'"):
        mbpp_prompt(MBPP[0], [{**HUMAN_EVAL[0], "task_id": 1, "tests": []}])


# Texts


def test_mbpp_prompt():
    question = (
        "You are an expert Python programmer, and here is your task: Write a function to double a number. Your code "
        "should pass these tests:\n\nassert double(2) == 4\nassert double(-1.5) == -3\n[BEGIN]\n"
    )
    assert mbpp_prompt(MBPP[0]) == question
    prompt = mbpp_prompt(MBPP[0], MBPP[1:])
    assert prompt.endswith("\n[DONE]\n\n" + question)
    assert prompt.count("[BEGIN]") == 3 and prompt.count("[DONE]") == 2
    assert all(example["code"] + "\n[DONE]" in prompt for example in MBPP[1:])


def test_known_code_is_left_alone():
    for problem in MBPP:
        assert extract_code(problem["code"]) == problem["code"]
    body = HUMAN_EVAL[0]["canonical_solution"]
    assert extract_code(body, is_body=True) == body.rstrip()


@pytest.mark.parametrize(
    "completion",
    [
        "def f():\n    return 1\n[DONE]\n\nYou are an expert [BEGIN]\ndef g(): pass\n[DONE]",
        "[BEGIN]\ndef f():\n    return 1\n[DONE]",
        "Sure:\n```python\ndef f():\n    return 1\n```\nThis works:\n```python\nf()\n```",
        "```\ndef f():\n    return 1\n```",
        "[BEGIN]\n```py\r\ndef f():\n    return 1\n```\n[DONE]",
        "Run `pip`:\n```bash\npip\n```\n```Python3\ndef f():\n    return 1\n```",
        "```python\ndef f():\n    return 1",
        "Sure\n```\ndef f():\n    return 1\n```",
    ],
)
def test_code_is_cut_out(completion):
    assert extract_code(completion) == extract_code(completion, is_body=True) == "def f():\n    return 1"


@pytest.mark.parametrize(
    "rest", ["\n\ndef g():\n    pass", "\nprint(f())", "\n# Test", "\nif True:\n    pass", "\n@g\nclass A: pass", ""]
)
def test_bodies_end_at_the_next_statement(rest):
    body = "\n    x = [\n        1,\n]\n\n    # comment\n    return x"
    assert extract_code(body + rest, is_body=True) == body[1:]


@pytest.mark.parametrize("rest", ["", "\nThis sorts the list.\n", "\nOr:\n```python\nx = 2\n```"])
def test_fences_that_the_prompt_has_opened(rest):
    assert extract_code("def f():\n    return 1\n```" + rest) == "def f():\n    return 1"
    assert extract_code("\n    return sorted(x)\n```" + rest, is_body=True) == "    return sorted(x)"


# Completions

ALPHABET = [c for c in string.printable if c not in "\r\x0b\x0c"]


@pytest.fixture(params=["byte-level", "metaspace"])
def tokenizer(request):
    """One token for each character, without a token for padding."""
    if request.param == "byte-level":
        pre_tokenizer, decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        letters = [pre_tokenizer.pre_tokenize_str(c)[0][0] for c in ALPHABET]
    else:
        pre_tokenizer, decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        letters = [c.replace(" ", "▁") for c in ALPHABET]
    vocabulary = {c: i for i, c in enumerate(["<s>", "</s>", *letters])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizer, decoder
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


@pytest.fixture
def lm(tiny_config):
    config = tiny_config("llama", vocab_size=len(ALPHABET) + 2, bos_token_id=0, eos_token_id=1, pad_token_id=None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


PROMPTS = ["def f(x):", "x", "while not"]


def test_batches_do_not_matter_to_greedy_completions(lm, tokenizer):
    alone = [generate_completions(lm, tokenizer, [prompt], max_new_tokens=20)[0] for prompt in PROMPTS]
    assert generate_completions(lm, tokenizer, PROMPTS, max_new_tokens=20, batch_size=2) == alone
    assert len({text for (text,) in alone}) == 3
    for prompt, (text,) in zip(PROMPTS, alone):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        output = lm.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=1)[0]
        assert tokenizer.decode(output, skip_special_tokens=True) == prompt + text


def test_samples_come_from_the_seed(lm, tokenizer):
    state = torch.get_rng_state()
    arguments = {"num_samples": 3, "max_new_tokens": 10, "temperature": 1.5, "top_p": 1.0, "batch_size": 4}
    first = generate_completions(lm, tokenizer, PROMPTS, **arguments)
    assert torch.equal(torch.get_rng_state(), state)
    assert first == generate_completions(lm, tokenizer, PROMPTS, **arguments)
    assert first != generate_completions(lm, tokenizer, PROMPTS, **arguments, seed=1)
    assert [len(own) for own in first] == [3, 3, 3]
    assert len({text for own in first for text in own}) == 9


def test_completions_end_before_stop_strings(lm, tokenizer):
    whole = [text for (text,) in generate_completions(lm, tokenizer, PROMPTS, max_new_tokens=20)]
    stops = [whole[0][5:7], whole[1][2:4]]
    expected = [text[: min((text.find(s) for s in stops if s in text), default=None)] for text in whole]
    assert expected != whole
    cut = generate_completions(lm, tokenizer, PROMPTS, max_new_tokens=20, stop_strings=stops)
    assert [text for (text,) in cut] == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_an_lm_comes_with_changes_nothing(lm, tokenizer, temperature):
    arguments = {"max_new_tokens": 20, "temperature": temperature}
    expected = generate_completions(lm, tokenizer, PROMPTS, **arguments)
    penalties = {"repetition_penalty": 2.0, "no_repeat_ngram_size": 1, "min_p": 0.9, "typical_p": 0.1, "num_beams": 3}
    lm.generation_config.update(**penalties)
    assert generate_completions(lm, tokenizer, PROMPTS, **arguments) == expected


def test_indentation_is_kept(lm, tokenizer):
    spaces = tokenizer.convert_tokens_to_ids(["Ġ"] if "Ġ" in tokenizer.get_vocab() else ["▁"])
    lm.generation_config.begin_suppress_tokens = [i for i in range(len(ALPHABET) + 2) if i not in spaces]
    for (text,) in generate_completions(lm, tokenizer, PROMPTS, max_new_tokens=3):
        assert text.startswith(" ")


def test_wrong_arguments_of_completions(lm, tokenizer):
    with pytest.raises(ValueError, match="all 2 samples are the same; set `temperature`"):
        generate_completions(lm, tokenizer, PROMPTS, num_samples=2)
    with pytest.raises(ValueError, match=r"`prompts\[0\]` has \d+ tokens, and the LM 80 positions: lower"):
        generate_completions(lm, tokenizer, PROMPTS)
    with pytest.raises(ValueError, match=r"`prompts\[1\]` has no tokens"):
        generate_completions(lm, tokenizer, ["x", ""], max_new_tokens=1)
    with pytest.raises(ValueError, match="`temperature` is -1"):
        generate_completions(lm, tokenizer, PROMPTS, temperature=-1)
    with pytest.raises(ValueError, match="`batch_size` is 0"):
        generate_completions(lm, tokenizer, PROMPTS, batch_size=0)


def test_completions_are_scored(lm, tokenizer):
    prompts = [mbpp_prompt(problem)[-50:] for problem in MBPP]
    completions = generate_completions(lm, tokenizer, prompts, num_samples=2, max_new_tokens=8, temperature=1.0)
    codes = [[extract_code(text) for text in own] for own in completions]
    scores = evaluate_mbpp(MBPP, codes, k=(1, 2), timeout=30)
    assert (scores["pass@2"], scores["failed"]) == (0, 6)
