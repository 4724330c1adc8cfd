"""One HTML page of evidence about a bundle, which opens without network, server or other files.

``collect`` measures (``loop``: the pictures), ``page`` writes what was found as HTML:
``markup`` escapes, ``charts`` draws, ``sections_*`` are the page's parts, ``page.css`` and
``page.js`` its looks and its sliders. Names and manifests come from strangers, so all text passes
``markup.element``, and the page's own policy lets nothing run or load but what it carries.
"""
