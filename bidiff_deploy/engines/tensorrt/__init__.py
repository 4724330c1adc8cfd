"""Backend ``tensorrt``: bundle -> graph -> plan -> engine; and the plugin library.

``graph`` derives what the parser is given, ``builder`` makes plans of it, ``engine`` runs them.
TensorRT is imported where a plan is built or run, and nowhere else (``api``).
"""
