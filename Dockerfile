# syntax=docker/dockerfile:1
# Build:  docker build -t kitserve .
# Run:    docker run -p 8080:8080 -v kitserve:/var/lib/kitserve -v $PWD/kitserve.yaml:/etc/kitserve.yaml:ro kitserve
# In the config, `listen: 0.0.0.0:8080` lets calls in from outside the container.
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/kitserve
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY runtimes runtimes
# Extras for what not everybody serves, as README lists them: --build-arg EXTRAS=sklearn,xgboost, or EXTRAS=all (but vLLM).
ARG EXTRAS=
RUN /opt/kitserve/bin/pip install -c constraints.txt ".${EXTRAS:+[$EXTRAS]}"

FROM python:3.11-slim-bookworm
# Models that normalise text in ONNX (StringNormalizer, as skl2onnx writes for a TfidfVectorizer) need this locale, and
# llama.cpp needs libgomp.
RUN apt-get update \
    && apt-get install -y --no-install-recommends "libgomp1=12.2.0-*" "locales=2.36-*" \
    && localedef -i en_US -f UTF-8 en_US.UTF-8 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home --home-dir /var/lib/kitserve kitserve
COPY --from=build /opt/kitserve /opt/kitserve
ENV PATH=/opt/kitserve/bin:$PATH KITSERVE_HOME=/var/lib/kitserve
USER 10001
WORKDIR /var/lib/kitserve
EXPOSE 8080
VOLUME /var/lib/kitserve
HEALTHCHECK --interval=10s --start-period=60s CMD ["python", "-m", "gateway.cli.healthcheck"]
ENTRYPOINT ["kitserve"]
CMD ["serve", "/etc/kitserve.yaml"]
