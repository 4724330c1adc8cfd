"""Serves a bundle: a model repository for NVIDIA Triton Inference Server.

    triton       writes the repository of a bundle
    text_format  the configuration's file format
    repository   files that are copied there; model.py is the only one that knows Triton
    requests     the tensors of a request -> ``Work``, checked
    parameters   the parameters of its configuration -> an open Upscaler
    upscaler     runs several requests through one engine, knows no server.
"""
