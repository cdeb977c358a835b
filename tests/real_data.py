"""Where real data lie beside the checkout; tests that need them are skipped where they are not there."""

from pathlib import Path

SHARED = Path(__file__).parents[2] / "shared" / "data"
CONCEPT10 = SHARED / "axbench" / "concept10"
AXBENCH = CONCEPT10 / "prod_2b_l10_v1"
