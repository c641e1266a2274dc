# syntax=docker/dockerfile:1
# For CPUs:     docker build -t kitserve .
# For NVIDIA:   docker build -t kitserve:cuda --target cuda .
# Run:          docker run -p 8080:8080 -v kitserve:/var/lib/kitserve -v $PWD/kitserve.yaml:/etc/kitserve.yaml:ro kitserve
# In the config, `listen: 0.0.0.0:8080` lets calls in from outside the container.
#
# The base is given by its digest where an image is released: PYTHON_IMAGE=python@sha256:…; the release workflow looks it
# up, and writes it into the image's labels. Every package is checked by the hashes in configs/image/ (`make lock`).
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1 UV_LINK_MODE=copy
WORKDIR /src
COPY configs/image configs/image
RUN pip install --require-hashes --only-binary :all: -r configs/image/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY runtimes runtimes
RUN pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheel .

# The libraries of one kind of machine. They change less often than Kitserve, which comes on top.
FROM build AS cpu-build
# Extras for what not everybody serves, as README lists them: --build-arg EXTRAS=sklearn,xgboost, or EXTRAS=all (but vLLM).
ARG EXTRAS=
RUN sh configs/image/install.sh configs/image/cpu.txt "$EXTRAS" --torch-backend cpu

FROM build AS cuda-build
ARG EXTRAS=
RUN sh configs/image/install.sh configs/image/cuda.txt "$EXTRAS"

FROM ${PYTHON_IMAGE} AS runtime
# Models that normalise text in ONNX (StringNormalizer, as skl2onnx writes for a TfidfVectorizer) name the locale en_US.UTF-8,
# and llama.cpp needs libgomp.
RUN apt-get update \
    && apt-get install -y --no-install-recommends "libgomp1=12.2.0-*" "locales=2.36-*" \
    && localedef -i en_US -f UTF-8 en_US.UTF-8 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home --home-dir /var/lib/kitserve kitserve
ENV PATH=/opt/kitserve/bin:$PATH KITSERVE_HOME=/var/lib/kitserve LANG=C.UTF-8
USER 10001
WORKDIR /var/lib/kitserve
EXPOSE 8080
VOLUME /var/lib/kitserve
# HAProxy is asked at its own socket in the home: the port in the config, TLS and keys do not matter.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-m", "gateway.cli.health"]
ENTRYPOINT ["kitserve"]
CMD ["serve", "/etc/kitserve.yaml"]

# CUDA's libraries are packages of Python here; the driver is the host's (`docker run --gpus all`).
FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=cuda-build /opt/kitserve /opt/kitserve

FROM runtime AS cpu
COPY --from=cpu-build /opt/kitserve /opt/kitserve
