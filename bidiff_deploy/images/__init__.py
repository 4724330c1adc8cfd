"""Image files to arrays and back, and everything computed on pixels without a network.

    image              ``Image``: pixels, alpha, colour profile and metadata of one decoded file
    read               files -> Image
    decode             8-bit Pillow images -> Image
    sixteen_bit        16-bit PNG and TIFF -> Image
    convert            numpy arrays and Pillow images <-> Image
    write              Image -> files
    sixteen_bit_write  Image -> 16-bit PNG, and TIFF
    metadata           EXIF, XMP, resolution and colour profile of a file
    exif, png_chunks   the formats of an EXIF block and of a PNG's chunks
    resample           the network's condition (bicubic, a = -0.75), padding by reflection
    matlab_bicubic     Matlab's imresize, which makes low-resolution images
    borders            indices of mirrored borders
    tiles              an image cut into overlapping tiles, and their results blended
    datasets           pairs of originals and low-resolution images in folders
    metrics, scores    PSNR-Y and SSIM-Y, of one image and their means over several.
"""
