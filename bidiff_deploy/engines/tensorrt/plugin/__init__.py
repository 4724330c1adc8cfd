"""The TensorRT plugin library.

    sources  the headers and libraries that the plugin is built from
    compile  ``build_plugin``: build it with cmake and load it once
    library  the built library: which one belongs to a version of TensorRT, and its functions.
"""
