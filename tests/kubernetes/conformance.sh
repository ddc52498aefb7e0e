#!/usr/bin/env bash
# conformance.sh: builds Gateway API's conformance suite and the image of the applications that its tests for meshes talk to. What is
# there already, and of the pinned versions, is left alone; cold it takes about four minutes of one core. The versions are pinned
# in conformance/go.mod and echo/go.mod.
. "$(dirname "$0")/lib.sh"

suite=$programs/conformance
echo_image=$cache/conformance/echo-advanced.tar

from=$(cat "$here"/conformance/* "$here"/echo/* "$here/conformance.sh" | sha256sum)
stamp=$cache/conformance/from
if [ -x "$suite" ] && [ -e "$echo_image" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$from" ]; then exit; fi

echo "building Gateway API's conformance suite (the first time about four minutes of one core)"
mkdir -p "$programs" "$cache/conformance"
go=$(find_go)
export CGO_ENABLED=0 GOTOOLCHAIN=local GOWORK=off GOCACHE=$cache/go-build
flags=(-mod=readonly -trimpath -buildvcs=false -ldflags="-s -w")
(cd "$here/conformance" && "$go" test -c "${flags[@]}" -o "$suite" .)

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
# The manifests of the suite start this very program at this very place.
for program in server client; do
  (cd "$here/echo" && "$go" build "${flags[@]}" -o "$root/usr/local/bin/$program" "istio.io/istio/pkg/test/echo/cmd/$program")
done
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$root/cert.key" -out "$root/cert.crt" -days 3650 -subj /CN=echo \
  -addext subjectAltName=DNS:echo 2>/dev/null
chmod 644 "$root/cert.key"
"$here/image.sh" "$echo_image" registry.k8s.io/gateway-api/echo-advanced:v1.5.1 "$root" entrypoint=/usr/local/bin/server
echo "$from" >"$stamp"
