"""Diffusion sampling in numpy: which steps a run visits, and what it computes between predictions.

    schedule     the noise schedule and its time steps
    noise        seeded N(0, 1) noise, a function of its coordinates
    sampler      the DDIM update and the loop around it
    resshift     ResShift's schedule and samplers, between two latents
    color_match  replaces the result's low frequencies by the condition's

Training and every engine use these.
"""
