# mergegrid on the CPU; docs/install.md says how to run it.
#   docker build -t mergegrid .
#   docker build -t mergegrid-engine --build-arg EXTRA=regmean .     without studies, torch and Snakemake
FROM python:3.11-slim

# Libraries first, in the versions of constraints.txt: this layer is kept until one of the two files
# changes. PyTorch's index has builds without CUDA, a tenth as large.
ARG EXTRA=study
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /opt/mergegrid
COPY pyproject.toml constraints.txt ./
RUN mkdir src && touch README.md LICENSE \
    && pip install --no-cache-dir --constraint constraints.txt --extra-index-url "$TORCH_INDEX" ".[$EXTRA]" \
    && pip uninstall --yes mergegrid

# What .dockerignore lets through: the library and its workflow.
COPY . .
RUN pip install --no-cache-dir --no-deps . \
    && rm -r build \
    && useradd --create-home --uid 1000 mergegrid \
    && chmod 777 /home/mergegrid

# Whoever runs it (`docker run --user`) can keep caches here.
ENV HOME=/home/mergegrid
USER 1000
WORKDIR /work
ENTRYPOINT ["mergegrid"]
CMD ["--help"]
