"""``bidiff-deploy doctor``: what this machine can run."""

from __future__ import annotations

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON on stdout.")
def command(as_json: bool) -> None:
    """Show what this machine can do: processor, kernels, backends and versions, and what is missing
    together with the command that adds it.

    Every backend is tried on a tiny bundle that is made on the spot. What is broken is reported in
    a sentence. The exit code is 1 only if no backend can run a bundle.
    """
    import json

    from ..doctor.examine import can_run, examine, first_remedy
    from ..doctor.text import to_text
    from ..errors import EngineError

    report = examine()
    click.echo(json.dumps(report, indent=1) if as_json else to_text(report))
    if not can_run(report):
        command = first_remedy(report)
        remedy = f"start with {command}" if command else "the report says why"
        raise EngineError(f"no backend can run a bundle on this machine; {remedy}")
