"""How well a model restores data sets: folders -> pictures -> PSNR, SSIM and LPIPS.

``benchmark`` the folders, ``models`` what makes the pictures, ``scores`` what they are worth,
``perceptual`` LPIPS, ``run`` all of it, ``table`` the result for a reader. Training validates with
the same scores.
"""
