"""Compares a bundle, in one backend, with its checkpoint, in torch.

    noise_predictor  the check of a diffusion model: every part below
    latent           the check of a latent network: encoder, decoder, steps
    binary_inputs    what its binary layers read
    one_run          the check of a network that runs once: layers and whole images
    common           checks and notes that both have
    runners          torch and engines behind one interface, Polygraphy's
    bundle_layers    a bundle's binary layers and fused operators, and the values in an engine's run
    layers           each binary layer alone: integers must be exact
    forced           the reference run with the engine's values: floats within rounding, and signs
    operators        each fused operator against the operators that it fuses
    statistics       how equal two runs of a step are, where their parts are not known
    loops            whole diffusion loops, compared as images
    result           everything that was found, as JSON
    saved            reference runs in a file, for devices without torch

``noise_predictor.check_bundle`` and ``one_run.check_one_run`` are the entries.
"""
