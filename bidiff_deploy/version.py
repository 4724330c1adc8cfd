"""The version of bidiff_deploy; the build reads it here."""

__version__ = "0.1.0"
