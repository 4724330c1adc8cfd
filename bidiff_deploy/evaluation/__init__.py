"""How well a model restores data sets: folders -> images -> PSNR, SSIM and other measures.

    benchmark   a data set on disk
    models      a bundle, a checkpoint or a folder of images, which upscales each image
    measures    measures beyond PSNR and SSIM, by name
    niqe        NIQE, own code
    perceptual  LPIPS, by its authors' package
    run         upscales and scores every image
    results     the scores as records
    table       the scores as text.
"""
