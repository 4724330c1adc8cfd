"""One HTML page of evidence about a bundle, which opens without network, server or other files.

``request`` states what to show, ``collect`` measures it (``loop``: the pictures), and ``page``
fills the Jinja templates: ``templates/page.html``, one file for each of its sections, macros for
charts and tables. ``filters`` words values, ``page.css`` and ``page.js`` are looks and sliders.
Names and manifests come from strangers, so every value is escaped and cut, and the page's own
policy lets nothing run or load but what it carries.
"""
