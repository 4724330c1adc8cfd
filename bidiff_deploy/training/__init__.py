"""Training of BI-DiffSR with torch: recipe -> photos -> loop -> checkpoint.

What a run depends on: ``recipe`` and its parts ``recipe_data``, ``recipe_run``, ``recipe_distill``.
Photos: ``data`` crops of them, ``batches``. Networks: ``network`` and ``bbcu``, of ``binarize``,
``binary_layers`` and ``fused``. ``task`` is what the loop needs of a kind of model, ``diffusion``
and ``feedforward`` the two kinds. ``trainer`` has a run's state and one iteration, ``loop`` the run
itself, beside them ``distributed``, ``precision``, ``optimizer``, ``draws`` random numbers,
``state`` and ``checkpoints``, ``log``, ``validate``, ``measure``.
Nothing outside this package imports it but the command line.
"""
