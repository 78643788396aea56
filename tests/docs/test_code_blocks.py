"""Every code block a reader can copy is run here, or the page says why it is not.

A fenced block is run by its language: the `python` blocks of a page one after the
other in one process, each `bash` block in a shell, `toml` and `json` are parsed.
`text` is output or a sketch and is left alone. A block that cannot be run has the
comment `<!-- not run: REASON -->` on the line above it. Paths in the pages are those
of a clone: blocks run in an empty folder in which `tests/` is that of the workspace.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[2]
PATTERNS = (
    "*.md",
    "core/*.md",
    "plugins/*/*.md",
    "examples/**/*.md",
    "benchmarks/*.md",
    "docs/**/*.md",
)
PAGES = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))
KNOWN = {"python", "bash", "toml", "json", "text"}

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
EXCUSE = re.compile(r"<!-- not run: (\S.*?) -->\s*\Z")

RUNNER = """
import json, sys
namespace = {"__name__": "__main__"}
for line, source in json.load(sys.stdin):
    padded = "\\n" * line + source  # so that tracebacks give the line of the page
    exec(compile(padded, sys.argv[1], "exec"), namespace)
"""


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the line of its fence, its text, why it is not run."""

    language: str
    line: int
    text: str
    excuse: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        indent, language, body = match.groups()
        body = "".join(line.removeprefix(indent) for line in body.splitlines(keepends=True))
        excuse = EXCUSE.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(language, line, body, excuse.group(1) if excuse else ""))
    return found


def to_run(page: Path, language: str) -> list[Block]:
    return [b for b in blocks(page) if b.language == language and not b.excuse]


def having(language: str) -> list[Path]:
    return [page for page in PAGES if to_run(page, language)]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    return tmp_path


def run(command: list[str], folder: Path, **options: object) -> None:
    here = str(Path(sys.executable).parent)
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PATH": here + os.pathsep + os.environ["PATH"]}
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_what_it_is(page: Path) -> None:
    fences = page.read_text(encoding="utf-8").count("```")
    assert fences == 2 * len(blocks(page)), "a fence that is not closed"
    unknown = [(b.line, b.language) for b in blocks(page) if b.language not in KNOWN]
    assert not unknown, f"lines and languages; known are {sorted(KNOWN)}"


@pytest.mark.parametrize("page", having("python"), ids=name_of)
def test_python_blocks_run(page: Path, clone: Path) -> None:
    sources = [(block.line, block.text) for block in to_run(page, "python")]
    run([sys.executable, "-c", RUNNER, name_of(page)], clone, input=json.dumps(sources))


@pytest.mark.parametrize("page", having("bash"), ids=name_of)
def test_shell_blocks_run(page: Path, clone: Path) -> None:
    for block in to_run(page, "bash"):
        run(["bash", "-euo", "pipefail", "-c", block.text], clone)


@pytest.mark.parametrize("page", sorted({*having("toml"), *having("json")}), ids=name_of)
def test_data_blocks_parse(page: Path) -> None:
    for block in to_run(page, "toml"):
        tomllib.loads(block.text)
    for block in to_run(page, "json"):
        json.loads(block.text)


def test_the_readme_has_blocks_that_run() -> None:
    assert len(to_run(ROOT / "README.md", "python")) >= 3
