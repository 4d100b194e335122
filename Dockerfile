# The operator's and the trainer's image, for those who have docker:
#   docker build --target trainer -t trainer . && docker build --target operator -t operator .
# `make images` packs the same files without it.

FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends cmake nasm && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --package cnclip-trainer --package cnclip-operator \
    && cp target/release/cnclip target/release/cnclip-operator /usr/local/bin/

FROM python:3.11-slim-bookworm AS vocabulary
COPY tests/emoji /emoji
RUN /emoji/build --vocabulary /vocab.txt

FROM gcr.io/distroless/cc-debian12:nonroot AS trainer
COPY --from=vocabulary /vocab.txt /usr/share/cnclip/vocab.txt
COPY --from=build /usr/local/bin/cnclip /usr/local/bin/cnclip
ENTRYPOINT ["/usr/local/bin/cnclip"]

FROM gcr.io/distroless/cc-debian12:nonroot AS operator
COPY --from=build /usr/local/bin/cnclip-operator /usr/local/bin/cnclip-operator
ENTRYPOINT ["/usr/local/bin/cnclip-operator"]
