# syntax=docker/dockerfile:1
# SPDX-License-Identifier: Apache-2.0
# A MemKV storage node. From the root of the repository, with the wheels built (`nox -s build`):
#   docker build -f packages/memkv-server/deploy/docker/server.Dockerfile -t memkv-server .
# The wheels go in by file, in one command: packages of these names on the public index are another vendor's.
ARG PYTHON=3.12-slim-bookworm
FROM python:${PYTHON} AS build
COPY dist/memkv_core-*.whl dist/memkv_server-*.whl /wheels/
RUN python -m venv /opt/memkv && /opt/memkv/bin/pip install --no-cache-dir /wheels/*.whl

FROM python:${PYTHON}
RUN groupadd --gid 10001 memkv \
    && useradd --uid 10001 --gid memkv --home-dir /var/lib/memkv --create-home --shell /usr/sbin/nologin memkv \
    && install -d -o memkv -g memkv /data
COPY --from=build /opt/memkv /opt/memkv
ENV PATH=/opt/memkv/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/memkv
EXPOSE 9900 9901
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["memkv", "admin", "health", "--server", "127.0.0.1:9901"]
ENTRYPOINT ["memkv"]
CMD ["start", "--config", "/etc/memkv/config.yaml", "--log-format", "json"]
