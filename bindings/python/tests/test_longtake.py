"""The module as it was installed from its wheel: LONGTAKE_ROOT names the repository, for the video and the other doors' answers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import longtake
import numpy as np
import pytest

ROOT = Path(os.environ.get("LONGTAKE_ROOT", Path(__file__).resolve().parents[3]))
VIDEO = ROOT / "assets" / "symbols" / "symbols.mp4"
RANDOM = ROOT / "tests" / "random_model"
SHAPE, COLOR = "What shape is shown?", "What color is shown?"


@pytest.fixture(scope="module")
def model() -> longtake.Model:
    return longtake.demo()


def program() -> str:
    """The one that the wheel laid beside this very interpreter."""
    path = Path(sys.executable).parent / ("longtake.exe" if os.name == "nt" else "longtake")
    assert path.is_file(), f"the wheel brought no {path}"
    return str(path)


def test_it_is_the_wheel() -> None:
    assert ROOT / "bindings" not in Path(longtake.__file__).parents
    said = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["longtake", longtake.__version__]
    assert (Path(longtake.__file__).parent / "py.typed").is_file()


def test_pieces_come_and_are_counted(model: longtake.Model) -> None:
    told: list[tuple[str, int, int]] = []
    with model.ask(SHAPE, video=VIDEO, progress=lambda *step: told.append(step)) as answer:
        assert "".join(answer) == "ring" and next(answer, None) is None
    assert answer.text == "ring" and answer.finish == "stop"
    assert answer.usage.prompt_tokens > 1152 and answer.usage.completion_tokens == len(answer.tokens) > 0
    assert answer.usage.prompt_seconds > 0 and answer.usage.cached_tokens == 0
    assert told[0][0] == "prompt" and told[-1][1] == told[-1][2] and {"frames", "tokens"} <= {step[0] for step in told}


@pytest.mark.parametrize("question", [SHAPE, "Describe what you see, and when."])
def test_tokens_are_those_of_the_command_line(question: str) -> None:
    mmproj = RANDOM / "mmproj-demo.gguf"
    flags = ["run", "-m", str(RANDOM / "demo.gguf"), "--video", str(RANDOM / "demo.mp4"), "-p", question, "-n", "24", "--json"]
    said = subprocess.run([program(), *flags], capture_output=True, text=True, check=True).stdout
    model = longtake.open(RANDOM / "demo.gguf", mmproj=mmproj)
    answer = model.ask(question, video=RANDOM / "demo.mp4", max_tokens=24)
    assert answer.read() == json.loads(said)["text"]
    assert answer.tokens == json.loads(said)["tokens"] and len(answer.tokens) == 24
    hot = longtake.Options(max_tokens=24, temperature=20.0, top_k=0, top_p=1.0, min_p=0.0)

    def dice(seed: int) -> str:
        options: longtake.Options = {**hot, "seed": seed}
        return model.ask(question, video=RANDOM / "demo.mp4", **options).read()

    sampled = [dice(seed) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_where_it_looked_is_what_the_command_line_tells(model: longtake.Model) -> None:
    assert model.ask(SHAPE, video=VIDEO).looked is None
    with model.ask(SHAPE, video=VIDEO, look=True) as answer:
        answer.read()
    looked = answer.looked
    assert looked is not None
    flags = ["run", "-m", str(VIDEO.with_suffix(".gguf")), "--video", str(VIDEO), "-p", SHAPE, "--where", "--json", "--quiet"]
    said = json.loads(subprocess.run([program(), *flags], capture_output=True, text=True, check=True).stdout)["where"]
    assert (str(looked), looked.n_tokens, looked.n_layers) == (said["text"], said["tokens"], said["layers"])
    shares = [looked.of_media, looked.of_words, looked.of_first_token, looked.of_answer]
    assert shares == list(said["shares"].values()) and sum(shares) == pytest.approx(1, abs=1e-4)
    (medium,), (want,) = looked.media, said["media"]
    assert (medium.kind, medium.share, len(medium.pairs)) == ("video", want["share"], 8)
    assert [(pair.start, pair.end, pair.share) for pair in medium.pairs] == [(p["from"], p["to"], p["share"]) for p in want["pairs"]]


def test_a_talk_goes_on_and_plans(model: longtake.Model) -> None:
    chat = model.chat(max_tokens=32).video(VIDEO).text("Look closely.")
    plan = chat.plan(SHAPE)
    assert [(m.kind, m.n_frames, m.n_tokens) for m in plan.media] == [("video", 16, 1152)]
    assert plan.memory > 1 << 20 and plan.reduced == []
    first = chat.ask(SHAPE)
    with pytest.raises(longtake.Error) as caught:
        chat.ask(COLOR)
    assert caught.value.kind == "busy"
    first.read()
    second = chat.ask(COLOR)
    assert second.read() and second.usage.cached_tokens > 1152
    small = model.chat(max_memory=plan.memory - (1 << 20), max_tokens=32).video(VIDEO).plan(SHAPE)
    assert small.memory < plan.memory and small.reduced


def test_frames_are_a_video(model: longtake.Model) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg to make arrays of the video with")
    raw = ["ffmpeg", "-v", "error", "-i", str(VIDEO), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = subprocess.run(raw, capture_output=True, check=True).stdout
    size = model.chat().video(VIDEO).plan().media[0]
    probe = ["ffprobe", "-v", "error", "-select_streams", "v", "-show_entries", "stream=width,height,r_frame_rate", "-of", "json", str(VIDEO)]
    stream = json.loads(subprocess.run(probe, capture_output=True, check=True).stdout)["streams"][0]
    up, down = map(int, stream["r_frame_rate"].split("/"))
    frames = np.frombuffer(pixels, np.uint8).reshape(-1, stream["height"], stream["width"], 3)
    planned = model.chat().video(frames, up / down).plan()
    assert (planned.media[0].n_frames, planned.media[0].n_tokens) == (size.n_frames, size.n_tokens)
    assert planned.media[0].label == f"{len(frames)} frames"
    whole = model.ask(SHAPE, video=frames, video_fps=up / down)
    assert whole.read() == "ring"
    # Views and lists are the same.
    assert model.ask(SHAPE, video=list(frames[:, ::-1][:, ::-1]), video_fps=up / down).read() == "ring"


def test_frames_that_are_none(model: longtake.Model) -> None:
    bad: Any
    for bad in [np.zeros((0, 8, 8, 3), np.uint8), np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 3), np.float32), []]:
        with pytest.raises(ValueError):
            model.chat().video(bad)
    with pytest.raises(ValueError):
        model.chat().video([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)])
    with pytest.raises(longtake.Error):
        model.chat().video(np.zeros((2, 8, 8, 3), np.uint8), fps=0)


def test_others_run_while_it_works(model: longtake.Model) -> None:
    """A thread of Python's counts while another waits for the engine: far more often than the lock's own switching would let it."""
    done, ticks = threading.Event(), 0

    def work() -> None:
        model.ask(SHAPE, video=VIDEO).read()
        done.set()

    worker = threading.Thread(target=work)
    started = time.monotonic()
    worker.start()
    while not done.is_set():
        time.sleep(0.002)
        ticks += 1
    worker.join()
    assert ticks > (time.monotonic() - started) / 0.1, "the lock was held while the engine worked"


def test_threads_share_a_model(model: longtake.Model) -> None:
    said: list[str] = []
    ask = lambda: said.append(model.ask(SHAPE, video=VIDEO).read())  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == ["ring"] * 3


def test_stops(model: longtake.Model) -> None:
    chat = model.chat().video(VIDEO)
    chat.cancel()
    chat.cancel()
    with pytest.raises(longtake.Error) as caught:
        chat.ask(SHAPE)
    assert caught.value.kind == "cancelled"
    chat.resume()
    # From another thread, while it reads.
    stopper = threading.Timer(0.05, chat.cancel)
    stopper.start()
    with pytest.raises(longtake.Error) as caught:
        for _ in range(100):
            chat.ask(SHAPE).read()
    stopper.join()
    assert caught.value.kind == "cancelled"
    chat.resume()

    class Enough(Exception):
        pass

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "tokens":
            raise Enough

    stopped = model.chat(progress=progress).video(VIDEO)
    with pytest.raises(Enough):
        stopped.ask(SHAPE)
    answer = chat.ask(SHAPE)
    answer.stop()
    assert answer.read() == "" and answer.finish == "cancelled"
    assert model.ask(SHAPE, video=VIDEO).read() == "ring"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_stops_reading(model: longtake.Model) -> None:
    # Where the tests are a job in the background, the signal is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chat = model.chat(batch_size=16).video(VIDEO)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(100):
            chat.ask(SHAPE).read()
            time.sleep(0.001)
    timer.join()
    # And the chat goes on.
    assert model.ask(SHAPE, video=VIDEO).read() == "ring"
    chat.ask(SHAPE).read()


def test_takes(model: longtake.Model, tmp_path: Path) -> None:
    take = tmp_path / "symbols.take"
    first = model.watch(VIDEO, take)
    assert first.n_tokens > 1152 and first.n_before == 0 and first.take == str(take)
    assert model.watch(VIDEO, take).n_before == first.n_tokens
    answer = model.ask(SHAPE, take=take)
    assert answer.read() == "ring" and answer.usage.cached_tokens >= first.n_tokens
    # The same file is one of the command line's.
    said = subprocess.run([program(), "inspect", str(take)], capture_output=True, text=True, check=True).stdout
    assert "symbols.mp4" in said
    with pytest.raises(longtake.Error) as caught:
        model.ask(SHAPE, take=VIDEO)
    assert caught.value.kind == "format"


def test_faults_have_a_kind_and_words(model: longtake.Model, tmp_path: Path) -> None:
    def kind(work: object) -> str:
        with pytest.raises(longtake.Error) as caught:
            work()  # type: ignore[operator]
        assert str(caught.value)
        return caught.value.kind

    assert kind(lambda: longtake.open(tmp_path / "none.gguf")) == "not_found"
    assert kind(lambda: longtake.open(VIDEO)) == "format"
    assert kind(lambda: model.ask(SHAPE, video="no/such.mp4")) == "not_found"
    assert kind(lambda: model.ask(SHAPE, video="http://example.com/a.mp4")) == "bad_input"
    assert kind(lambda: model.chat().system("a").system("b")) == "bad_input"
    assert kind(lambda: longtake.demo(max_memory=1 << 20)) == "limit"
    assert kind(lambda: model.ask(SHAPE, video=VIDEO, max_memory=1 << 20)) == "limit"
    with pytest.raises(TypeError):
        model.chat(no_such_option=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        model.chat(max_tokens="many")  # type: ignore[arg-type]
    with pytest.raises((OverflowError, TypeError, ValueError)):
        model.chat(max_tokens=-1)
