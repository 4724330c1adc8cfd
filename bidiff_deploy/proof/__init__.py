"""Evidence about a bundle: how equal it is to the torch network, and how fast it is.

``check`` compares bundle and checkpoint: ``layers`` (integers exact), ``segments`` between them,
fused ``operators``, ``steps`` (signal to noise, sign flips) and ``loops`` (images). What is
compared comes from ``runners``, which have the shape that Polygraphy's Comparator takes; how, from
``compare``. ``bench`` measures speed and memory against the baselines of ``candidates``, and
``roofline`` says what this machine could do.
"""
