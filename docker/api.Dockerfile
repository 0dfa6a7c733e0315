# The HTTP service, the migrations and the one-shots: no torch, no Ray, no simulator.
ARG BASE_IMAGE=python:3.11.15-slim-bookworm

FROM ${BASE_IMAGE} AS python
COPY docker/install-python.sh /opt/
RUN sh /opt/install-python.sh

FROM python AS install
# PIP_CERT: a certificate bundle in the build, where a network puts its own authority in between.
ARG PIP_CERT
ARG EXTRAS="api"
RUN python3.11 -m venv /opt/venv
COPY pyproject.toml docker/requirements.py docker/constraints.txt /build/
RUN python3.11 /build/requirements.py /build/pyproject.toml ${EXTRAS} > /build/requirements.txt \
 && /opt/venv/bin/pip install --no-cache-dir --constraint /build/constraints.txt --requirement /build/requirements.txt
COPY . /src
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation /src

FROM python
COPY --from=install /opt/venv /opt/venv
COPY --chmod=0755 docker/init-secrets.sh /usr/local/bin/init-secrets
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /data
CMD ["factory", "--help"]
