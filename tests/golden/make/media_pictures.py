"""Small pictures in every flavour and what Pillow makes of them (pictures.json), and resized patterns (resize.json); the
expected RGB bytes are in hex.

Usage: python media_pictures.py OUT_FOLDER   (needs Pillow 13 and NumPy)
"""
import json
import sys

import numpy as np
from PIL import Image, ImageOps

H, W = 12, 20


def base():
    """A picture without symmetries: smooth colour, one bright corner."""
    y, x = np.mgrid[0:H, 0:W]
    rgb = np.stack([x * 255 // (W - 1), y * 255 // (H - 1), (x * 7 + y * 13) % 200], axis=-1)
    rgb[:4, :6] = [250, 240, 20]
    return rgb.astype(np.uint8)


def on_white(rgba):
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
    return white


def main(out):
    rgb = base()
    y, x = np.mgrid[0:H, 0:W]
    alpha = ((x * 11 + y * 17) % 256).astype(np.uint8)
    image = Image.fromarray(rgb)
    rgba = Image.fromarray(np.dstack([rgb, alpha]))
    gray = image.convert("L")
    rows = []

    def add(name, want, tolerance=0):
        want = np.asarray(want.convert("RGB"))
        rows.append({"file": name, "height": want.shape[0], "width": want.shape[1], "tolerance": tolerance,
                     "rgb": want.tobytes().hex()})

    def save(name, picture, want=None, tolerance=0, **options):
        picture.save(f"{out}/{name}", **options)
        add(name, want or Image.open(f"{out}/{name}"), tolerance)

    save("rgb.png", image)
    save("rgba.png", rgba, on_white(rgba))
    save("gray.png", gray)
    la = Image.merge("LA", [gray, Image.fromarray(alpha)])
    save("gray_alpha.png", la, on_white(la.convert("RGBA")))
    save("palette.png", image.quantize(32))
    save("bilevel.png", image.convert("1"))
    # 16-bit samples: expected is each rounded to 8 bits.
    wide = (np.asarray(gray).astype(np.uint16) * 257 + 100).clip(0, 65535).astype(np.uint16)
    want16 = Image.fromarray(np.round(wide / 257).astype(np.uint8))
    save("gray16.png", Image.fromarray(wide), want16)
    # Lossy files: decoders differ by a level or two.
    save("rgb.jpg", image, tolerance=4, quality=92, subsampling=0)
    save("gray.jpg", gray, tolerance=2, quality=92)
    save("progressive.jpg", image, tolerance=4, quality=92, progressive=True, subsampling=0)
    save("cmyk.jpg", image.convert("CMYK"), tolerance=6, quality=95)
    save("rgba.webp", rgba, on_white(rgba), lossless=True, exact=True)
    save("lossy.webp", image, tolerance=6, quality=90)
    # Cameras store the picture lying on its side and say so.
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        name = f"exif_{orientation}.png"
        image.save(f"{out}/{name}", exif=exif)
        turn = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270",
                7: "TRANSVERSE", 8: "ROTATE_90"}.get(orientation)
        add(name, image.transpose(Image.Transpose[turn]) if turn else image)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(f"{out}/exif_6.jpg", quality=95, exif=exif, subsampling=0)
    add("exif_6.jpg", ImageOps.exif_transpose(Image.open(f"{out}/exif_6.jpg")), 4)
    # Two frames; a still reader takes the first.
    frames = [image, Image.fromarray(255 - rgb)]
    frames[0].save(f"{out}/two.gif", save_all=True, append_images=frames[1:], duration=100)
    add("two.gif", Image.open(f"{out}/two.gif"))
    frames[0].save(f"{out}/two.webp", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    add("two.webp", image)
    frames[0].save(f"{out}/two.apng.png", save_all=True, append_images=frames[1:], duration=100)
    add("two.apng.png", image)
    json.dump(rows, open(f"{out}/pictures.json", "w"), indent=0)
    resized(f"{out}/resize.json")


def resized(path):
    """Bicubic resizing of a noisy pattern, in the shapes for which Pillow 13 takes either axis first."""
    rows = []
    for h, w, nh, nw in [(40, 12, 10, 14), (40, 12, 10, 12), (40, 12, 20, 4), (40, 20, 20, 10), (41, 20, 20, 10),
                         (12, 40, 14, 10), (24, 20, 12, 15), (24, 20, 12, 14), (9, 7, 30, 20), (20, 20, 19, 21),
                         (20, 20, 17, 19), (20, 20, 18, 19)]:
        y, x, c = np.mgrid[0:h, 0:w, 0:3]
        rgb = ((y * 37 + x * 101 + c * 59 + x * y * 7) % 256).astype(np.uint8)
        got = np.asarray(Image.fromarray(rgb).resize((nw, nh), Image.Resampling.BICUBIC))
        rows.append({"from": [h, w], "to": [nh, nw], "rgb": got.tobytes().hex()})
    json.dump(rows, open(path, "w"), indent=0)


if __name__ == "__main__":
    main(sys.argv[1])
