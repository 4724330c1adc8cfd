"""Checkpoint -> bundle. ``write.export_bundle`` is the entry; the order of the data's way is
``fold`` (time becomes constants), ``..packing`` (signs become bits), ``graph`` (with ``ops``),
``weights_file`` and ``write``."""
