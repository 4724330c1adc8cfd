"""What the networks of the ResShift family share: they predict the clean latent of an autoencoder.

    record          ``LatentNetwork``, the record that each network completes
    options         what every network's options have, and its limits
    recognition     options from the keys and shapes of a checkpoint
    vq              the autoencoder: options, layers, recognition
    vq_graph        its graphs
    writer          writes single layers
    windows         windows of attention, and the family's own shift mask
    swin            writes Swin stages
    time_embedding  what a fixed timestep becomes, for export to fold
    costs, memory   counts of the autoencoder, and peak memory.
"""
