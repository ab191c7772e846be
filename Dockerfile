# farebeat with a shell, for docker-compose.yml and as it is for a service: docker build -t farebeat .
FROM golang:1.26 AS build
WORKDIR /src
# The toolchain that go.mod names, where the image's is older.
ENV GOTOOLCHAIN=auto
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags timetzdata -o /farebeat ./cmd/farebeat

FROM debian:trixie-slim
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /farebeat /usr/local/bin/farebeat
USER 10001:10001
ENTRYPOINT ["farebeat"]
