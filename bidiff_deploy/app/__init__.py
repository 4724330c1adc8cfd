"""A local page that upscales photos, made with Gradio (``bidiff-deploy app``).

    pages     the files of open pages: uploads, results, and their removal
    photos    photos of one page to larger ones, one at a time
    previews  a photo before and after, small enough for a browser
    layout    what the page shows, and what its buttons do
    guard     which requests are answered, and which hosts this process may ask
    server    from the command's options to a running server

Only ``layout`` imports Gradio; ``server`` imports it after it has set Gradio's options.
"""
