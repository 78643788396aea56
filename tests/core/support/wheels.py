"""Really built wheels, and an environment with nothing in it, for tests of discovery."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import packaging

ROOT = Path(__file__).resolve().parents[3]

PLUGIN = """
from quantload.plugin import API, QuantizerPlugin
PLUGIN = QuantizerPlugin(
    api=API, config="{package}.method:Config", quantizer="{package}.method:Quantizer"
)
"""

METHOD = """
import dataclasses
from quantload.plugin import QuantizationConfig, Verdict
from quantload.quantizers.base import HfQuantizer

@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(QuantizationConfig):
    quant_method = "toy"
    bits: int = 4

class Quantizer(HfQuantizer):
    is_trainable = False
    def is_serializable(self): return Verdict.yes()
    def preprocess_model(self, model, **kwargs): return model
"""


def run(*command: object, **kwargs: object) -> str:
    """Run a command and give its output; an error shows what it wrote."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=240, check=False, **kwargs
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(project: Path, out: Path) -> Path:
    """The wheel of a project whose backend is hatchling."""
    before = set(out.glob("*.whl"))
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out, cwd=project)
    (wheel,) = set(out.glob("*.whl")) - before
    return wheel


def plugin_project(folder: Path, name: str, requires: str) -> Path:
    """The source of a small plugin for the method "toy"."""
    package = name.replace("-", "_")
    project = folder / name
    (project / package).mkdir(parents=True)
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        f'[project]\nname = "{name}"\nversion = "1.0"\ndependencies = ["{requires}"]\n'
        f'[project.entry-points."quantload.quantizers"]\ntoy = "{package}.plugin:PLUGIN"\n'
        f'[project.entry-points."quantload.exports"]\nToyConfig = "{package}.method:Config"\n'
    )
    (project / package / "__init__.py").touch()
    (project / package / "plugin.py").write_text(PLUGIN.format(package=package))
    (project / package / "method.py").write_text(METHOD)
    return project


class Environment:
    """A virtual environment without pip; the pip of the tests installs into it."""

    def __init__(self, folder: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        scheme = "nt_venv" if os.name == "nt" else "posix_prefix"
        self.python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        base = {"base": str(folder), "platbase": str(folder)}
        self.site = Path(sysconfig.get_path("purelib", scheme, vars=base))
        # what reading requirements takes; there is no network to fetch it from
        source = Path(packaging.__file__).parent
        (self.site / "packaging").symlink_to(source, target_is_directory=True)

    def pip(self, *arguments: object) -> list[str]:
        """The command that runs the tests' pip on this environment."""
        head = [sys.executable, "-m", "pip", "--python", str(self.python)]
        return [*head, "--disable-pip-version-check", "-q", *map(str, arguments)]

    def borrow(self) -> None:
        """Let it import what the tests' own environment has, behind what is installed in it."""
        lenders = [path for path in sys.path if Path(path).name == "site-packages"]
        (self.site / "zz_borrowed.pth").write_text("\n".join(lenders))

    def install(self, *wheels: Path, target: Path | None = None) -> None:
        """Install wheels and nothing that they ask for."""
        where = ["--target", target] if target else []
        run(*self.pip("install", "--no-deps", "--no-index", *where, *wheels))

    def execute(self, code: str, *arguments: object, **env: str) -> str:
        """Run code there, away from the sources."""
        clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return run(self.python, "-c", code, *arguments, cwd=self.site, env={**clean, **env})
