"""Training of BI-DiffSR with torch: recipe -> photos -> loop -> checkpoint.

``binarize`` the signs and their gradients, ``network`` the noise predictor, ``recipe`` what a run
depends on, ``data`` crops of photos, ``validate`` PSNR on photos kept out, ``state`` checkpoints,
``loop`` the run itself. Nothing outside this package imports it but the command line.
"""
