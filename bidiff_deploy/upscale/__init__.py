"""Many image files through one engine.

    options   ``UpscaleOptions``: how each image is upscaled
    shard     one of several disjoint parts of the images
    jobs      files, folders and patterns -> one job an image
    batch     runs the jobs, reports each result
    pipeline  decodes, computes and encodes at the same time
    journal   how each output was made, so that an interrupted run can continue.
"""
