"""Makes the pictures of README.md from true pages: `python docs/pictures.py`.

Needs chromium, pillow and a font with Chinese. The texts are openings of two sample documents; the
report is that of a run against the mock server, with some faults on the way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from jobs.mock.running import serving

HERE = Path(__file__).parent
SAMPLES = HERE.parent / "sample_data" / "reports.jsonl"
COLOURS = 64
SCALE = 2

OPENINGS = {
    "en-report-cable-ferry-accident": ("1. SYNOPSIS", "2. FACTUAL"),
    "zh-accident-cableway": ("一、事件概况", "调查组查阅资料"),
}

JOB = """
task = "chat-completion"
route = "ordered"
[input]
path = "reports.jsonl"
id = "id"
[chunk]
size = 128
[parameters]
prompt = "List the names and dates in this text: {chunk}"
[[endpoint]]
name = "hub"
kind = "openai"
url = "HUB/v1"
model = "large"
price = { input = 0.4, output = 1.2 }
[[endpoint]]
name = "spare"
kind = "openai"
url = "SPARE/v1"
model = "medium"
price = { input = 0.2, output = 0.6 }
fallback = true
[output]
path = "facts.jsonl"
"""
FAULTS = [
    "422 match=Kestrel-9",
    "429 x8 after=150 retry-after:2",
    "503 x3 after=420 retry-after:3",
    "500 3%",
]


def chunks_page(folder: Path) -> Path:
    """The page of `textmill chunks --html` for two documents."""
    rows = []
    for name, (start, end) in OPENINGS.items():
        text = _texts()[name]["text"]
        text = text[text.index(start) : text.index(end)].rstrip()
        rows.append({"id": name, "text": text})
    _write(folder / "samples.jsonl", rows)
    _textmill(folder, "chunks", "samples.jsonl", "--id", "id", "--size", "96", "--overlap", "16",
              "--html", "chunks.html")  # fmt: skip
    return folder / "chunks.html"


def report_page(folder: Path) -> Path:
    """The report.html of the second of two nightly runs."""
    rows = list(_texts().values())
    poison = {"id": "en-odd", "text": "Kestrel-9: a text that this server refuses."}
    with (
        serving(FAULTS, latency=0.25) as hub,
        serving(FAULTS[:1], latency=0.4) as spare,
    ):
        job = JOB.replace("HUB", hub.url).replace("SPARE", spare.url)
        (folder / "nightly.toml").write_text(job, "utf-8")
        _write(folder / "reports.jsonl", rows[:14])
        _textmill(folder, "run", "nightly.toml")
        rows[3] = rows[3] | {"text": rows[3]["text"] + "\nOne line more.\n"}
        _write(folder / "reports.jsonl", [*rows[1:], poison])
        with (folder / "reports.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"id": "en-cut-short", "text": "The night watch\n')
        _textmill(folder, "run", "nightly.toml")
    (page,) = sorted(folder.glob("facts.jsonl.run/runs/*/report.html"))[-1:]
    shown = folder / "report.html"
    text = page.read_text("utf-8").replace(str(folder), "/srv/textmill")
    shown.write_text(text.replace(hub.url, "https://hub.example.com"), "utf-8")
    return shown


def picture(page: Path, target: Path, width: int, height: int) -> None:
    """The top of a page as a small PNG."""
    raw = page.with_suffix(".png")
    subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--force-device-scale-factor={SCALE}", f"--screenshot={raw}",
         f"--window-size={width},{height}", str(page)],
        check=True, capture_output=True,
    )  # fmt: skip
    image = Image.open(raw).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size:,} bytes")


def _texts() -> dict[str, dict[str, str]]:
    rows = map(json.loads, SAMPLES.read_text("utf-8").splitlines())
    return {row["id"]: {"id": row["id"], "text": row["text"]} for row in rows}


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def _textmill(folder: Path, *words: str) -> None:
    home = {"TEXTMILL_HOME": str(folder / "home"), "PYTHONPATH": str(HERE.parent)}
    subprocess.run([sys.executable, "-m", "jobs", *words], cwd=folder, env=os.environ | home)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        picture(chunks_page(Path(place)), HERE / "images" / "chunks.png", 920, 1036)
        picture(report_page(Path(place)), HERE / "images" / "report.png", 920, 850)
