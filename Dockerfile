# The images of the operator and of the trainer for CPUs and for NVIDIA GPUs, for builds with docker:
#   docker build --target trainer -t trainer . && docker build --target operator -t operator .
#   docker build --target trainer-cuda -t trainer-cuda .
# `make images` packs the same files without docker.

FROM rust:1.95.0-bookworm AS build
# The image's own toolchain: rust-toolchain.toml would make rustup download components that a build does not need.
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN apt-get update && apt-get install -y --no-install-recommends cmake nasm && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --package cnclip-trainer --package cnclip-operator \
    && cp target/release/cnclip target/release/cnclip-operator /usr/local/bin/

FROM build AS build-cuda
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    CUDA_HOME=$(packaging/cuda/toolkit) cargo build --release --locked --package cnclip-trainer --features cuda \
    && cp target/release/cnclip /usr/local/bin/

FROM python:3.11-slim-bookworm AS cuda-libraries
COPY packaging/python /packaging/python
COPY packaging/cuda/libraries /packaging/cuda/libraries
# The program opens libnccl.so; the package contains only libnccl.so.2.
RUN mkdir /nvidia \
    && cd $(/packaging/python /packaging/cuda/libraries -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/nvidia \
    && cp cu13/lib/libcublasLt.so.13 /nvidia/ && cp nccl/lib/libnccl.so.2 /nvidia/libnccl.so

FROM python:3.11-slim-bookworm AS vocabulary
COPY packaging/python /packaging/python
COPY packaging/vocabulary /packaging/vocabulary
RUN /packaging/vocabulary/fetch /vocab.txt

FROM gcr.io/distroless/cc-debian12:nonroot AS trainer
COPY --from=vocabulary /vocab.txt /usr/share/cnclip/vocab.txt
COPY --from=build /usr/local/bin/cnclip /usr/local/bin/cnclip
ENTRYPOINT ["/usr/local/bin/cnclip"]

FROM trainer AS trainer-cuda
COPY --from=cuda-libraries /nvidia /usr/local/lib/nvidia
COPY --from=build-cuda /usr/local/bin/cnclip /usr/local/bin/cnclip
# Managed nodes mount the driver into /usr/local/nvidia; the NVIDIA variables configure the container runtime.
ENV LD_LIBRARY_PATH=/usr/local/lib/nvidia:/usr/local/nvidia/lib64 NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM gcr.io/distroless/cc-debian12:nonroot AS operator
COPY --from=build /usr/local/bin/cnclip-operator /usr/local/bin/cnclip-operator
ENTRYPOINT ["/usr/local/bin/cnclip-operator"]
