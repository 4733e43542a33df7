# syntax=docker/dockerfile:1
# SPDX-License-Identifier: Apache-2.0
# sglang's own image with the MemKV backend. From the root of the repository, with the wheels built (`nox -s build`):
#   docker build -f packages/memkv-server/deploy/docker/sglang.Dockerfile -t sglang-memkv .
# Then as ever, with the flags of docs/adapters/sglang.md and MEMKV_SERVERS, MEMKV_AUTH_KEY, MEMKV_LICENSE set.
ARG SGLANG=lmsysorg/sglang:v0.5.23
FROM ${SGLANG}
COPY dist/memkv_core-*.whl dist/memkv_sglang-*.whl /opt/memkv-wheels/
# In one command and by file: packages of these names on the public index are another vendor's.
RUN pip install --no-cache-dir /opt/memkv-wheels/*.whl "prometheus-client>=0.20" \
    && python -c "from memkv_sglang.backend import MemKVHiCacheStorage"
# Each rank exports its client's metrics on the first free port from here on.
ENV MEMKV_PROMETHEUS_BIND=0.0.0.0:9902
EXPOSE 9902
