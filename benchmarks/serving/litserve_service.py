"""LitServe serving BENCH_WORKLOAD, run by the Python of .venvs/bench."""

from __future__ import annotations

import os
from typing import Any

import litserve  # type: ignore[import-not-found]  # only in .venvs/bench

from benchmarks.common import workloads

Tasks = list[dict[str, Any]]


class Predict(litserve.LitAPI):  # type: ignore[misc]  # untyped here, see above
    """Label Studio's `/predict`; each request of a batch is a list of tasks."""

    def setup(self, device: str) -> None:
        self.workload = workloads.make(os.environ["BENCH_WORKLOAD"])

    # Without annotations here, FastAPI does not validate each body and each answer:
    # LitServe's shortest path.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        return request["tasks"]

    def batch(self, inputs: list[Tasks]) -> list[Tasks]:
        return inputs

    def predict(self, x: list[Tasks]) -> list[Tasks]:
        flat = [task for tasks in x for task in tasks]
        answers = iter(workloads.predict_in_batches(self.workload, flat))
        return [[next(answers) for _ in tasks] for tasks in x]

    def unbatch(self, output: list[Tasks]) -> list[Tasks]:
        return output

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        return {"results": output}


def main() -> None:
    api = Predict(
        api_path="/predict",
        max_batch_size=workloads.BATCH,
        batch_timeout=float(os.environ["BENCH_LITSERVE_TIMEOUT_MS"]) / 1000,
    )
    server = litserve.LitServer(api, accelerator="cpu", timeout=300, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
