# se-nas on CPUs, in the versions that its tests were run with.
#
#   docker build -t se-nas .                                       with libraries: --build-arg EXTRAS='[timm,export]'
#   docker run --rm -v "$PWD:/work" se-nas search --budget 4       reads and writes the current folder
#
# Files are written as user 1000: docker run --user "$(id -u):$(id -g)" for another.
FROM python:3.11-slim-bookworm

ARG EXTRAS=""
# A further package index, such as one with builds of torch for CPUs only; the default build brings CUDA's packages on x86.
ARG TORCH_INDEX=""

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN PIP_EXTRA_INDEX_URL="$TORCH_INDEX" pip install -c constraints.txt torch
COPY search_spaces search_spaces
COPY se_nas se_nas
RUN pip install -c constraints.txt ".$EXTRAS"

RUN useradd --create-home --uid 1000 searcher && install -d -o searcher /work
USER 1000
# Whoever runs it: caches and the names of code that was given before are kept here.
ENV HOME=/home/searcher
WORKDIR /work

ENTRYPOINT ["se-nas"]
CMD ["--help"]
