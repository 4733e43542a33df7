# SPDX-License-Identifier: Apache-2.0
"""Compiles the plugin, and the program that its tests ask, with g++ and Debian's static libraries; nothing else.

    python native/build.py                      the plugin, into src/memkv_nixl/plugins (to work on the tree)
    python native/build.py --sanitize thread    one that is instrumented, into build/thread-plugins
    python native/build.py --program probe      the program that the tests ask, into build/

What is linked in is hidden, and a host needs nothing newer than glibc 2.28 and gcc 8's libstdc++: ``check_floor``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NATIVE = Path(__file__).resolve().parent
PACKAGE = NATIVE.parent
OBJECTS = PACKAGE / "build"
PLUGIN_NAME = "libplugin_MEMKV.so"
HEADERS = ("openssl/evp.h", "xxhash.h", "yaml.h", "nlohmann/json.hpp")
DEBIAN = "g++ libssl-dev libxxhash-dev libyaml-dev nlohmann-json3-dev"
LIBRARIES = ("-l:libcrypto.a", "-l:libyaml.a")
COMPILE = (
    *("-std=c++20", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-ffunction-sections"),
    *("-fdata-sections", "-pthread", "-fstack-protector-strong"),
    "-MMD",
    *("-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror"),
)
LINK = ("-pthread", "-Wl,--gc-sections", "-Wl,--exclude-libs,ALL", "-Wl,-z,relro,-z,now")
# What libcrypto and libstdc++'s headers refer to, and compat.cpp answers with an older version.
WRAPPED = (
    *("pthread_once", "pthread_key_create", "pthread_key_delete", "pthread_getspecific", "pthread_setspecific"),
    *("pthread_rwlock_init", "pthread_rwlock_destroy", "pthread_rwlock_rdlock", "pthread_rwlock_wrlock"),
    *("pthread_rwlock_unlock", "pthread_sigmask", "pthread_condattr_setclock"),
    *("dlopen", "dlsym", "dlclose", "dlerror", "dladdr", "stat", "fstat"),
)
SANITIZERS = {"address": "-fsanitize=address,undefined -fno-sanitize-recover=undefined", "thread": "-fsanitize=thread"}
FLOOR = {"GLIBC": (2, 28), "GLIBCXX": (3, 4, 25), "CXXABI": (1, 3, 11)}


class BuildError(RuntimeError):
    """The plugin cannot be built here; the text says what is missing."""


def version() -> str:
    """The package's version, as pyproject.toml has it."""
    found = re.search(r'^version = "([^"]+)"', (PACKAGE / "pyproject.toml").read_text(), re.MULTILINE)
    if found is None:
        raise BuildError("pyproject.toml holds no version")
    return found[1]


def build_plugin(target: Path, *, sanitize: str | None = None) -> Path:
    """The shared library at ``target``. An instrumented one keeps its symbols, and has no floor."""
    objects = _objects(["client", "plugin"], sanitize)
    flags = ["-shared", f"-Wl,--version-script={NATIVE / 'plugin/exports.map'}"]
    if sanitize is None:
        flags += ["-s", "-Wl,--no-undefined", *(f"-Wl,--wrap={name}" for name in WRAPPED)]
    else:
        objects = [path for path in objects if path.name != "plugin.compat.o"]
    _link(target, objects, flags, sanitize)
    if sanitize is None:
        check_floor(target)
    return target


def build_program(name: str, target: Path, *, sanitize: str | None = None) -> Path:
    """The program of ``probe/NAME.cpp`` at ``target``."""
    objects = _objects(["client"], sanitize) + _objects(["probe"], sanitize, only=f"{name}.cpp")
    _link(target, objects, [], sanitize)
    return target


def check_floor(library: Path) -> None:
    """Refuses a library that asks for newer symbols than manylinux_2_28 has."""
    listed = subprocess.run(["objdump", "-T", str(library)], check=True, capture_output=True, text=True).stdout
    for family, number, symbol in re.findall(r"\((GLIBC|GLIBCXX|CXXABI)_([0-9.]+)\) (\S+)", listed):
        if tuple(map(int, number.split("."))) > FLOOR[family]:
            raise BuildError(f"{symbol} needs {family}_{number}: see plugin/compat.cpp")


def _link(target: Path, objects: Sequence[Path], flags: Sequence[str], sanitize: str | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    instrument = SANITIZERS[sanitize].split() if sanitize else []
    command = [_compiler(), *instrument, *LINK, *flags, "-o", str(target), *map(str, objects), *LIBRARIES]
    _run(command, f"linking {target.name}")


def _objects(folders: Sequence[str], sanitize: str | None, *, only: str = "*.cpp") -> list[Path]:
    sources = [path for folder in folders for path in sorted((NATIVE / folder).glob(only))]
    folder = OBJECTS / (sanitize or "release")
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["-O2"] if sanitize is None else ["-O1", "-g", "-fno-omit-frame-pointer", *SANITIZERS[sanitize].split()]

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.parent.name}.{source.stem}.o"
        if not _is_current(target):
            define = f'-DMEMKV_VERSION="{version()}"'
            command = [_compiler(), *COMPILE, *flags, define, f"-I{NATIVE}", "-c", str(source), "-o", str(target)]
            _run(command, f"compiling {source.name}")
        return target

    _require_headers()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(compile_one, sources))


def _is_current(target: Path) -> bool:
    """Whether an object file is newer than all that the compiler read for it, this file included."""
    listed = target.with_suffix(".d")
    if not target.exists() or not listed.exists():
        return False
    read = [Path(name) for name in listed.read_text().replace("\\\n", "").split()[1:]]
    return all(path.exists() and path.stat().st_mtime < target.stat().st_mtime for path in [*read, Path(__file__)])


def _require_headers() -> None:
    text = "".join(f"#include <{header}>\n" for header in HEADERS)
    command = [_compiler(), "-std=c++20", "-E", "-x", "c++", "-"]
    if subprocess.run(command, input=text, capture_output=True, text=True, check=False).returncode:
        raise BuildError(f"a header of {', '.join(HEADERS)} is missing; on Debian: apt-get install {DEBIAN}")


def _compiler() -> str:
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if not compiler:
        raise BuildError(f"there is no g++; on Debian: apt-get install {DEBIAN}")
    return compiler


def _run(command: list[str], what: str) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise BuildError(f"{what} failed:\n{ran.stderr[-4000:]}")


def main() -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description="Compiles the NIXL plugin of MemKV.")
    parser.add_argument("--sanitize", choices=sorted(SANITIZERS))
    parser.add_argument("--program", help="a program of probe/ instead of the plugin")
    given = parser.parse_args()
    folder = OBJECTS / f"{given.sanitize}-plugins" if given.sanitize else PACKAGE / "src/memkv_nixl/plugins"
    if given.program:
        build_program(given.program, OBJECTS / given.program, sanitize=given.sanitize)
    else:
        build_plugin(folder / PLUGIN_NAME, sanitize=given.sanitize)


if __name__ == "__main__":
    main()
