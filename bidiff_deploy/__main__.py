"""``python -m bidiff_deploy`` is ``bidiff-deploy``."""

from .cli import main

main()
