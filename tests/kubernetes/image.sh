#!/usr/bin/env bash
# image.sh FILE NAME:TAG ROOT [entrypoint=PROGRAM] [user=UID:GID]: makes an image of one layer from a directory, as an OCI
# image layout (image-spec 1.1) in one tar archive. No engine, no registry; the same files make the same bytes.
set -euo pipefail

file=$1 name=$2 root=$3
shift 3
entrypoint= user=
for setting in "$@"; do
  case $setting in
    entrypoint=*) entrypoint=${setting#*=} ;;
    user=*) user=${setting#*=} ;;
    *) echo "error: $setting is neither entrypoint= nor user=" >&2 && exit 2 ;;
  esac
done

layout=$(mktemp -d)
trap 'rm -rf "$layout"' EXIT
blobs=$layout/blobs/sha256
mkdir -p "$blobs"
architecture=$(dpkg --print-architecture)

archive() {
  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=pax \
    --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime -C "$1" -cf "$2" .
}

# Puts a file among the blobs and prints its descriptor.
blob() {
  local digest size
  digest=$(sha256sum "$1" | cut -d' ' -f1)
  size=$(stat -c %s "$1")
  mv "$1" "$blobs/$digest"
  printf '{"mediaType":"%s","digest":"sha256:%s","size":%s' "$2" "$digest" "$size"
}

archive "$root" "$layout/layer"
layer_digest=$(sha256sum "$layout/layer" | cut -d' ' -f1)
layer=$(blob "$layout/layer" application/vnd.oci.image.layer.v1.tar)

cat >"$layout/config" <<JSON
{"architecture":"$architecture","os":"linux","created":"1970-01-01T00:00:00Z",
"config":{"User":"$user","Env":["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Entrypoint":["$entrypoint"],"WorkingDir":"/"},
"rootfs":{"type":"layers","diff_ids":["sha256:$layer_digest"]},"history":[{"created":"1970-01-01T00:00:00Z"}]}
JSON
config=$(blob "$layout/config" application/vnd.oci.image.config.v1+json)

cat >"$layout/manifest" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":$config},"layers":[$layer}]}
JSON
manifest=$(blob "$layout/manifest" application/vnd.oci.image.manifest.v1+json)

cat >"$layout/index.json" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[$manifest,
"annotations":{"io.containerd.image.name":"$name","org.opencontainers.image.ref.name":"${name##*:}"}}]}
JSON
echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
# Whole or not at all.
archive "$layout" "$file.new"
mv "$file.new" "$file"
