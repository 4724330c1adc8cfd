"""Training with torch: recipe -> photos -> crops -> run -> packed checkpoint.

Its modules, in the data's order:

    recipe             reads a YAML file or the authors' option file into a ``Recipe``
    recipe_parts       the groups of a recipe: data, loading, steps, distill, optimizer, run
    recipe_one_step    its group one_step
    published_options  the authors' option files as recipes
    flat_options       an option file as dotted keys
    values             YAML values to dataclasses and back
    photos             finds and checks the files that a recipe names
    decoded, tiles     decoded photos in memory or in a folder
    crops              random crops, each a function of its number
    batches            batches of crops, cut ahead by other processes
    networks           the networks in torch
    weights            torch weights from and to checkpoints
    draws              the random numbers of one iteration
    losses             losses of a noise predictor, with or without a teacher
    diffusion          how a noise predictor is trained
    one_step           how a student of one call is trained
    one_run            how a network without a loop is trained
    task               chooses one of the three for a recipe, and packs a run
    validate           validation photos and scores
    optimizer          learning rate, Adam and low precision
    distributed        the processes of a run and their devices
    checkpoints        checkpoints of a run: written, read, kept
    trainer            the state of a run, and one iteration
    log                log.csv and TensorBoard events
    loop               a run from start or resume to its end
    measure            time and memory of an iteration, without photos

Only the command line and ``proof`` import this package.
"""
