"""docs/configuration.md is what config.py says, and names what the code reads from the environment."""

import re

from pipelines.settings_page import PAGE, page

ROOT = PAGE.parents[1]


def test_the_page_is_that_of_the_settings() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def test_every_variable_that_the_code_reads_is_on_the_page() -> None:
    """But for those that others set: KFP and Kubernetes in a pod, torchrun, and images.py at compile time."""
    others = re.compile(
        r"KUBERNETES_|RANK|WORLD_SIZE|LOCAL_|EVERBERT_IMAGE_|ONEDNN_|LRU_CACHE|TOKENIZERS_|MLFLOW_(?!TRACKING_URI)"
    )
    read = set()
    for path in [*ROOT.glob("components/**/*.py"), *ROOT.glob("pipelines/*.py"), *ROOT.glob("serving/*.py")]:
        text = path.read_text(encoding="utf-8")
        read |= set(re.findall(r"environ(?:\.get\(|\.setdefault\(|\[)\"([A-Z_]+)\"", text))
    assert read
    missing = {name for name in read if name not in page() and not others.match(name)}
    assert not missing
