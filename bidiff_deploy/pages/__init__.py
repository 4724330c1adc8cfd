"""HTML pages that open without network, server or other files.

    document  the Jinja environment of all pages: every value is cut and escaped, and a page's own
              policy lets nothing run or load but what it carries
    pictures  pictures as data URIs, and the part of one with the most edges
    preview   an image as 8-bit sRGB, as a browser shows it
    photo     a photo before and after, within a number of bytes
    compare   the page of before and after that ``upscale --compare`` writes

``theme.css`` and ``theme.js`` are what pages look like, light and dark; ``compare.css`` and
``compare.js`` are the slider.
"""
