"""What pip calls to build the wheel: maturin's own hooks, with the program for the PATH built before.

`LONGTAKE_PROGRAM` names one that is built already; `MATURIN_PEP517_ARGS` is maturin's, as `--profile dev` for a quick build.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import maturin
from maturin import (  # noqa: F401  (hooks of PEP 517 and 660 that need nothing of ours)
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
)

HERE = Path(__file__).resolve().parent
NAME = "longtake.exe" if os.name == "nt" else "longtake"


def folder() -> Path:
    """Where maturin takes files for the PATH from; it wants to see it even before there is one."""
    scripts = HERE / "longtake.data" / "scripts"
    scripts.mkdir(parents=True, exist_ok=True)
    return scripts


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Any = None) -> str:
    folder()
    return str(maturin.prepare_metadata_for_build_wheel(metadata_directory, config_settings))


def prepare_metadata_for_build_editable(metadata_directory: str, config_settings: Any = None) -> str:
    folder()
    return str(maturin.prepare_metadata_for_build_editable(metadata_directory, config_settings))


def program() -> None:
    """Lays the program where maturin takes files for the PATH from."""
    built = os.environ.get("LONGTAKE_PROGRAM")
    if built is None:
        root = HERE.parents[1]
        subprocess.run(["cargo", "build", "--release", "--locked"], cwd=root, check=True)
        built = str(Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / "release" / NAME)
    scripts = folder()
    shutil.copy2(built, scripts / NAME)
    # Names are of no use to whoever installs it, and half of its size.
    if shutil.which("strip"):
        subprocess.run(["strip", str(scripts / NAME)], check=True)


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    program()
    return str(maturin.build_wheel(wheel_directory, config_settings, metadata_directory))


def build_editable(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    program()
    return str(maturin.build_editable(wheel_directory, config_settings, metadata_directory))
