import os
from collections.abc import Callable
from typing import Any, Literal, TypedDict

Path = str | os.PathLike[str]

__version__: str

class Error(Exception):
    """What went wrong: words, and what kind of fault it is."""

    kind: Literal[
        "io",
        "not_found",
        "format",
        "unsupported",
        "limit",
        "mismatch",
        "bad_input",
        "busy",
        "cancelled",
        "internal",
    ]

class _Plan(TypedDict):
    n_tokens: int
    n_ctx: int
    memory: int
    seconds: float | None
    reduced: list[str]
    media: list[tuple[str, str, int, int, int, int]]

_Pairs = list[tuple[float, float, float, float]]
_Looked = tuple[str, int, int, tuple[float, float, float, float], list[tuple[str, str, float, _Pairs]]]

class Model:
    @property
    def warnings(self) -> list[str]: ...
    def chat(
        self, take: Path | None, options: dict[str, Any], progress: Callable[[str, int, int], Any] | None
    ) -> Chat: ...
    def watch(
        self,
        video: Path,
        take: Path,
        system: str | None,
        again: bool,
        options: dict[str, Any],
        progress: Callable[[str, int, int], Any] | None,
    ) -> tuple[int, int]: ...

class Chat:
    def system(self, text: str) -> None: ...
    def text(self, text: str) -> None: ...
    def video(self, path: Path) -> None: ...
    def picture(self, path: Path) -> None: ...
    def frames(self, frames: Frames) -> None: ...
    def plan(self, question: str) -> _Plan: ...
    def ask(self, question: str) -> Answer: ...
    def cancel(self) -> None: ...
    def resume(self) -> None: ...

class Frames:
    def __new__(cls, n_frames: int, width: int, height: int, fps: float) -> Frames: ...
    def push(self, rgb: bytes) -> None: ...

class Answer:
    def piece(self) -> str: ...
    def stop(self) -> None: ...
    def text(self) -> str: ...
    def tokens(self) -> list[int]: ...
    def finish(self) -> str | None: ...
    def looked(self) -> _Looked | None: ...
    def usage(self) -> tuple[int, int, int, float, float]: ...

def open(path: Path, options: dict[str, Any]) -> Model: ...
def demo(options: dict[str, Any]) -> Model: ...
