# syntax=docker/dockerfile:1
# One static binary in an otherwise empty image: make image. Several architectures: docker buildx build --platform linux/amd64,linux/arm64 .
# Targets: the image (default), and sbom, which holds the bill of materials: docker buildx build --target sbom --output type=local,dest=. .

ARG RUST_VERSION=1.91
ARG NODE_VERSION=22
ARG ALPINE_VERSION=3.22

# The page is the same for every architecture.
FROM --platform=$BUILDPLATFORM node:${NODE_VERSION}-alpine${ALPINE_VERSION} AS page
WORKDIR /src/web
COPY web/package.json web/package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY web ./
RUN npm run build

# Alpine's Rust is for musl: the binary needs no library.
FROM rust:${RUST_VERSION}-alpine${ALPINE_VERSION} AS build
SHELL ["/bin/ash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3018
RUN apk add --no-cache build-base ca-certificates
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY config ./config
COPY src ./src
COPY benches ./benches
COPY tests/it ./tests/it
COPY --from=page /src/web/dist ./web/dist
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target,id=target-${TARGETARCH} \
    cargo build --release --locked --bin telemetry \
    && cp target/release/telemetry /telemetry \
    && strip /telemetry \
    && ! ldd /telemetry 2>/dev/null | grep -q '=>'

FROM build AS sbom-build
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo install --locked cargo-cyclonedx@0.5.9 \
    && cargo cyclonedx --format json --override-filename telemetry.cdx

FROM scratch AS sbom
COPY --from=sbom-build /src/telemetry.cdx.json /

FROM scratch
LABEL org.opencontainers.image.title="telemetry" \
      org.opencontainers.image.description="GPU telemetry from edge clusters, through a shared Redis, into PostgreSQL, each row exactly once" \
      org.opencontainers.image.licenses="Apache-2.0"
# Public certificate authorities, for where no other is configured.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /telemetry /usr/local/bin/telemetry
# Found by `kubectl exec … -- telemetry check`.
ENV PATH=/usr/local/bin
# No name is needed for it; nothing is written to the root file system.
USER 65532:65532
EXPOSE 8080 9464
ENTRYPOINT ["/usr/local/bin/telemetry"]
CMD ["--help"]
