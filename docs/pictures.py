"""
Take the pictures of the READMEs, in `docs/pictures`: what the shipped model answers in the demo, and the errors that
it makes on the sample corpus. Needs the extra `quickstart`, gradio, playwright and chromium.

    python docs/pictures.py
"""

import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from iepile_builder import Extractor
from iepile_builder.commands.demo import build_demo, look


FOLDER = Path(__file__).parent / "pictures"
WORK = Path("outputs/pictures")
WIDTH = 1000
TEXT = (
    "Marie Curie was born in Warsaw and moved to Paris in 1891 to study at the Sorbonne, where she met Pierre Curie. "
    "In 1911 she received the Nobel Prize in Chemistry."
)
LABELS = "person\ncity\nuniversity\naward\ndate"
REPORT = [
    f"build --corpus_dir sample_corpus --tasks NER --languages en --output_dir {WORK}/data --overwrite",
    f"predict --dataset_name {WORK}/data --split test --output_file {WORK}/preds.jsonl",  # skips what is answered
    f"score --predictions_file {WORK}/preds.jsonl --report {WORK}/report",
]


def save(page: Page, name: str, first: str, last: str) -> None:
    """Save a page from one element to another, without its margins, in 256 colours."""
    top, bottom = (page.locator(each).bounding_box() for each in (first, last))
    left = min(top["x"], bottom["x"]) - 12
    height = bottom["y"] + bottom["height"] - top["y"] + 24
    clip = {"x": left, "y": top["y"] - 12, "width": WIDTH - 2 * left, "height": height}
    picture = Image.open(BytesIO(page.screenshot(clip=clip, full_page=True))).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png", optimize=True)


for words in REPORT:
    subprocess.run([sys.executable, "-m", "iepile_builder", *words.split()], check=True)
FOLDER.mkdir(exist_ok=True)
app = build_demo(Extractor.from_pretrained(), max_seconds=1000)
_, address, _ = app.launch(prevent_thread_lock=True, quiet=True, **look())
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme=scheme, device_scale_factor=2)
        page.set_default_timeout(600_000)
        page.goto(address)
        page.fill("#text textarea", TEXT)
        page.fill("#schema textarea", LABELS)
        page.click("#extract")
        page.wait_for_selector("#found mark")
        page.mouse.move(0, 0)
        save(page, f"demo-{scheme}", "h1", "text=Correct, and collect training records")
        page.goto((WORK / "report" / "index.html").resolve().as_uri())
        save(page, f"report-{scheme}", "summary h2", ".record >> nth=2")
        page.close()
    browser.close()
app.close()
