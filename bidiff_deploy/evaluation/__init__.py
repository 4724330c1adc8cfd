"""How well a model restores data sets: folders -> images -> PSNR, SSIM and LPIPS.

    benchmark   a data set on disk
    models      a bundle, a checkpoint or a folder of images, which upscales each image
    perceptual  LPIPS
    run         upscales and scores every image
    results     the scores as records
    table       the scores as text.
"""
