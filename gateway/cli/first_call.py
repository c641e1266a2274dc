"""What `kitserve run` says once its model is ready: a call on this very model to paste, and where to look."""

from __future__ import annotations

import contextlib
from typing import Any
from urllib.parse import quote

import requests

from gateway.cli.progress import Reporter
from gateway.errors import ControlError

_SECONDS = 5.0
_TRIES = 10
"""How often the document is asked for until it has the call; between, a status comes each half second."""
_FAILED, _READY = "failed", "ready"


class FirstCall:
    """Watches the one model of a run until it is ready, and then says how it is called.

    Args:
        model: the model's name.
        url: what calls on models begin with.
        admin_url: where metrics are.
        reporter: tells a person.
    """

    def __init__(self, model: str, url: str, admin_url: str, reporter: Reporter) -> None:
        self._model = model
        self._url = url
        self._admin_url = admin_url
        self._reporter = reporter
        self._is_told = False
        self._tries = 0

    def see(self, status: dict[str, Any]) -> None:
        """Look at a status of all models.

        Raises:
            ControlError: when the model cannot be served, and never was.
        """
        if self._is_told:
            return
        for model in status["models"]:
            if model["state"] == _FAILED:
                raise ControlError(f"{self._model} cannot be served: {model['message']}")
            if model["state"] == _READY:
                self._tell()

    def _tell(self) -> None:
        command = self._command()
        self._tries += 1
        # The call is described by the worker, whose description may come a moment after it is ready.
        if not command and self._tries < _TRIES:
            return
        self._is_told = True
        places = {
            "docs": f"{self._url}/docs",
            "metrics": f"{self._admin_url}/metrics",
            "status": f"kitserve status --admin {self._admin_url.partition('//')[2]}",
            "stop": "Ctrl-C",
        }
        call = [f"{self._model} is ready. Call it:", "", *_indented(command)]
        lines = call if command else [f"{self._model} is ready."]
        lines += ["", *(f"  {name:<8} {place}" for name, place in places.items()), ""]
        fields = {"model": self._model, "url": self._url, "command": command, **places}
        self._reporter.announce("run.ready", fields, "\n".join(lines))

    def _command(self) -> str:
        """Return the command that the documents of the data plane show for the model; "" for none yet."""
        with contextlib.suppress(requests.RequestException, ValueError), requests.Session() as session:
            session.trust_env = False
            document = session.get(f"{self._url}/openapi.json", timeout=_SECONDS).json()
            return command_in(document, self._model)
        return ""


def command_in(document: dict[str, Any], model: str) -> str:
    """Return the simplest command that calls a model, of those in an OpenAPI document; "" where it has none.

    For a language model that is one of the OpenAI API, for others one with rows, else one with tensors.
    """
    name = quote(model)
    paths = document.get("paths", {})
    own = [path for path in paths if path.startswith(f"/models/{name}/v1/")]
    for path in (*own, f"/v2/models/{name}/predict", f"/v2/models/{name}/infer"):
        for sample in paths.get(path, {}).get("post", {}).get("x-codeSamples", ()):
            return str(sample["source"])
    return ""


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]
