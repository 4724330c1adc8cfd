"""From the step graphs of a bundle to the graph that a runtime opens.

``passes`` has the list: which passes make the graph of each target, in order, with what each
requires and ensures. ``lowering`` runs it: ``parameterized_graph``, ``lower_for_cuda``,
``lower_for_tensorrt``. The other modules are named after the pass that they contain. Needs
``onnx``, no runtime.
"""
