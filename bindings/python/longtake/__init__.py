"""Longtake answers questions about long videos on the machine in front of you.

>>> import longtake
>>> model = longtake.demo()                                    # or longtake.open("model.gguf")
>>> for piece in model.ask("What shape is shown?", video="symbols.mp4"):
...     print(piece, end="")

A video or picture is a path, a `data:` URL, or arrays of frames. Waiting releases the interpreter's lock, so other threads run;
a `Model` may be used by many threads, a `Chat` and an `Answer` by one at a time. Ctrl-C stops reading and answering.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, Union

from . import _native
from ._native import Error, __version__

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Self, TypeAlias, Unpack

    Array: TypeAlias = npt.NDArray[np.uint8]
    _State: TypeAlias = tuple[str, list[int], "Usage", "str | None", "Looked | None"]

__all__ = [
    "Answer",
    "Chat",
    "Error",
    "Looked",
    "LookedMedium",
    "LookedPair",
    "Medium",
    "Model",
    "Options",
    "Plan",
    "Usage",
    "Watched",
    "__version__",
    "demo",
    "open",
]

#: A file.
Path = Union[str, "os.PathLike[str]"]
#: A file, or frames: an array of (frames, height, width, 3) bytes of red, green and blue, or a list of (height, width, 3).
Video = Union[Path, "Array", "Sequence[Array]"]
#: Told of each step: ("prompt" | "frames" | "tokens", done, total). What it raises stops the work.
Progress = Callable[[str, int, int], Any]


class Options(TypedDict, total=False):
    """How a chat is held, and videos are sampled."""

    #: Slots of the context; by default what the first question needs, and `reserve` for further ones.
    ctx_size: int | None
    reserve: int
    #: Tokens per step of reading.
    batch_size: int
    #: Most tokens of an answer.
    max_tokens: int
    #: Bytes and seconds to stay within: frames become smaller, then fewer, until it fits.
    max_memory: int | None
    max_seconds: float | None
    #: Type of cached keys and values, like "q8_0" or "q4_0h".
    cache_type: str | None
    #: 0, the default, takes the likeliest token.
    temperature: float
    top_p: float
    min_p: float
    top_k: int
    seed: int
    #: Frames of a video for each second of it, or so many in all; between two times in seconds.
    fps: float | None
    n_frames: int | None
    max_frames: int | None
    start: float | None
    end: float | None
    #: Bounds of a frame's pixels, and of all together.
    min_pixels: int | None
    max_pixels: int | None
    total_pixels: int | None
    #: HoPE's temporal scale.
    temporal_scale: float | None
    #: Lets `ffmpeg`, where it is on the PATH, decode what is not built in, as a guarded child process.
    ffmpeg: bool
    #: Finds out where answers look, which `Answer.looked` tells; it costs somewhat more than attention does, once more.
    look: bool
    #: Lets control tokens that questions spell be tokens.
    special: bool


@dataclass(frozen=True)
class Usage:
    """What an answer took until now."""

    prompt_tokens: int
    #: So many of them had been read before.
    cached_tokens: int
    completion_tokens: int
    prompt_seconds: float
    answer_seconds: float


@dataclass(frozen=True)
class Medium:
    """A picture or video as it will be read."""

    kind: str
    label: str
    width: int
    height: int
    n_frames: int
    n_tokens: int


@dataclass(frozen=True)
class Plan:
    """What a question will take."""

    n_tokens: int
    n_ctx: int
    #: Bytes.
    memory: int
    #: None where it was not worth measuring.
    seconds: float | None
    #: What was made smaller to fit.
    reduced: list[str]
    media: list[Medium]


@dataclass(frozen=True)
class Watched:
    """What is in a take."""

    take: str
    n_tokens: int
    #: So many of them were there before.
    n_before: int


@dataclass(frozen=True)
class LookedPair:
    """A frame pair that was looked at: from when its first frame is shown, in seconds, to the next pair."""

    start: float
    end: float
    share: float
    #: The share of the words that tell its time, where there are any; it is one of words.
    stamp: float


@dataclass(frozen=True)
class LookedMedium:
    """A picture or video that was looked at."""

    kind: str
    label: str
    share: float
    pairs: list[LookedPair]


@dataclass(frozen=True)
class Looked:
    """Where the tokens of an answer looked: shares of all their attention, which make 1. In words as a string."""

    text: str
    #: Over which shares are means.
    n_tokens: int
    n_layers: int
    #: Pictures and frames; words but for the first token; the first token, where attention goes that has nowhere else to go.
    of_media: float
    of_words: float
    of_first_token: float
    of_answer: float
    media: list[LookedMedium]

    def __str__(self) -> str:
        return self.text


class Answer(Iterator[str]):
    """Pieces of text as they come. The chat goes on when it is over, or closed."""

    def __init__(self, native: _native.Answer, chat: Chat) -> None:
        self._native: _native.Answer | None = native
        self._chat = chat
        self._last: _State | None = None

    def __next__(self) -> str:
        if self._native is None:
            raise StopIteration
        return self._native.piece()

    def read(self) -> str:
        """Waits for all of it; the whole text."""
        for _ in self:
            pass
        return self.text

    @property
    def text(self) -> str:
        """The text until now."""
        return self._state()[0]

    @property
    def tokens(self) -> list[int]:
        """The tokens until now, without the one that ended it."""
        return self._state()[1]

    @property
    def usage(self) -> Usage:
        """What it took until now."""
        return self._state()[2]

    @property
    def finish(self) -> str | None:
        """Why it ended, once it has: "stop", "length" or "cancelled"."""
        return self._state()[3]

    @property
    def looked(self) -> Looked | None:
        """Where it has looked until now; None unless the chat was made with `look`."""
        return self._state()[4]

    def stop(self) -> None:
        """Ends it after the piece that came last."""
        if self._native is not None:
            self._native.stop()

    def cancel(self) -> None:
        """Stops it from any thread: whoever waits for a piece gets an `Error` of the kind "cancelled"."""
        self._chat.cancel()

    def close(self) -> None:
        """Ends it; what came until now is what was answered."""
        if self._native is not None:
            self._last = self._state()
            self._native = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _state(self) -> _State:
        native = self._native
        if native is not None:
            return native.text(), native.tokens(), Usage(*native.usage()), native.finish(), _looked(native.looked())
        assert self._last is not None
        return self._last


class Chat:
    """A talk: what is given becomes part of the next question, answers become part of the talk."""

    def __init__(self, native: _native.Chat) -> None:
        self._native = native

    def system(self, text: str) -> Self:
        """Begins with a system prompt; comes before all else."""
        self._native.system(text)
        return self

    def text(self, text: str) -> Self:
        """Adds words between media."""
        self._native.text(text)
        return self

    def video(self, video: Video, fps: float = 2.0) -> Self:
        """Adds a video. Of frames, `fps` says how many were taken in a second; files know theirs."""
        if isinstance(video, (str, os.PathLike)):
            self._native.video(video)
        else:
            self._native.frames(_frames(video, fps))
        return self

    def picture(self, picture: Path) -> Self:
        """Adds a picture."""
        self._native.picture(picture)
        return self

    def plan(self, question: str = "") -> Plan:
        """What the question will take, without reading any of it."""
        plan = self._native.plan(question)
        return Plan(
            n_tokens=plan["n_tokens"],
            n_ctx=plan["n_ctx"],
            memory=plan["memory"],
            seconds=plan["seconds"],
            reduced=plan["reduced"],
            media=[Medium(*medium) for medium in plan["media"]],
        )

    def ask(self, question: str) -> Answer:
        """Reads what was given and the question, and begins to answer."""
        return Answer(self._native.ask(question), self)

    def cancel(self) -> None:
        """Stops what it does, from any thread, and what is asked later, until `resume`."""
        self._native.cancel()

    def resume(self) -> None:
        """Lets a chat that was stopped go on."""
        self._native.resume()


class Model:
    """A model that is ready to talk; see `open` and `demo`."""

    def __init__(self, native: _native.Model) -> None:
        self._native = native

    @property
    def warnings(self) -> list[str]:
        """What a user should know although it is no error."""
        return self._native.warnings

    def chat(self, take: Path | None = None, *, progress: Progress | None = None, **options: Unpack[Options]) -> Chat:
        """Begins a talk, about the video of a take where one is given."""
        return Chat(self._native.chat(take, dict(options), progress))

    def ask(
        self,
        prompt: str,
        *,
        video: Video | None = None,
        video_fps: float = 2.0,
        picture: Path | None = None,
        take: Path | None = None,
        system: str | None = None,
        progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> Answer:
        """Asks one question. `video_fps` is the rate at which a video of frames was taken, `fps` how many of each second are used."""
        chat = self.chat(take, progress=progress, **options)
        if system is not None:
            chat.system(system)
        if video is not None:
            chat.video(video, video_fps)
        if picture is not None:
            chat.picture(picture)
        return chat.ask(prompt)

    def watch(
        self,
        video: Path,
        take: Path,
        *,
        system: str | None = None,
        again: bool = False,
        progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> Watched:
        """Reads a video once, into a take, for questions on any later day. An unfinished one is gone on with."""
        n_tokens, n_before = self._native.watch(video, take, system, again, dict(options), progress)
        return Watched(os.fspath(take), n_tokens, n_before)


def open(
    path: Path,
    *,
    mmproj: Path | None = None,
    threads: int | None = None,
    max_memory: int | None = None,
    mmap: bool = True,
) -> Model:
    """Opens a model and the projector beside it. `max_memory` bytes are a cap on the model and all its talks together."""
    return Model(_native.open(path, {"mmproj": mmproj, "threads": threads, "max_memory": max_memory, "mmap": mmap}))


def demo(*, threads: int | None = None, max_memory: int | None = None) -> Model:
    """Opens the small model that the module carries: it knows eight shapes in eight colours."""
    return Model(_native.demo({"threads": threads, "max_memory": max_memory}))


def _looked(seen: _native._Looked | None) -> Looked | None:
    """Numbers with names."""
    if seen is None:
        return None
    text, n_tokens, n_layers, shares, media = seen
    named = [LookedMedium(kind, label, share, [LookedPair(*pair) for pair in pairs]) for kind, label, share, pairs in media]
    return Looked(text, n_tokens, n_layers, *shares, media=named)


def _frames(video: Array | Sequence[Array], fps: float) -> _native.Frames:
    """Arrays as a video of the engine's."""
    if len(video) == 0:
        raise ValueError("a video without frames")
    shape = video[0].shape
    if len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"frames of shape {shape}, expected (height, width, 3)")
    frames = _native.Frames(len(video), shape[1], shape[0], fps)
    for frame in video:
        if frame.shape != shape or frame.dtype.name != "uint8":
            raise ValueError(f"a frame of {frame.dtype.name} {frame.shape}, expected uint8 {shape}")
        frames.push(frame.tobytes())
    return frames
