"""Writes all configs and the index of ``tune ls``, and names configs that stand in no table."""

from __future__ import annotations

from pathlib import Path

from recipes.catalog import HAND_WRITTEN, index_text, written_configs

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Writes what is not there or differs, and says how much that was."""
    texts = {ROOT / "recipes" / "configs" / f"{name}.yaml": text for name, text in written_configs().items()}
    texts[ROOT / "recipes" / "configs" / "index.json"] = index_text()
    changed = [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[path], encoding="utf-8")
    by_hand = {f"{name}.yaml" for names in HAND_WRITTEN.values() for name in names}
    configs = ROOT / "recipes" / "configs"
    stale = [p for p in configs.rglob("*.yaml") if p not in texts and p.relative_to(configs).as_posix() not in by_hand]
    for path in stale:
        print(f"in no table: {path.relative_to(ROOT)}")
    print(f"{len(texts)} files, {len(changed)} written")


if __name__ == "__main__":
    main()
