"""``bidiff-deploy doctor``: what this machine can run."""

from __future__ import annotations

import click

from ._shared import json_option


@click.command()
@json_option("everything")
def command(as_json: bool) -> None:
    """Show what this machine can run: processor, kernels, backends and versions; and what is
    missing, with the command that installs it.

    Every backend is tried with a tiny bundle that is created for it. What is broken is reported
    with the reason; a GPU, or a package for training and proof, that is not there is no fault. The
    exit code is 1 only if no backend can run a bundle.
    """
    import json

    from ..doctor.examine import can_run, examine, first_remedy
    from ..doctor.text import to_text
    from ..errors import EngineError

    report = examine()
    click.echo(json.dumps(report, indent=1) if as_json else to_text(report))
    if not can_run(report):
        fix = first_remedy(report)
        remedy = f"start with {fix}" if fix else "the report gives the reasons"
        raise EngineError(f"no backend can run a bundle on this machine; {remedy}")
