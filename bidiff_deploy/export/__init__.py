"""Checkpoint -> bundle: ``write.export_bundle`` writes the graphs, the weights and the manifest.

The network's record builds each graph; ``bundle.weights_file`` stores the tensors.
"""
