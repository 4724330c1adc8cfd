"""Bounds of int8 layers: searched, from what a model's own loop computes.

    search     DOBI, the search for bounds of one tensor, as published and in the form of engines
    calibrate  a checkpoint and a folder of images -> bounds of its int8 layers
    bounded    a checkpoint with bounds, searched and trained.
"""
