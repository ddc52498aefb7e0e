#!/usr/bin/env bash
# Builds what the test cluster is made of: the parts of Kubernetes from their Go modules, and the images of its pods.
# Cold this takes ten minutes of one core and 6 GB; warm it takes a second. The versions are pinned in cluster/go.mod.
. "$(dirname "$0")/lib.sh"

kubernetes=$(sed -n 's|^\tk8s.io/kubernetes v||p' "$here/cluster/go.mod")
# The parts, all of them in one program that looks at its name, and those of them that may be somebody else's.
parts=(coredns etcd kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubectl kubelet)
assets=(etcd kube-apiserver kubectl)
gateway_api_wanted=$(sed -n 's|.*sigs.k8s.io/gateway-api \(v[^ ]*\).*|\1|p' "$here/conformance/go.mod")

build_kubernetes() {
  local stamp=$cache/kubernetes.from from version_at=k8s.io/component-base/version
  from=$(cat "$here/cluster/go.mod" "$here/cluster/go.sum" "$here/cluster/main.go" | sha256sum)
  if [ -x "$programs/cluster" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$from" ]; then return; fi
  echo "building Kubernetes $kubernetes (the first time about ten minutes of one core)"
  local go minor
  go=$(find_go)
  minor=$(cut -d. -f2 <<<"$kubernetes")
  # No C, so that it runs in any root file system. What was built of each package is kept apart from the user's own.
  (
    cd "$here/cluster"
    CGO_ENABLED=0 GOTOOLCHAIN=local GOWORK=off GOCACHE=$cache/go-build "$go" build -mod=readonly -trimpath -buildvcs=false \
      -ldflags="-s -w -X $version_at.gitVersion=v$kubernetes -X $version_at.gitMajor=1 -X $version_at.gitMinor=$minor" \
      -o "$programs/cluster" .
  )
  echo "$from" >"$stamp"
}

# What calls itself so, as a version without the v: "Kubernetes v1.36.2", "Client Version: v1.36.2", "etcd Version: 3.6.6".
version_of() {
  local flags=(--version)
  if [ "$(basename "$1")" = kubectl ]; then flags=(version --client); fi
  "$1" "${flags[@]}" 2>/dev/null | sed -n '1s/.*[ v]\([0-9][0-9.]*\).*/\1/p'
}

# Puts every part in its place: ours, or that of KUBEBUILDER_ASSETS, which must be of our minor version: the kubelet and the
# controllers stay ours, and may be no newer than the API server. What etcd is called is its own affair.
link_parts() {
  local directory=${KUBEBUILDER_ASSETS:-} part version told=()
  declare -A from=()
  for part in "${parts[@]}"; do from[$part]=cluster; done
  if [ -n "$directory" ]; then
    directory=$(cd "$directory" 2>/dev/null && pwd) || fail "KUBEBUILDER_ASSETS is no directory: $KUBEBUILDER_ASSETS"
    # A link to itself leads nowhere.
    [ ! "$directory" -ef "$programs" ] || fail "KUBEBUILDER_ASSETS is where our own parts are ($programs): unset it"
    for part in "${assets[@]}"; do
      [ -x "$directory/$part" ] || fail "KUBEBUILDER_ASSETS lacks the program $directory/$part (it must have ${assets[*]})"
      version=$(version_of "$directory/$part") || true
      [ -n "$version" ] || fail "$directory/$part does not say its version"
      if [ "$part" != etcd ] && [ "${version%.*}" != "${kubernetes%.*}" ]; then
        fail "$directory/$part is of version $version, and the other parts are of ${kubernetes%.*}: give KUBEBUILDER_ASSETS of ${kubernetes%.*}, or unset it"
      fi
      from[$part]=$directory/$part
      told+=("$part $version")
    done
    echo "from $directory: $(IFS=,; sed 's/,/, /g' <<<"${told[*]}"); the other parts are ours, of $kubernetes"
  fi
  # A link that is right is left alone: a cluster that runs may be using it.
  for part in "${parts[@]}"; do
    [ "$(readlink "$programs/$part")" = "${from[$part]}" ] || ln -sfn "${from[$part]}" "$programs/$part"
  done
}

# What the tests of dashboards need of Prometheus and Grafana beside Debian's packages.
build_monitoring() {
  local stamp=$cache/monitoring.from from
  from=$(cat "$here"/monitoring/{go.mod,go.sum,main.go} | sha256sum)
  if [ -x "$programs/weft-monitoring" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$from" ]; then return; fi
  echo "building weft-monitoring (the first time two minutes of one core)"
  local go
  go=$(find_go)
  (
    cd "$here/monitoring"
    CGO_ENABLED=0 GOTOOLCHAIN=local GOWORK=off GOCACHE=$cache/go-build "$go" build -mod=readonly -trimpath -buildvcs=false \
      -ldflags="-s -w" -o "$programs/weft-monitoring" .
  )
  echo "$from" >"$stamp"
}

# The definitions lie in Gateway API's Go module.
fetch_gateway_api() {
  if grep -qs "bundle-version: $gateway_api_wanted" "$gateway_api"; then return; fi
  local go module
  go=$(find_go)
  module=$(cd / && GOTOOLCHAIN=local "$go" mod download -json "sigs.k8s.io/gateway-api@$gateway_api_wanted" | sed -n 's/.*"Dir": "\(.*\)",/\1/p')
  [ -n "$module" ] || fail "sigs.k8s.io/gateway-api@$gateway_api_wanted could not be fetched"
  for file in "$module"/config/crd/standard/*.yaml; do
    echo ---
    cat "$file"
  done >"$gateway_api.new"
  mv "$gateway_api.new" "$gateway_api"
}

# The first process of each pod, which holds its namespaces.
build_pause() {
  if [ "$images/pause.tar" -nt "$here/pause.c" ]; then return; fi
  local root=$scratch/pause
  mkdir "$root"
  cc -static -Os -s -o "$root/pause" "$here/pause.c"
  "$here/image.sh" "$images/pause.tar" registry.k8s.io/pause:3.10 "$root" entrypoint=/pause
}

# A shell with curl, h2load and openssl: what tests run in pods that are not ours.
build_toolbox() {
  if [ "$images/toolbox.tar" -nt "$here/build.sh" ]; then return; fi
  local root=$scratch/toolbox file
  mkdir -p "$root"/{bin,etc,tmp,var/run,www}
  chmod 1777 "$root/tmp"
  install /bin/busybox "$root/bin/busybox"
  /bin/busybox --install -s "$root/bin"
  for link in "$root"/bin/*; do if [ -L "$link" ]; then ln -sfn busybox "$link"; fi; done
  for file in /usr/bin/curl /usr/bin/h2load /usr/bin/openssl $(ldd /usr/bin/curl /usr/bin/h2load /usr/bin/openssl | grep -o '/[^ ):]*'); do
    mkdir -p "$root$(dirname "$file")"
    cp -L "$file" "$root$file"
  done
  echo 'nobody:x:65534:65534::/:/bin/sh' >"$root/etc/passwd"
  "$here/image.sh" "$images/toolbox.tar" weft.test/toolbox:1 "$root" entrypoint=/bin/sh
}

# Servers and clients that end as Kubernetes asks them to.
build_app() {
  if [ "$images/app.tar" -nt "$here/app/main.go" ] && [ "$images/app.tar" -nt "$here/app/go.sum" ]; then return; fi
  local root=$scratch/app go
  mkdir "$root"
  go=$(find_go)
  (
    cd "$here/app"
    CGO_ENABLED=0 GOTOOLCHAIN=local GOWORK=off GOCACHE=$cache/go-build "$go" build -mod=readonly -trimpath -buildvcs=false \
      -ldflags="-s -w" -o "$root/app" .
  )
  "$here/image.sh" "$images/app.tar" weft.test/app:1 "$root" entrypoint=/app
}

mkdir -p "$programs" "$images"
# What images are made from; nothing of it is left, whatever fails.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# Before anything is built: what is wrong with assets need not wait for that.
link_parts
build_kubernetes
build_monitoring
fetch_gateway_api
build_pause
build_toolbox
build_app
