"""The file of a judge's replies: nothing wrong comes out of it, whatever happened to it; replies without a service."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from service import SHORT

from steerlens.judges.base import BatchJudge, Question
from steerlens.judges.cache import JudgeCache, Reply, Request, Settings, writable_cache
from steerlens.judges.llm import ReplayJudge
from steerlens.judges.rubrics import REMINDER, Rubric
from steerlens.scores import RATINGS, Scores

SETTINGS = Settings("https://host/v1", "small", 0.01, 512)
REQUEST = Request("concept", "How much?")
REPLY = Reply("Rating: [[1]]", None, 10, 2, "small-1")
SEA, WAR = Question("sea", "p", "r"), Question("war", "p", "r")


def record(path: Path, question: Question, value: float, settings: Settings = SETTINGS, rubric: Rubric = SHORT) -> None:
    cache = JudgeCache(path)
    for name in RATINGS:
        cache.put(settings, Request(name, rubric.fill(name, question)), Reply(f"Rating: [[{value}]]"))


def test_what_is_put_in_comes_out(tmp_path: Path) -> None:
    path = tmp_path / "new" / "cache.jsonl"
    cache = JudgeCache(path)
    assert cache.get(SETTINGS, REQUEST) is None and len(cache) == 0 and not path.exists()
    cache.put(SETTINGS, REQUEST, REPLY)
    strange = Reply('Line\u2028separators, \ud800 half a pair, "quotes" and\nnew lines. Rating: [[2]]')
    cache.put(SETTINGS, REQUEST._replace(text="\ud800?"), strange)
    for one in (cache, JudgeCache(path)):
        assert one.get(SETTINGS, REQUEST) == REPLY
        assert one.get(SETTINGS, REQUEST._replace(text="\ud800?")) == strange
        assert (len(one), one.damaged, one.settings) == (2, 0, [SETTINGS])


@pytest.mark.parametrize(
    "other",
    [
        (replace(SETTINGS, endpoint="http://host/v1"), REQUEST),
        (replace(SETTINGS, model="large"), REQUEST),
        (replace(SETTINGS, temperature=0.02), REQUEST),
        (replace(SETTINGS, temperature=None), REQUEST),
        (replace(SETTINGS, max_tokens=None), REQUEST),
        (replace(SETTINGS, extra='{"top_p": 1}'), REQUEST),
        (SETTINGS, REQUEST._replace(rating="fluency")),
        (SETTINGS, REQUEST._replace(text="How much? ")),
        (SETTINGS, REQUEST._replace(again=True)),
    ],
)
def test_all_that_matters_is_in_the_key(other: tuple[Settings, Request], tmp_path: Path) -> None:
    cache = JudgeCache(tmp_path / "c")
    cache.put(SETTINGS, REQUEST, REPLY)
    assert cache.get(*other) is None
    assert cache.get(replace(SETTINGS), Request(*REQUEST)) == REPLY


def test_equal_temperatures_are_one_setting(tmp_path: Path) -> None:
    cache = JudgeCache(tmp_path / "c")
    cache.put(replace(SETTINGS, temperature=0), REQUEST, REPLY)
    assert cache.get(replace(SETTINGS, temperature=0.0), REQUEST) == REPLY


def test_the_first_reply_stays(tmp_path: Path) -> None:
    """Two processes that ask the same: later runs give one answer, always the same."""
    one, two = JudgeCache(tmp_path / "c"), JudgeCache(tmp_path / "c")
    one.put(SETTINGS, REQUEST, REPLY)
    two.put(SETTINGS, REQUEST, Reply("Rating: [[2]]"))
    one.put(SETTINGS, REQUEST, Reply("Rating: [[0]]"))
    assert one.get(SETTINGS, REQUEST) == JudgeCache(tmp_path / "c").get(SETTINGS, REQUEST) == REPLY


def test_killed_at_any_byte(tmp_path: Path) -> None:
    """Cut off anywhere, the file yields whole replies or none, takes new ones, and loses none of those before."""
    whole = tmp_path / "whole"
    for number in range(2):
        JudgeCache(whole).put(SETTINGS, REQUEST._replace(text=str(number)), Reply(f"Rating: [[{number}]]"))
    content = whole.read_bytes()
    first = content.index(b"\n")
    for length in [*range(0, len(content), 7), first, first + 1, len(content) - 1]:
        path = tmp_path / "cut"
        path.write_bytes(content[:length])
        JudgeCache(path).put(SETTINGS, REQUEST._replace(text="new"), Reply("Rating: [[2]]"))
        cache = JudgeCache(path)
        found = [cache.get(SETTINGS, REQUEST._replace(text=text)) for text in ("0", "1", "new")]
        assert found[0] == (Reply("Rating: [[0]]") if length >= first else None)
        assert found[1] == (Reply("Rating: [[1]]") if length >= len(content) - 1 else None)
        assert found[2] == Reply("Rating: [[2]]")
        path.unlink()


def test_damaged_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "c"
    JudgeCache(path).put(SETTINGS, REQUEST, REPLY)
    good = json.loads(path.read_text())
    lines = [
        good | {"steerlens_judge": 99},
        good | {"text": None},
        good | {"settings": {"model": "x"}},
        good | {"key": 3},
        [1],
        7,
    ]
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join(json.dumps(line) for line in lines) + '\n\x00\x00\n{"half": \n')
    cache = JudgeCache(path)
    assert (len(cache), cache.damaged) == (1, len(lines) + 2)
    assert cache.get(SETTINGS, REQUEST) == REPLY


def test_a_file_of_another_kind_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    for text in ('{"prompt": "a", "response": "b"}\n', '{\n "prompt": "a"\n}', "\n\nwords", "\x00"):
        path.write_text(text)
        with pytest.raises(ValueError, match="is not a cache of a judge's replies"):
            JudgeCache(path)
        assert path.read_text() == text
    with pytest.raises(ValueError, match="is a folder"):
        JudgeCache(tmp_path)


def test_threads_lose_nothing(tmp_path: Path) -> None:
    caches = [JudgeCache(tmp_path / "c") for _ in range(2)]

    def put(number: int) -> None:
        caches[number % 2].put(SETTINGS, REQUEST._replace(text=str(number)), Reply(f"{'x' * 5000} Rating: [[{number % 3}]]"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(120)))
    cache = JudgeCache(tmp_path / "c")
    assert (len(cache), cache.damaged) == (120, 0)
    for number in range(120):
        reply = cache.get(SETTINGS, REQUEST._replace(text=str(number)))
        assert reply is not None and (reply.text or "").endswith(f"[[{number % 3}]]")


WRITER = """
import sys
from steerlens.judges.cache import JudgeCache, Reply, Request, Settings
cache = JudgeCache(sys.argv[1])
for number in range(60):
    text = f"{sys.argv[2]}-{number}"
    cache.put(Settings("e", "m", 0.0, 1), Request("concept", text), Reply(text * 300 + " Rating: [[1]]"))
"""


@pytest.mark.slow
def test_processes_lose_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "c")
    running = [subprocess.Popen([sys.executable, "-c", WRITER, path, str(number)]) for number in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    cache = JudgeCache(path)
    assert (len(cache), cache.damaged) == (180, 0)
    for writer in range(3):
        for number in range(60):
            text = f"{writer}-{number}"
            found = cache.get(Settings("e", "m", 0.0, 1), Request("concept", text))
            assert found == Reply(text * 300 + " Rating: [[1]]")


def test_the_rubric_is_not_in_the_key_nor_in_the_file(tmp_path: Path) -> None:
    """The whole message is: files from before the settings told the rubric stay good."""
    JudgeCache(tmp_path / "c").put(replace(SETTINGS, rubric="one"), REQUEST, REPLY)
    cache = JudgeCache(tmp_path / "c")
    assert cache.get(SETTINGS, REQUEST) == cache.get(replace(SETTINGS, rubric="two"), REQUEST) == REPLY
    assert cache.settings == [SETTINGS] and "rubric" not in (tmp_path / "c").read_text()
    key = "ab862290a988f52caefc91ab52a2f754a49d5389b93d4f74d7f72ff61520caf4"
    assert json.loads((tmp_path / "c").read_text())["key"] == key


def test_a_reply_that_can_be_read_takes_the_place_of_one_that_cannot(tmp_path: Path) -> None:
    """Else a question whose reply an older version took for a rating would be asked in every run."""
    cache = JudgeCache(tmp_path / "c")
    cache.put(SETTINGS, REQUEST, Reply("Rating: [[1]]\nor so"))
    cache.put(SETTINGS, REQUEST, REPLY)
    for one in (cache, JudgeCache(tmp_path / "c")):
        assert one.get(SETTINGS, REQUEST) == REPLY and len(one) == 1 and one.settings == [SETTINGS]


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "deep" / "c.jsonl"
    with pytest.raises(ValueError, match=rf"cannot be kept at {path}: {tmp_path / 'file'} is not a folder"):
        writable_cache(path)
    with pytest.raises(ValueError, match="/dev/null is not a file"):
        writable_cache("/dev/null")
    assert len(writable_cache(tmp_path / "new" / "c.jsonl")) == 0 and not (tmp_path / "new").exists()
    monkeypatch.setattr("os.access", lambda place, mode: False)
    for path in (tmp_path / "file", tmp_path / "c.jsonl"):
        with pytest.raises(ValueError, match=rf"cannot be kept at {path}: .* cannot be written"):
            writable_cache(path)


# --- replies without a service ----------------------------------------------------------------------------------------


def test_replay_gives_what_was_recorded_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "c"
    record(path, SEA, 1)
    judge = ReplayJudge(path, rubric=SHORT)
    assert isinstance(judge, BatchJudge) and judge.settings == replace(SETTINGS, rubric=SHORT.digest)
    assert judge.score(*SEA) == Scores(1.0, 1.0, 1.0)
    known, unknown = judge.score_many([SEA, WAR])
    assert known.scores == Scores(1.0, 1.0, 1.0) and known.replies == dict.fromkeys(RATINGS, "Rating: [[1]]")
    assert unknown.scores == Scores(None, 1.0, 1.0)  # the other two questions are about the same text
    assert unknown.error == "concept: not recorded"
    assert judge.usage.requests == 0 and judge.usage.cached == 3 + 3
    other = ReplayJudge(path)  # with the default rubric, which was not used
    assert other.score_many([SEA])[0].error == "concept: not recorded; instruct: not recorded; fluency: not recorded"


def test_replay_finds_second_replies(tmp_path: Path) -> None:
    path = tmp_path / "c"
    for name in RATINGS:
        JudgeCache(path).put(SETTINGS, Request(name, SHORT.fill(name, SEA) + REMINDER, again=True), Reply("Rating: [[2]]"))
    assert ReplayJudge(path, rubric=SHORT).score(*SEA) == Scores(2.0, 2.0, 2.0)


def test_replay_reads_replies_anew(tmp_path: Path) -> None:
    """What an older version took for a rating is judged by today's rules."""
    path = tmp_path / "c"
    for name in RATINGS:
        JudgeCache(path).put(SETTINGS, Request(name, SHORT.fill(name, SEA)), Reply("Rating: [[9]]"))
    assert ReplayJudge(path, rubric=SHORT).score(*SEA) == Scores(None, None, None)


def test_replay_asks_which_of_several(tmp_path: Path) -> None:
    path, warm, large = tmp_path / "c", replace(SETTINGS, temperature=1), replace(SETTINGS, model="large")
    for value, settings in enumerate((SETTINGS, warm, large)):
        record(path, SEA, value, settings)
    with pytest.raises(ValueError, match=r"several settings: give model or settings.*(?s:.*)large"):
        ReplayJudge(path, rubric=SHORT)
    with pytest.raises(ValueError, match="several settings"):
        ReplayJudge(path, model="small", rubric=SHORT)
    assert ReplayJudge(path, model="large", rubric=SHORT).score(*SEA) == Scores(2.0, 2.0, 2.0)
    assert ReplayJudge(path, settings=warm, rubric=SHORT).score(*SEA) == Scores(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"no replies that fit. Recorded are:\nSettings"):
        ReplayJudge(path, model="medium", rubric=SHORT)
    with pytest.raises(ValueError, match="there is no recorded judge at"):
        ReplayJudge(tmp_path / "nothing")


def test_replays_are_told_apart(tmp_path: Path) -> None:
    record(tmp_path / "a", SEA, 1)
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes())
    first = ReplayJudge(tmp_path / "a", rubric=SHORT).identity
    assert ReplayJudge(tmp_path / "b", rubric=SHORT).identity == first
    assert "ReplayJudge" in first and SHORT.digest in first and "small" in first
    assert ReplayJudge(tmp_path / "a").identity != first
    record(tmp_path / "b", WAR, 1)
    assert ReplayJudge(tmp_path / "b", rubric=SHORT).identity != first
    again = ReplayJudge(tmp_path / "a", rubric=SHORT)
    assert ReplayJudge(tmp_path / "a", rubric=SHORT, settings=again.settings).settings == again.settings


def test_replay_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    record(tmp_path / "c", SEA, 2)
    judge: Any = ReplayJudge(tmp_path / "c", rubric=SHORT)
    assert judge.score(*SEA).overall == 2
