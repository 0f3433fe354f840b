"""The public surface is a promise: a name that appears, goes or changes must be a decision, made in surface.txt."""

from __future__ import annotations

import os
from pathlib import Path

import click
import typer.main

from stallwatch.agent import _environment as environment
from stallwatch.detector import cli
from stallwatch.detector.core.vocabulary import VOCABULARY
from stallwatch.detector.http.catalogue import METRICS
from stallwatch.v1 import telemetry_pb2

SURFACE = Path(__file__).with_name("surface.txt")


def commands() -> list[str]:
    """Every option and argument of every command."""
    lines = []
    for name in cli.COMMANDS:
        group = typer.main.get_command(cli.build([name]))
        command = group.get_command(click.Context(group), name)
        subcommands = getattr(command, "commands", {})
        for path, each in {
            name: command,
            **{f"{name} {sub}": each for sub, each in subcommands.items()},
        }.items():
            for parameter in each.params:
                lines += [
                    f"cli {path} {spelling}" for spelling in (*parameter.opts, *parameter.secondary_opts)
                ]
    return lines


def wire() -> list[str]:
    """Every field of every message, and every value of every enum."""
    file = telemetry_pb2.DESCRIPTOR
    fields = [
        f"proto {message.name}.{field.name} = {field.number} {field.type}"
        for message in file.message_types_by_name.values()
        for field in message.fields
    ]
    values = [
        f"proto {value.name} = {value.number}"
        for enum in file.enum_types_by_name.values()
        for value in enum.values
    ]
    return fields + values


def surface() -> list[str]:
    """All public names, sorted."""
    names = [value for name, value in vars(environment).items() if name.isupper()]
    metrics = [f"metric {metric.name} {metric.type} {','.join(metric.labels)}" for metric in METRICS.values()]
    kinds = [f"kind {kind.name} {kind.category} {kind.severity.value}" for kind in VOCABULARY.values()]
    return sorted([*commands(), *wire(), *(f"env {name}" for name in names), *metrics, *kinds])


def test_the_public_surface_is_the_one_that_was_decided():
    """Commands, options, environment variables, metrics, kinds and wire fields are those of surface.txt."""
    if os.environ.get("WRITE_SURFACE"):
        SURFACE.write_text("\n".join(surface()) + "\n")
    decided = SURFACE.read_text().splitlines()
    assert sorted(set(surface()) - set(decided)) == [], "new: if it is meant, WRITE_SURFACE=1 writes it down"
    assert sorted(set(decided) - set(surface())) == [], "gone: other people's scripts rely on these"
