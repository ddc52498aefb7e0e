# What the scripts of the test cluster share. Sourced, never run.
#
# WEFT_KUBERNETES     where everything built and everything running lies, outside of any checkout
# WEFT_CLUSTER        where this one cluster runs; another value makes another cluster
# KUBEBUILDER_ASSETS  a directory with etcd, kube-apiserver and kubectl, which are used in place of ours

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${WEFT_KUBERNETES:-${XDG_CACHE_HOME:-$HOME/.cache}/weft/kubernetes}
run=${WEFT_CLUSTER:-$cache/run}
programs=$cache/programs
images=$cache/images
# Gateway API's own definitions, of the pinned release.
gateway_api=$cache/gateway-api.yaml

# Addresses that exist nowhere but in the cluster's own network namespace.
node_name=node0
node_ip=10.88.0.1
service_cidr=10.96.0.0/16
api_ip=10.96.0.1
dns_ip=10.96.0.10
pod_cidr=10.244.0.0/24

fail() {
  echo "error: $*" >&2
  exit 1
}

# await SECONDS WHAT COMMAND...: until the command succeeds; fails naming WHAT when it never does.
await() {
  local tries=$(($1 * 20)) what=$2
  shift 2
  for ((; tries > 0; tries--)); do
    "$@" >/dev/null 2>&1 && return
    sleep 0.05
  done
  fail "$what did not come about in time"
}

# A Go that is new enough: the one that is installed, or the very one that the newest of our modules asks for, which is a module itself.
find_go() {
  local have go_wanted
  go_wanted=$(sed -n 's/^go //p' "$here/conformance/go.mod")
  have=$(go env GOVERSION 2>/dev/null | sed 's/^go//')
  if [ -n "$have" ] && [ "$(printf '%s\n' "$go_wanted" "$have" | sort -V | head -1)" = "$go_wanted" ]; then
    command -v go
    return
  fi
  local toolchain
  toolchain=golang.org/toolchain@v0.0.1-go$go_wanted.linux-$(dpkg --print-architecture)
  echo "Go $go_wanted or newer is needed, ${have:-none} is here; fetching $toolchain" >&2
  local root
  # Outside of any module, whose own rules would hold for the download.
  root=$(cd / && GOTOOLCHAIN=local GOFLAGS=-modcacherw go mod download -json "$toolchain" | sed -n 's/.*"Dir": "\(.*\)",/\1/p')
  [ -n "$root" ] || fail "no Go $go_wanted could be fetched"
  chmod -R u+w,+x "$root/bin" "$root/pkg/tool" >&2
  echo "$root/bin/go"
}
