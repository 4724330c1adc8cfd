"""Bundles behind a server: a model repository for NVIDIA Triton Inference Server.

    bundle -> triton (writes the repository)      request -> requests -> upscaler -> answer

``upscaler`` knows engines and no server; ``repository/model.py`` is the one file that knows Triton.
"""
