"""Image files to arrays and back, and everything computed on pixels without a network.

    image              ``Image``: pixels, alpha, colour profile and metadata of one decoded file
    read               files -> Image
    decode             8-bit Pillow images -> Image
    sixteen_bit        16-bit PNG and TIFF -> Image
    tiff_file          TIFF files that Pillow does not open -> Image
    cut_jpeg           JPEG files that lack their end
    kinds              what a file is that is not read
    convert            numpy arrays and Pillow images <-> Image
    write              Image -> files
    sixteen_bit_write  Image -> 16-bit PNG, and TIFF
    metadata           EXIF, XMP, texts, resolution and colours of a file: ``Metadata``
    metadata_blocks    blocks of metadata, bounded and checked
    metadata_read      files -> Metadata
    metadata_write     Metadata as each format stores it
    exif, xmp, texts   the formats of an EXIF block, an XMP packet and a PNG's texts
    png_chunks, jpeg_segments, frames
                       the parts of a PNG and a JPEG file, and the number of frames of others
    hidden_colours     the colours of transparent pixels replaced by visible ones
    resample           the network's condition (bicubic, a = -0.75), padding by reflection
    matlab_bicubic     Matlab's imresize, which makes low-resolution images
    reduce             an image made smaller by Lanczos' filter
    borders            indices of mirrored borders
    tiles              an image cut into overlapping tiles, and their results blended
    datasets           pairs of originals and low-resolution images in folders
    metrics, scores    PSNR-Y and SSIM-Y, of one image and their means over several.
"""
