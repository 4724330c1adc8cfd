"""Hostile files, one small maker each, and what a program does with them.

    python -m attacks [NAME...]      in the folder tests, with the package installed

    bundles      bundles, whose hashes are made to fit
    checkpoints  checkpoints and option files

Each maker changes an honest file or writes one; ``__main__`` opens the result as a user would, in a
process of its own with a limit of memory and time, and reports what happened.
"""
