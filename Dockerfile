# One image for the three services; docker-compose.yml says which one a container is.
FROM python:3.11-slim

RUN useradd --create-home --uid 10001 retinue \
 && install -d -o retinue -g retinue /data /project
WORKDIR /opt/retinue
COPY pyproject.toml README.md ./
COPY protos protos
COPY clients/python clients/python
COPY services services
RUN pip install --no-cache-dir '.[all,examples]'

USER retinue
WORKDIR /project
ENV RETINUE_DATA_DIR=/data \
    RETINUE_LOG_FORMAT=json \
    PYTHONUNBUFFERED=1
VOLUME /data
