"""What a bundle contains, read from its graphs.

    inspection  layers, costs, bytes and disagreements with the manifest
    text        an inspection as a table

``inspection.inspect_bundle`` is the entry.
"""
