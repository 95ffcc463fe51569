# The environment of `make env`, with the same pins and hashes, as an image. docs/containers.md says how to use it.
#   docker build --tag tood .
FROM python:3.12-slim-bookworm
# Records name the commit of the code, also of a folder that belongs to another user.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory '*'
WORKDIR /opt/tood
COPY Makefile pyproject.toml requirements.txt README.md ./
COPY tood tood
ENV UV_NO_CACHE=1
RUN make env PYTHON=python3.12 VENV=/opt/venv
# The code that runs is that of the clone in the working directory; what is copied above only makes the environment.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=. \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/cache/matplotlib
WORKDIR /study
CMD ["snakemake", "--cores", "all"]
