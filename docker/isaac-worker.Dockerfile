# A worker that runs Isaac Lab Mimic environments on NVIDIA's Isaac Sim and pulls its work from a service over HTTP.
# Whoever builds or runs it accepts NVIDIA's licence for Isaac Sim; nothing here accepts it for them. See docs/isaac.md.
ARG BASE_IMAGE=python:3.11.15-slim-bookworm
# Isaac Sim 5.1 has Python 3.11 and goes with Isaac Lab 2.3.
ARG ISAAC_SIM_IMAGE=nvcr.io/nvidia/isaac-sim:5.1.0

FROM ${BASE_IMAGE} AS python
COPY docker/install-python.sh /opt/
RUN sh /opt/install-python.sh

# Our part as wheels, made on an ordinary image: `docker build --target wheels` needs nothing of NVIDIA's.
FROM python AS wheels
# PIP_CERT: a certificate bundle in the build, where a network puts its own authority in between.
ARG PIP_CERT
ARG EXTRAS="api"
RUN python3.11 -m venv /opt/venv
COPY pyproject.toml docker/requirements.py docker/constraints.txt /build/
RUN python3.11 /build/requirements.py /build/pyproject.toml ${EXTRAS} > /build/requirements.txt \
 && /opt/venv/bin/pip install --no-cache-dir --constraint /build/constraints.txt --requirement /build/requirements.txt \
 && /opt/venv/bin/pip wheel --no-cache-dir --wheel-dir /wheels --constraint /build/constraints.txt \
      --requirement /build/requirements.txt
COPY . /src
RUN /opt/venv/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels /src

# From here on NVIDIA's registry and index are needed.
FROM ${ISAAC_SIM_IMAGE}
ARG ISAACLAB_VERSION=2.3.2.post1
ARG EXTRAS="api"
USER 0:0
COPY --from=wheels /wheels /opt/wheels
RUN /isaac-sim/python.sh -m pip install --no-cache-dir --extra-index-url https://pypi.nvidia.com \
      "isaaclab==${ISAACLAB_VERSION}" \
 && /isaac-sim/python.sh -m pip install --no-cache-dir --no-index --find-links /opt/wheels \
      "trajectory-factory[${EXTRAS}]" \
 && install -d -o 1234 -g 1234 -m 0750 /data /secrets /secrets/isaac /isaac-sim/.cache /isaac-sim/.nv \
      /isaac-sim/.nvidia-omniverse /isaac-sim/.local
COPY --chmod=0755 docker/isaac-worker.sh /usr/local/bin/isaac-worker
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 FACTORY_CACHE_DIR=/tmp/factory-cache
USER 1234:1234
WORKDIR /data
ENTRYPOINT []
CMD ["isaac-worker"]
