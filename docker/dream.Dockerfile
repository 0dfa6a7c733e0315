# A Ray worker that dreams: video models, labels and judges on an NVIDIA card, and what the simulator image has, to try
# dreams out. torch brings the CUDA libraries it needs; the driver comes with the NVIDIA container runtime.
ARG BASE_IMAGE=python:3.11.15-slim-bookworm

FROM ${BASE_IMAGE} AS python
COPY docker/install-python.sh /opt/
RUN sh /opt/install-python.sh

FROM python AS install
# evdev, which robosuite asks for, ships no wheel: a compiler, the kernel's headers and Python's.
RUN sh /opt/install-python.sh gcc libc6-dev linux-libc-dev \
 && if ! [ -e "$(python3.11 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; then \
      sh /opt/install-python.sh python3.11-dev; \
    fi
# PIP_CERT: a certificate bundle in the build, where a network puts its own authority in between.
ARG PIP_CERT
ARG EXTRAS="sim ray dreams"
RUN python3.11 -m venv /opt/venv
COPY pyproject.toml docker/requirements.py docker/constraints.txt /build/
RUN python3.11 /build/requirements.py /build/pyproject.toml ${EXTRAS} > /build/requirements.txt \
 && /opt/venv/bin/pip install --no-cache-dir --constraint /build/constraints.txt --requirement /build/requirements.txt
COPY . /src
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation /src

FROM python
RUN sh /opt/install-python.sh libegl1 libgl1 libgl1-mesa-dri libglib2.0-0 libosmesa6
# Where the NVIDIA runtime brings its libEGL, this names it before Mesa's; where it does not, the loader passes it over.
COPY docker/10_nvidia.json /usr/share/glvnd/egl_vendor.d/
COPY --from=install /opt/venv /opt/venv
COPY --chmod=0755 docker/ray-node.sh /usr/local/bin/ray-node
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0 \
    MUJOCO_GL=egl NUMBA_CACHE_DIR=/tmp/numba FACTORY_CACHE_DIR=/tmp/factory-cache FACTORY_WARM_DIR=/opt/factory-warm
# Made once here instead of at each start of a container, whose file system forgets. Read, never written: a machine with
# another kind of CPU finds no code for itself in it and compiles into FACTORY_CACHE_DIR.
RUN FACTORY_CACHE_DIR=/opt/factory-warm factory warm \
 && rm -rf /tmp/numba /tmp/.cache
USER 10001:10001
WORKDIR /data
CMD ["factory", "--help"]
