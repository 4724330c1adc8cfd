"""The models that are installed with the package: their table, and how to open one.

    shipped   the table: name, scale, purpose, figures
    open      a model by name, or any bundle or checkpoint, as an engine

The files here are packed checkpoints (``checkpoint.packed``); they are opened in memory.
"""
