"""The commands and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quantload._version import __version__
from quantload.cli.answer import answer
from quantload.errors import QuantloadError

app = typer.Typer(
    name="quantload",
    help="Load, run, make and save quantized models; every method is a plugin.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable, and nothing else.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"quantload {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Load, run, make and save quantized models; every method is a plugin."""


@app.command("list")
def list_plugins(as_json: Json = False) -> None:
    """Methods, kernels and formats: who provides them, and whether they can serve.

    Exit status 1 where a plugin is broken, built for another core, or in conflict.
    """
    from quantload.cli.listing import gather, render

    answer(gather, render, as_json=as_json)


@app.command()
def info(
    source: Annotated[
        str, typer.Argument(metavar="PATH_OR_ID", help="A folder, a file, or a name on the hub.")
    ],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    subfolder: Annotated[str | None, typer.Option(help="Folder inside the checkpoint.")] = None,
    variant: Annotated[str | None, typer.Option(help='"fp16" for model.fp16.safetensors.')] = None,
    as_json: Json = False,
) -> None:
    """What a checkpoint is and what loading it takes; reads headers only.

    Exit status 1 where it is damaged, or cannot be loaded as things are.
    """
    from quantload.cli.info import gather, render

    answer(lambda: gather(source, revision, subfolder, variant), render, as_json=as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """This machine, every plugin's requirements, and the command that mends each.

    Exit status 1 where anything needs mending.
    """
    from quantload.cli.doctor import gather, render

    answer(gather, render, as_json=as_json)


@app.command("new-plugin")
def new_plugin(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help='The method, its `quant_method`: "my-int4".'),
    ],
    into: Annotated[
        Path, typer.Option(help="The folder in which the package's own folder is made.")
    ] = Path(),
    as_json: Json = False,
) -> None:
    """Write a package for a new method: quantizer, tests, CI; its tests pass as it is.

    Exit status 1 where the name will not do or the folder exists; nothing is written then.
    """
    from quantload.cli.scaffold.command import gather, render

    answer(lambda: gather(name, into), render, as_json=as_json)


@app.command(
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
)
def run(
    program: Annotated[str, typer.Argument(metavar="SCRIPT", help="The script, or a module.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGUMENT]...", help="Its own command line.")
    ] = None,
    module: Annotated[
        bool, typer.Option("--module", "-m", help="SCRIPT is the name of a module.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="A method to serve; others stay. Repeatable.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="A method that stays as it is. Repeatable.")
    ] = None,
) -> None:
    """Run a script with every installed method in transformers' own from_pretrained.

    Options for quantload come before SCRIPT. Exit status and errors are the script's.
    """
    from quantload.cli.program import Program

    try:
        found = Program(program, arguments or [], module=module, only=only, keep=keep)
    except QuantloadError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    raise found  # `main` runs it: this library would take some of its exceptions for its own
