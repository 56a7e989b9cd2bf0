"""Where the package could run code of others, line by line: what stands here is known, and nothing else may come."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Module -> what it calls, and why that is safe.
KNOWN = {
    "torchtune/training/checkpointing/_utils.py": {"torch.load"},  # weights_only, unless its caller says otherwise
    "torchtune/training/checkpointing/_dcp.py": {
        "torch.load",
        "pickle.Unpickler",
    },  # weights_only; knows an index's parts
    "torchtune/training/checkpointing/_checkpoint_client.py": {"torch.load"},  # weights_only
    "torchtune/datasets/_token_store.py": {"np.load"},  # our own arrays; allow_pickle is off by default
}
DANGEROUS = {
    "torch.load", "pickle.load", "pickle.loads", "pickle.Unpickler", "np.load", "numpy.load", "joblib.load", "dill.load", "dill.loads",
    "marshal.loads", "shelve.open", "yaml.load", "yaml.unsafe_load", "os.system", "eval", "tarfile.open", "zipfile.ZipFile",
    "shutil.unpack_archive",
}  # fmt: skip


def found(path: Path) -> tuple[set[str], list[str]]:
    """What a file names of the dangerous things, and the arguments that would switch a guard off."""
    names, switches = set(), []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Attribute, ast.Name)) and ast.unparse(node) in DANGEROUS:
            names.add(ast.unparse(node))
        if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            guard = {"weights_only": False, "allow_pickle": True, "trust_remote_code": True, "shell": True}.get(
                node.arg or ""
            )
            if guard is not None and node.value.value is guard:
                switches.append(f"{path.name}: {node.arg}={guard}")
    return names, switches


def test_nothing_that_could_run_code_of_others_is_called_but_what_is_known() -> None:
    files = [path for folder in ("torchtune", "recipes") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 200
    everything = {path.relative_to(ROOT).as_posix(): found(path) for path in files}
    assert {name: names for name, (names, _) in everything.items() if names} == KNOWN
    assert [switch for _, switches in everything.values() for switch in switches] == []


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("import torch\ntorch.load('a', weights_only=False)\neval('1')\n")
    assert found(tmp_path / "x.py") == ({"torch.load", "eval"}, ["x.py: weights_only=False"])
