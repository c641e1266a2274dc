"""MLServer with its own runtimes of XGBoost and scikit-learn: `server.py PORT XGBOOST_FILE PIPELINE_FILE`.

`parallel_workers` 0 is quicker here than its default, a process for the models; no log of calls.
"""

import asyncio
import socket
import sys

from mlserver import MLServer, ModelSettings, Settings
from mlserver.settings import ModelParameters
from mlserver_sklearn import SKLearnModel
from mlserver_xgboost import XGBoostModel


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


async def main(port: int, xgboost: str, pipeline: str) -> None:
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=free_port(),
        metrics_port=free_port(),
        parallel_workers=0,
        debug=False,
    )
    models = (("xgboost", XGBoostModel, xgboost), ("pipeline", SKLearnModel, pipeline))
    await MLServer(settings).start(
        [
            ModelSettings(name=name, implementation=implementation, parameters=ModelParameters(uri=file))
            for name, implementation, file in models
        ]
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
