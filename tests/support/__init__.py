"""What tests share: servers, whole runs, failing disks, texts."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""
SAMPLES = ROOT / "sample_data"
