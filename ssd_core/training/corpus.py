"""The text the embedded pair learns: source code that is already installed, under permissive licences.

Nothing is downloaded. A file is held out (never trained on) by the hash of its path, so the
split is the same on every machine that has the file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES: dict[str, str] = {
    "torch": "BSD-3-Clause", "torchvision": "BSD-3-Clause", "transformers": "Apache-2.0", "accelerate": "Apache-2.0",
    "peft": "Apache-2.0", "timm": "Apache-2.0", "torch_geometric": "MIT", "torchmetrics": "Apache-2.0",
    "lightning": "Apache-2.0", "sentence_transformers": "Apache-2.0", "jax": "Apache-2.0", "flax": "Apache-2.0",
    "optax": "Apache-2.0", "chex": "Apache-2.0", "equinox": "Apache-2.0", "numpyro": "Apache-2.0",
    "botorch": "MIT", "gpytorch": "MIT", "numpy": "BSD-3-Clause", "scipy": "BSD-3-Clause", "pandas": "BSD-3-Clause",
    "sklearn": "BSD-3-Clause", "skimage": "BSD-3-Clause", "statsmodels": "BSD-3-Clause", "sympy": "BSD-3-Clause",
    "mpmath": "BSD-3-Clause", "networkx": "BSD-3-Clause", "matplotlib": "PSF-based", "seaborn": "BSD-3-Clause",
    "numba": "BSD-2-Clause", "cupy": "MIT", "fsspec": "BSD-3-Clause", "httpx": "BSD-3-Clause", "requests": "Apache-2.0",
    "rich": "MIT", "jinja2": "BSD-3-Clause", "werkzeug": "BSD-3-Clause", "aiohttp": "Apache-2.0", "pygments": "BSD-2-Clause",
    "setuptools": "MIT", "pip": "MIT", "_pytest": "MIT", "click": "BSD-3-Clause", "onnx": "Apache-2.0", "onnxscript": "MIT",
    "tensorboard": "Apache-2.0", "huggingface_hub": "Apache-2.0", "Cython": "Apache-2.0", "nltk": "Apache-2.0",
    "h5py": "BSD-3-Clause", "imageio": "BSD-2-Clause", "joblib": "BSD-3-Clause", "triton": "MIT", "opt_einsum": "MIT",
    "markdown": "BSD-3-Clause", "urllib3": "MIT", "anyio": "MIT", "attr": "MIT", "coverage": "Apache-2.0",
    "ray": "Apache-2.0", "fastapi": "MIT", "starlette": "BSD-3-Clause", "pydantic": "MIT", "aiofiles": "Apache-2.0",
}  # fmt: skip
"""Import name -> licence. A package that is not installed is passed over and not listed in the model card."""

MAX_FILE_BYTES = 400_000  # larger files are generated tables, not writing
HELD_OUT_SHARE = 0.02


@dataclass(frozen=True)
class SourceFile:
    origin: str
    """`stdlib` or the package's import name."""
    relative_path: str
    text: str

    @property
    def is_held_out(self) -> bool:
        digest = hashlib.sha256(f"{self.origin}/{self.relative_path}".encode()).digest()
        return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def source_files() -> Iterator[SourceFile]:
    """Every readable `.py` file of the standard library and of the installed PACKAGES, in a fixed order."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    yield from _read_tree("stdlib", stdlib, excluded={"site-packages", "dist-packages", "lib2to3"})
    for name in sorted(PACKAGES):
        spec = importlib.util.find_spec(name)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            yield from _read_tree(name, Path(folder), excluded={"_vendor"})  # bundled, under licences of their own


def _read_tree(origin: str, root: Path, excluded: set[str]) -> Iterator[SourceFile]:
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if excluded & set(relative.parts) or not 200 < path.stat().st_size < MAX_FILE_BYTES:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a test file that is invalid on purpose
        yield SourceFile(origin, relative.as_posix(), text)
