"""One step: a student of one call, taught by a model of many.

    objective      the losses of a student, each of which can be used alone
    scores         score distillation (TAD-SR), for any noise predictor
    discriminator  the time-aware discriminator on a frozen teacher's features
    similarity     DISTS, the same formula on other features, and edges
    wide           a teacher that shares the student's tensors (GPD)
    trajectories   images that the teacher samples, kept on disk
    task           how a student is trained and packed

Sources, with what differs here in each module: TAD-SR (arXiv 2408.07476), DFOSD (arXiv 2410.04224),
GPD (ICLR 2025, arXiv 2410.04140), DISTS (arXiv 2004.07728).
"""
