"""A fuzz of the unpickler of known pickles; `python -m tests.support.pickle_fuzz SECONDS SEED` runs it.

Pickles of real models are mutated: bytes change, move and go, names become those of gadgets, and operations
come in between. Each is followed and loaded, and where it loads, it predicts. An audit hook ends the process
with the status 3 where anything but that happens: a module that no library of the list needs, an open file, a
process, a socket.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import random
import sys
import time
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from runtimes.errors import LoadError
from runtimes.pickles.dry_run import dry_run
from runtimes.pickles.known import known_names
from runtimes.pickles.stream import Budget, Stream
from runtimes.pickles.unpickler import Unpickler

ROWS = np.abs(np.random.default_rng(0).normal(size=(30, 3)))
_CLASSES = np.arange(30) % 3
_GADGETS = (
    ("posix", "system"),
    ("builtins", "eval"),
    ("builtins", "getattr"),
    ("operator", "attrgetter"),
    ("joblib.numpy_pickle", "load"),
    ("pandas", "read_pickle"),
    ("functools", "partial"),
)
_EVENTS = ("os.", "subprocess.", "socket.", "shutil.", "ctypes.dlopen", "webbrowser.", "urllib.", "ftplib.")


def models() -> dict[str, Any]:
    """Return a fitted model of each kind that is checked in its own way."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import (
        GradientBoostingClassifier,
        HistGradientBoostingClassifier,
        IsolationForest,
        RandomForestClassifier,
    )
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import GridSearchCV
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, SplineTransformer, StandardScaler
    from sklearn.svm import SVC, SVR

    columns = ColumnTransformer([("a", StandardScaler(), [0, 2])], remainder="passthrough")
    kinds = {
        "pipeline": make_pipeline(FunctionTransformer(np.log1p), columns, LogisticRegression()),
        "forest": RandomForestClassifier(3, max_depth=3, random_state=0),
        "boosting": GradientBoostingClassifier(n_estimators=2, max_depth=2, random_state=0),
        "histogram": HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=5, random_state=0),
        "isolation": IsolationForest(n_estimators=3, random_state=0),
        "kd tree": KNeighborsClassifier(algorithm="kd_tree", leaf_size=5),
        "ball tree": KNeighborsRegressor(algorithm="ball_tree", leaf_size=5),
        "brute": KNeighborsClassifier(algorithm="brute"),
        "classifier": SVC(probability=False),
        "regressor": SVR(),
        "search": GridSearchCV(Ridge(), {"alpha": [1, 2]}, cv=2),
        "network": MLPClassifier((3,), max_iter=3, random_state=0),
        "spline": make_pipeline(SplineTransformer(), Ridge()),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: model.fit(ROWS, _CLASSES) for name, model in kinds.items()}


def seeds(fitted: dict[str, Any]) -> list[bytes]:
    """Return the pickles that are mutated: of each protocol, and as joblib writes them."""
    written = [pickle.dumps(model, protocol) for model in fitted.values() for protocol in (0, 2, 4, 5)]
    for model in fitted.values():
        buffer = io.BytesIO()
        joblib.dump(model, buffer)
        written.append(buffer.getvalue())
    return written


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return a pickle that is changed in one to four places."""
    content = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        position = chance.randrange(len(content))
        kind = chance.randrange(8)
        if kind == 0:
            content[position] = chance.randrange(256)
        elif kind == 1:
            content[position] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del content[position : position + chance.randint(1, 20)]
        elif kind == 3:
            part = content[position : position + chance.randint(1, 60)]
            target = chance.randrange(len(content))
            content[target:target] = part
        elif kind == 4:
            content[position:position] = chance.choice(_OPERATIONS)
        elif kind == 5:
            content[position:position] = _named(*chance.choice(_GADGETS))
        elif kind == 6:
            content[position:position] = _named(*chance.choice(_KNOWN))
        else:
            size = chance.choice((1, 2, 4, 8))
            content[position : position + size] = chance.choice(_NUMBERS)[:size]
    return bytes(content)


_OPERATIONS = tuple(bytes([code]) for code in b"R\x81\x92bosauei0212t)]}N.q\x94\x85\x86\x87\x93(cPQ\x82")
_NUMBERS = (b"\xff" * 8, b"\x00" * 8, b"\x00\x00\x00\x80" * 2, b"\xff\xff\xff\x7f" * 2, b"\x01" + b"\x00" * 7)
_KNOWN = tuple(name.rpartition(".")[::2] for name in sorted(known_names()))


def _named(module: str, name: str) -> bytes:
    return b"c%b\n%b\n" % (module.encode(), name.encode())


class Watch:
    """The audit hook: what happened that must not, while it is on."""

    def __init__(self) -> None:
        self.is_on = False
        sys.addaudithook(self._event)

    def _event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        is_import = event == "import" and not _may_import(str(arguments[0]))
        is_open = event == "open" and not _is_source(arguments[0])
        if is_import or is_open or event in ("exec", "compile") or event.startswith(_EVENTS):
            if event in ("exec", "compile", "os.listdir", "os.scandir") and not is_import:
                return  # importing a module of a library does these
            self.is_on = False
            sys.stderr.write(f"{event} {arguments!r}\n")
            sys.stderr.flush()
            os._exit(3)


_PACKAGES = frozenset({name.partition(".")[0] for name in known_names()})


def _may_import(module: str) -> bool:
    """Tell whether a module belongs to a library of the list, or is Python's own and harmless to import."""
    return module.partition(".")[0] in _PACKAGES | {"_operator", "encodings", "unicodedata"}


def _is_source(path: object) -> bool:
    """Tell whether a file is a module of an installed library, which importing it opens."""
    return str(path).endswith((".py", ".pyc", ".so")) or str(path) == "/dev/null"


def run(seconds: float, seed: int, limit: int | None = None) -> dict[str, int]:
    """Run for some seconds, or so many pickles; return how often each thing happened."""
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    fitted = models()
    written = seeds(fitted)
    for model in fitted.values():
        model.predict(ROWS)
    for data in written:
        _loaded(data)
    # Some of them set variables as they are imported, and that is no deed of a pickle.
    for package in sorted(_PACKAGES):
        with suppress(ImportError):
            importlib.import_module(package)
    watch, chance, counts = Watch(), random.Random(seed), Counter[str]()
    path = Path(f"/proc/self/fd/{os.memfd_create('pickle')}")
    end = time.monotonic() + seconds
    while time.monotonic() < end and (limit is None or counts["all"] < limit):
        counts["all"] += 1
        data = mutated(chance.choice(written), chance)
        path.write_bytes(data)
        counts["known" if dry_run(path).is_known else "unknown"] += 1
        watch.is_on = True
        try:
            model = _loaded(data)
        except LoadError:
            counts["refused"] += 1
            continue
        except Exception as error:
            counts["damaged"] += 1
            counts[type(error).__name__] += 1
            continue
        finally:
            watch.is_on = False
        counts["loaded"] += 1
        watch.is_on = True
        try:
            model.predict(ROWS)
            counts["predicted"] += 1
        except Exception:
            counts["failed to predict"] += 1
        finally:
            watch.is_on = False
    return dict(counts)


def _loaded(data: bytes) -> Any:
    budget = Budget(len(data))
    unpickler = Unpickler(Stream(io.BytesIO(data), budget), budget)
    value = unpickler.load()
    unpickler.check()
    return value


if __name__ == "__main__":
    counted = run(float(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.write(json.dumps(counted) + "\n")
