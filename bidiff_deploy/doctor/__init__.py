"""What this machine can run, what is missing, and the command that installs it.

    probes   tries each part in its own process
    examine  all probes as one report, with warnings and what is missing
    text     the report as text.
"""
