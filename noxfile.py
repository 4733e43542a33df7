# SPDX-License-Identifier: Apache-2.0
"""Everything a developer or CI does to this repository, as nox sessions.

``nox -l`` lists them. Whatever is tested here is tested as built wheels: a session builds them into
``dist/`` and installs those files by path, so a file that the wheel lacks cannot be found in the working
tree instead.

Packages of our names on the public index are another vendor's. No resolver here ever sees such a name:
the dependencies of our packages are read from their ``pyproject.toml`` and installed without our own, and
our wheels are then installed from ``dist/`` with ``--no-deps``.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"  # uv does not look where PIP_FIND_LINKS points
nox.options.error_on_missing_interpreters = True
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "typecheck", "tests"]

ROOT = Path(__file__).parent
DIST = ROOT / "dist"
PACKAGES = {
    "memkv-core": ROOT / "shared/memkv-core",
    "memkv-server": ROOT / "packages/memkv-server",
    "memkv-sglang": ROOT / "packages/memkv-sglang",
    "memkv-lmcache": ROOT / "packages/memkv-lmcache",
    "memkv-nixl": ROOT / "packages/memkv-nixl",
}
SITE = PACKAGES["memkv-server"] / "build/site"  # what goes into the server's wheel for `memkv doc`
# Wheels for one platform, and what they hold besides their sources: it is compiled when they are built.
NATIVE = {"memkv-nixl": ["memkv_nixl/plugins/libplugin_MEMKV.so"]}
GROUPS: dict[str, Any] = nox.project.load_toml(ROOT / "pyproject.toml")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")

ENGINES: dict[str, Any] = nox.project.load_toml(ROOT / "integration-tests/engines.toml")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, licenses, forbidden imports: reports only, changes nothing."""
    session.install(*_group("lint"))
    session.run("pre-commit", "run", "--all-files", *session.posargs)
    sources = os.pathsep.join(str(path) for path in [*ROOT.glob("shared/*/src"), *ROOT.glob("packages/*/src")])
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": sources})


@nox.session(name="format", default=False)
def format_(session: nox.Session) -> None:
    """Mend what ruff can mend, in place."""
    session.install(*_group("lint"))
    for hook in ("ruff-fix", "ruff-reformat", "clang-reformat"):
        session.run("pre-commit", "run", "--all-files", "--hook-stage", "manual", hook, success_codes=[0, 1])


@nox.session
def typecheck(session: nox.Session) -> None:
    """``mypy --strict`` over the packages, their tests, the integration tests and this file."""
    session.install(*_group("typecheck"), *_dependencies())
    sources = [str(path / "src") for path in PACKAGES.values()]
    session.run("mypy", *sources, "noxfile.py", "docs/site/reference.py", "docs/site/messages.py", "docs/site/hooks.py")
    # One run for each folder of tests: test files of different packages may bear the same name.
    for folder in _test_folders() + _integration_folders():
        session.run("mypy", str(folder.relative_to(ROOT)))


@nox.session
def tests(session: nox.Session) -> None:
    """The unit tests of all packages, against the built wheels, on the interpreter that runs nox."""
    _run_tests(session)


def _run_tests(session: nox.Session) -> None:
    """The unit tests of all packages, against the built wheels."""
    session.install(*_group("exporters"))
    _install_wheels(session, "test")
    session.run("python", "-m", "pip", "check")
    folders = [str(folder.relative_to(ROOT)) for folder in _test_folders()]
    # Compiled beforehand: no test's time is spent on it.
    session.run("python", "packages/memkv-nixl/native/build.py", "--program", "probe")
    # pytest, not python -m pytest: the latter would put the working tree on sys.path.
    about = ["integration-tests/test_installed.py", "integration-tests/test_documented.py", "benchmarks/tests"]
    session.run("pytest", *about, *folders, *session.posargs)


for _version in PYTHONS:
    nox.session(name=f"tests-{_version}", python=_version, default=False)(_run_tests)


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build every wheel and sdist into ``dist/``; refuse a missing, surplus or malformed artefact."""
    _build(session)
    session.install(*_group("build"))
    expected = sorted(name for package in PACKAGES for name in _artefacts(package))
    found = sorted(path.name for path in DIST.iterdir())
    if found != expected:
        session.error(f"dist/ holds {found}, and should hold {expected}")
    session.run("twine", "check", "--strict", *(str(DIST / name) for name in expected))
    for package in PACKAGES:
        _check_contents(session, package)
    for package in NATIVE:
        _check_platform(session, package)


@nox.session(default=False)
def cluster(session: nox.Session) -> None:
    """Real nodes, from the built wheels: killed, frozen, filled, with bytes flipped beneath them."""
    _install_wheels(session, "test")
    session.run("pytest", "integration-tests/cluster", *session.posargs)


@nox.session(default=False)
def deploy(session: nox.Session) -> None:
    """What MemKV is deployed with: dashboard and alerts on a real Prometheus, units, images, charts."""
    _install_wheels(session, "deploy")
    session.run("pytest", "integration-tests/deploy", *session.posargs)


@nox.session(default=False)
def dashboard(session: nox.Session) -> None:
    """The dashboard in Debian's Chromium, on real nodes at work; needs the package chromium."""
    _install_wheels(session, "dashboard")
    session.run("pytest", "integration-tests/dashboard", *session.posargs)


@nox.session(default=False)
def simulate(session: nox.Session) -> None:
    """Random histories of a store on a drive that fails; seeds after ``--``, or else one drawn anew."""
    _install_wheels(session, "test")
    session.run("python", "-m", "memkv_server.testing.simulate", *session.posargs)


@nox.session(default=False)
def torture(session: nox.Session) -> None:
    """kill -9 of a real node under load, 200 times; ``-- --help`` lists what can be changed."""
    _install_wheels(session, "test")
    session.run("python", "integration-tests/torture/torture.py", *session.posargs)


@nox.session(default=False)
def powercut(session: nox.Session) -> None:
    """The plug of a machine with a strict node is pulled, 20 times; needs qemu (``-- --install``)."""
    _install_wheels(session, "test")
    session.run("python", "integration-tests/powercut/powercut.py", *session.posargs)


@nox.session(venv_backend="none", default=False)
def rdma(session: nox.Session) -> None:
    """The tests on real verbs, in a virtual machine with RDMA in software; needs qemu (``-- --install``)."""
    wheels = _build(session)
    python = _environment(session, "rdma", _rdma_interpreter())
    pip = [python, "-m", "pip", "install"]
    session.run(*pip, *_group("test"), *_dependencies(), external=True)
    session.run(*pip, "--force-reinstall", "--no-deps", *wheels, external=True)
    session.run(python, "integration-tests/rdma/run.py", *session.posargs, external=True)


@nox.session(venv_backend="none", default=False)
@nox.parametrize("engine", list(ENGINES), ids=list(ENGINES))
def integration(session: nox.Session, engine: str) -> None:
    """The tests on a real engine, in an environment of its own that is kept between runs."""
    python = _engine_environment(session, engine)
    tests = ["integration-tests/test_installed.py", f"integration-tests/{engine}"]
    pytest = str(Path(python).with_name("pytest"))
    session.run(pytest, *tests, *session.posargs, external=True, env=_on_path(python))


@nox.session(name="nixl-matrix", venv_backend="none", default=False)
@nox.parametrize("version", ENGINES["nixl"]["all"], ids=ENGINES["nixl"]["all"])
def nixl_matrix(session: nox.Session, version: str) -> None:
    """The tests of the NIXL plugin on every NIXL 1.x; refuses to run where the index has one that is not listed."""
    python = _engine_environment(session, "nixl")
    _require_listed(session, python, "nixl-cu12", major="1", listed=ENGINES["nixl"]["all"])
    session.run(python, "integration-tests/nixl/prepare.py", version, external=True)
    folder = Path(python).parent.parent / f"nixl-{version}"
    env = {**_on_path(python), "PYTHONPATH": str(folder), "NIXL_TESTED_VERSION": version}
    pytest = str(Path(python).with_name("pytest"))
    session.run(pytest, "integration-tests/nixl", *session.posargs, external=True, env=env)


@nox.session(venv_backend="none", default=False)
def demo(session: nox.Session) -> None:
    """A cluster and a real engine on the CPU, twice: the second process reads what the first stored."""
    python = _engine_environment(session, "sglang")
    session.run(python, "integration-tests/sglang/demo.py", *session.posargs, external=True, env=_on_path(python))


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """``memkv bench`` from the built wheels; arguments after ``--`` go to it.

    On the cluster that ``MEMKV_SERVERS`` names, or else on one node of this machine that is started for it.
    """
    _install_wheels(session, "bench")
    if "MEMKV_SERVERS" in os.environ:
        session.run("memkv", "bench", *session.posargs)
        return
    folder = ROOT / "build" / "bench"
    cluster = ("--dir", str(folder))
    described = session.run(
        "memkv", "dev", "up", *cluster, "--port", "0", "--capacity", "8GiB", "--json", silent=True, stderr=None
    )
    try:
        session.run("memkv", "bench", *session.posargs, env=json.loads(str(described))["env"])
    finally:
        session.run("memkv", "dev", "down", *cluster)
        shutil.rmtree(folder, ignore_errors=True)


@nox.session(default=False)
def perfcheck(session: nox.Session) -> None:
    """Whether MemKV has become slower: ratios against ``benchmarks/baseline.json``; ``-- --write`` sets it."""
    _install_wheels(session, "bench")
    session.run("python", "benchmarks/perfcheck.py", *session.posargs)


@nox.session(name="bench-peers", default=False)
def bench_peers(session: nox.Session) -> None:
    """MemKV, Mooncake, Redis, memcached, LMCache's server, sglang's files, NIXL POSIX, in turns: ``-- --help``.

    Three of them need the environment of an engine, which is made if it is not there. What cannot be installed is
    reported by the benchmark; the others are measured.
    """
    _install_wheels(session, "peers")
    pythons = []
    for engine in ("lmcache", "sglang", "nixl"):
        try:
            python = _engine_environment(session, engine)
        except nox.command.CommandFailed:
            session.warn(f"the environment of {engine} cannot be made: its contender will be reported as missing")
            continue
        pythons += ["--python", f"engine-{engine}={python}"]
    session.run("python", "benchmarks/bench_peers.py", *pythons, *session.posargs)


@nox.session(name="bench-engines", default=False)
def bench_engines(session: nox.Session) -> None:
    """Time to the first token on sglang and vLLM, and how MemKV scales; ``-- --part blocks`` measures one part."""
    _install_wheels(session, "test")
    session.install("psutil")
    named = {engine for engine in ("sglang", "vllm") if engine in session.posargs or "--part" not in session.posargs}
    pythons = [f"--python={engine}={_engine_environment(session, engine)}" for engine in sorted(named)]
    session.run("python", "benchmarks/bench_engines.py", *pythons, *session.posargs)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """The site into ``build/docs``; a broken link or a page outside the navigation fails it, and so does an example."""
    session.install(*_group("docs"))
    _install_wheels(session, "test")
    session.run("towncrier", "build", "--draft", "--version", _project("memkv-core")["version"])
    quiet = {"NO_MKDOCS_2_WARNING": "1"}  # an advertisement
    session.run("mkdocs", "build", "--strict", "--config-file", "docs/site/mkdocs.yml", env=quiet)
    session.run("pytest", "integration-tests/docs", *session.posargs)


@nox.session(default=False)
def reference(session: nox.Session) -> None:
    """Write anew the pages that are made from the code and kept in the repository (``docs/metrics.md``)."""
    _install_wheels(session, "test")
    session.run("python", "docs/site/reference.py")


# ------------------------------------------------------------------------------------------------------------
# Helpers
# ------------------------------------------------------------------------------------------------------------

_built: list[str] = []


def _group(name: str) -> tuple[str, ...]:
    """The requirements of a dependency group of the root ``pyproject.toml``."""
    return nox.project.dependency_groups(GROUPS, name)


def _project(package: str) -> dict[str, Any]:
    """The ``[project]`` table of one of our packages."""
    table: dict[str, Any] = nox.project.load_toml(PACKAGES[package] / "pyproject.toml")["project"]
    return table


def _dependencies() -> list[str]:
    """What our packages need from the index: everything they name but each other."""
    named = {line for package in PACKAGES for line in _project(package).get("dependencies", [])}
    return sorted(line for line in named if not line.startswith("memkv-"))


def _test_folders() -> list[Path]:
    return [path / "tests" for path in PACKAGES.values() if (path / "tests").is_dir()]


def _integration_folders() -> list[Path]:
    root = ROOT / "integration-tests"
    return [
        ROOT / "benchmarks",
        *root.glob("test_*.py"),
        *(
            root / name
            for name in ("cluster", "dashboard", "deploy", "docs", "rdma", "rig", "torture", "powercut", *ENGINES)
        ),
    ]


def _environment(session: nox.Session, name: str, interpreter: str) -> str:
    """The python of the virtual environment ``.nox/NAME``, made if it is not there."""
    folder = ROOT / ".nox" / name
    python = folder / "bin" / "python"
    if not python.exists():
        # virtualenv comes with nox; Debian's python lacks the venv module.
        session.run(sys.executable, "-m", "virtualenv", "--python", interpreter, str(folder), external=True)
    return str(python)


def _on_path(python: str) -> dict[str, str]:
    """An environment in which the commands beside ``python`` come first, as in an activated one."""
    return {"PATH": os.pathsep.join([str(Path(python).parent), os.environ["PATH"]])}


def _build(session: nox.Session) -> list[str]:
    """Build wheels and sdists into ``dist/``, once for all sessions of this run; the paths of the wheels.

    Each wheel is built from its sdist, which shows that the sdist is complete.
    """
    if not _built:
        python = _environment(session, "builder", sys.executable)
        session.run(python, "-m", "pip", "install", *_group("build"), external=True)
        shutil.rmtree(DIST, ignore_errors=True)
        _build_site(session)
        for path in PACKAGES.values():
            session.run(python, "-m", "build", "--no-isolation", "--outdir", str(DIST), str(path), external=True)
        _built.extend(str(path) for path in sorted(DIST.glob("*.whl")))
    return _built


def _build_site(session: nox.Session) -> None:
    """The documentation that goes into the server's wheel, made from the tree: its reference comes from the code."""
    python = _environment(session, "site", sys.executable)
    session.run(python, "-m", "pip", "install", "-q", *_group("docs"), *_dependencies(), external=True)
    sources = os.pathsep.join(str(path / "src") for path in PACKAGES.values())
    command = ["-m", "mkdocs", "build", "--quiet", "--config-file", "docs/site/mkdocs.yml", "--site-dir", str(SITE)]
    session.run(python, *command, external=True, env={"PYTHONPATH": sources, "NO_MKDOCS_2_WARNING": "1"})


def _install_wheels(session: nox.Session, group: str) -> None:
    """Our wheels, what they need, and a dependency group, into the session's environment."""
    wheels = _build(session)
    session.install(*_group(group), *_dependencies())
    session.install("--force-reinstall", "--no-deps", *wheels)


def _artefacts(package: str) -> tuple[str, str]:
    """The file names of the wheel and the sdist of one package."""
    stem = f"{package.replace('-', '_')}-{_project('memkv-core')['version']}"  # one version for all
    tag = f"manylinux_2_28_{platform.machine()}" if package in NATIVE else "any"
    return f"{stem}-py3-none-{tag}.whl", f"{stem}.tar.gz"


def _check_contents(session: nox.Session, package: str) -> None:
    """Refuse a wheel that holds other files than its sources, or an sdist without what a build needs."""
    wheel, sdist = _artefacts(package)
    settings = nox.project.load_toml(PACKAGES[package] / "pyproject.toml")
    included = settings["tool"]["hatch"]["build"]["targets"]["wheel"].get("force-include", {})
    info = wheel.split("-py3-")[0] + ".dist-info"
    expected = {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL")}
    expected |= {f"{info}/licenses/{name}" for name in settings["project"]["license-files"]}
    expected |= set(NATIVE.get(package, ()))
    if "scripts" in settings["project"] or "entry-points" in settings["project"]:
        expected.add(f"{info}/entry_points.txt")
    expected |= set(_tracked(PACKAGES[package] / "src"))
    if package == "memkv-server":
        pages = {path.relative_to(SITE).as_posix() for path in SITE.rglob("*") if path.is_file()}
        if not {"index.html", "reference/commands.html"} <= pages:
            session.error(f"{wheel}: the documentation is missing")
        expected |= {f"memkv_server/site/{page}" for page in pages}
    for source, target in included.items():
        expected |= {f"{target}/{name}" for name in _tracked(PACKAGES[package] / source)}
    with zipfile.ZipFile(DIST / wheel) as archive:
        found = set(archive.namelist())
        if found != expected:
            session.error(f"{wheel}: missing {sorted(expected - found)}, surplus {sorted(found - expected)}")
        # A copy lies in each package, since a build reads nothing above its own folder.
        if archive.read(f"{info}/licenses/LICENSE") != (ROOT / "LICENSE").read_bytes():
            session.error(f"{package}: its LICENSE is not the one of the repository")

    with tarfile.open(DIST / sdist) as source_archive:
        names = {name.split("/", 1)[-1] for name in source_archive.getnames()}
    needed = {"LICENSE", "README.md", "pyproject.toml", "PKG-INFO"}
    if not needed <= names:
        session.error(f"{sdist}: missing {sorted(needed - names)}")


def _check_platform(session: nox.Session, package: str) -> None:
    """Refuse a compiled wheel that asks for more than its tag says."""
    wheel, _ = _artefacts(package)
    said = str(session.run("auditwheel", "show", str(DIST / wheel), silent=True))
    session.log(" ".join(said.split()))
    needed = re.search(r"platform\s+tag:\s+\"manylinux_2_(\d+)_", said)
    if needed is None or int(needed[1]) > 28:
        session.error(f"{wheel} is not what its name says:\n{said}")


def _require_listed(session: nox.Session, python: str, name: str, *, major: str, listed: list[str]) -> None:
    """Refuse to go on where the index has a release of that major version that is not among those listed."""
    offered = str(session.run(python, "-m", "pip", "index", "versions", name, external=True, silent=True))
    found = re.search(r"Available versions: (.*)", offered)
    versions = found[1].split(", ") if found else []
    missing = [one for one in versions if one.split(".")[0] == major and one not in listed]
    if missing or not versions:
        session.error(f"{name} {', '.join(missing) or '(none found)'}: add it to integration-tests/engines.toml")


def _tracked(folder: Path) -> list[str]:
    """The files under ``folder`` that git tracks or would track, relative to it."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return [name for name in listed.stdout.splitlines() if (folder / name).exists()]


def _engine_interpreter(session: nox.Session, engine: str) -> str:
    """An interpreter that the engine has wheels for, the best-tested version first."""
    current = f"{sys.version_info[0]}.{sys.version_info[1]}"
    versions: list[str] = ENGINES[engine]["python"]
    for version in versions:
        if version == current:
            return sys.executable
        found = shutil.which(f"python{version}")
        # A pyenv shim may stand there for a version that is not active: ask it.
        if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
            return found
    session.error(
        f"{engine} has wheels for Python {', '.join(versions)} only, and none of these is on PATH; "
        f"install Python {versions[0]} (this is {current})"
    )


def _rdma_interpreter() -> str:
    """The Python that the distribution's pyverbs is for: this one, where it is of the same version, or else its own."""
    system = "/usr/bin/python3"
    if not Path(system).exists():
        return sys.executable  # the runner says what does not fit
    asked = [system, "-c", "import sys; print(*sys.version_info[:2])"]
    version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    return sys.executable if version == [str(number) for number in sys.version_info[:2]] else system


def _requirements(path: Path) -> str:
    """The text of a requirements file, and of those that it includes."""
    lines = path.read_text().splitlines()
    included = (path.parent / line.removeprefix("-r ") for line in lines if line.startswith("-r "))
    return "\n".join([*lines, *map(_requirements, included)])


def _engine_environment(session: nox.Session, engine: str) -> str:
    """The python of the environment ``.nox/engine-ENGINE``: the engine, our wheels, the tests' tools.

    The engine is large (sglang: 2.6 GB, about three minutes; vllm: 3.6 GB), so it is installed only when its
    requirements have changed since the last time; our wheels are installed every time.
    """
    wheels = _build(session)
    python = _environment(session, f"engine-{engine}", _engine_interpreter(session, engine))
    folder = ROOT / "integration-tests" / engine
    requirements = [folder / "requirements.txt", folder / "requirements-nodeps.txt"]
    others = [*_group("test"), *_dependencies()]
    wanted = hashlib.sha256("\n".join([*others, *map(_requirements, requirements)]).encode())
    stamp = Path(python).parent.parent / "installed-requirements.sha256"
    pip = [python, "-m", "pip", "install", "--progress-bar", "on"]
    if not stamp.exists() or stamp.read_text() != wanted.hexdigest():
        session.log(f"installing {engine} for the CPU: this takes some minutes, once")
        session.run(*pip, "-r", str(requirements[0]), *others, external=True)
        session.run(*pip, "--no-deps", "-r", str(requirements[1]), external=True)
        stamp.write_text(wanted.hexdigest())
    session.run(*pip, "--force-reinstall", "--no-deps", *wheels, external=True)
    session.run(python, str(folder / "prepare.py"), external=True)
    return python
