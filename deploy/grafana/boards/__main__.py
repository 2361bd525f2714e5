"""Write the dashboards: python -m deploy.grafana.boards [--docs URL] [--folder FOLDER]."""

import argparse
from pathlib import Path

from deploy.grafana.boards import DOCS, FOLDER, boards, encoded

if __name__ == "__main__":
    options = argparse.ArgumentParser(prog="boards")
    options.add_argument("--docs", default=DOCS, help="address of the folder docs/, for links")
    options.add_argument("--folder", type=Path, default=FOLDER)
    chosen = options.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    for name, board in boards(chosen.docs).items():
        (chosen.folder / f"{name}.json").write_text(encoded(board), encoding="utf-8")
