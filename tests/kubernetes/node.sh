#!/usr/bin/env bash
# The first process of the cluster's namespaces: makes the machine look as a node does, starts every part, and says in
# $WEFT_CLUSTER/ready that pods can be made. Called by up.sh alone.
. "$(dirname "$0")/lib.sh"
PATH=$programs:/usr/sbin:/sbin:$PATH
logs=$run/log
pki=$cache/pki
export KUBECONFIG=$pki/admin.conf

# start NAME PROGRAM...: in the background, with its own log.
start() {
  local name=$1
  shift
  "$@" >"$logs/$name.log" 2>&1 &
}

isolate() {
  hostname "$node_name"
  mount --make-rprivate /
  mount -t proc proc /proc
  umount -l /sys
  mount -t sysfs sysfs /sys
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  # Mounted anew inside the cgroup namespace, each hierarchy has our own cgroup as its root.
  local controllers directory
  while read -r controllers directory; do
    directory=/sys/fs/cgroup/${controllers#name=}
    mkdir -p "$directory"
    case $controllers in
      unified) mount -t cgroup2 none "$directory" ;;
      *) mount -t cgroup -o "none,$controllers" none "$directory" 2>/dev/null || mount -t cgroup -o "$controllers" none "$directory" ;;
    esac
  done <"$run/cgroups"
  # The kubelet would set these for the whole machine: it is shown the values that it wants, and nothing is changed.
  local setting file
  mkdir -p "$run/sysctl"
  for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=$run/sysctl/$(tr / . <<<"${setting%=*}")
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
  done
  mkdir -p "$run"/var/{kubelet,log/pods,log/containers,etcd,containerd,cni} "$run"/cni/{bin,net.d} /var/lib/kubelet
  mount --bind "$run/var/kubelet" /var/lib/kubelet
  mount --bind "$run/var/log" /var/log
  mount -t tmpfs tmpfs /run
  mkdir -p /run/containerd /run/lock /run/netns
  # What the kubelet mounts must be seen by containers that ask for it.
  mount --make-rshared /
}

# The node's address must not be loopback's, and some programs want a default route, which leads nowhere here.
network() {
  ip link set lo up
  ip link add node0 type bridge
  ip addr add "$node_ip/24" dev node0
  ip link set node0 up
  ip route add default via "${node_ip%.*}.254" dev node0
  echo 1 >/proc/sys/net/ipv4/ip_forward
}

control_plane() {
  start etcd etcd --data-dir "$run/var/etcd" --listen-client-urls http://127.0.0.1:2379 --unsafe-no-fsync --logger zap \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
  # What Weft's own accounts ask for, so that a test can tell which of their rights they need.
  cat >"$run/audit.yaml" <<YAML
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: ["system:serviceaccount:weft-system:weft-control-plane", "system:serviceaccount:weft-system:weft-injector", "system:serviceaccount:weft-cni:weft-cni"]
- level: None
YAML
  start apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 --secure-port=6443 \
    --advertise-address="$node_ip" --service-cluster-ip-range="$service_cidr" --allow-privileged=true --event-ttl=1h \
    --audit-policy-file="$run/audit.yaml" --audit-log-path="$run/log/audit.log" --audit-log-maxsize=10000 --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --client-ca-file="$pki/ca.crt" --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
    --service-account-key-file="$pki/service-accounts.pub" --service-account-signing-key-file="$pki/service-accounts.key" \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --kubelet-client-certificate="$pki/admin.crt" --kubelet-client-key="$pki/admin.key" \
    --kubelet-preferred-address-types=InternalIP \
    --requestheader-client-ca-file="$pki/ca.crt" --requestheader-allowed-names=front-proxy \
    --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
    --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --proxy-client-cert-file="$pki/aggregator.crt" --proxy-client-key-file="$pki/aggregator.key"
}

# Debian's containerd on cgroups of version 1, without the right to lower its own OOM score.
runtime() {
  cat >"$run/containerd.toml" <<TOML
version = 2
root = "$run/var/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$run/cni/bin"
    conf_dir = "$run/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
TOML
  # Debian's plugins, in a directory that is the node's own.
  ln -s /usr/lib/cni/* "$run/cni/bin"
  cat >"$run/cni/net.d/10-test.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "test", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "$run/var/cni", "ranges": [[{"subnet": "$pod_cidr"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
  start containerd containerd -c "$run/containerd.toml"
  await 30 "containerd's socket" test -S /run/containerd/containerd.sock
  local image
  for image in "$images"/*.tar; do
    ctr -a /run/containerd/containerd.sock -n k8s.io images import "$image" >>"$logs/images.log" 2>&1 ||
      fail "$image cannot be imported (see $logs/images.log)"
  done
}

# The controllers that a cluster without volumes, load balancers and autoscaling of its own has use for: half of the start.
controllers() {
  local without="cronjob-controller persistentvolume-binder-controller persistentvolume-attach-detach-controller
    persistentvolume-expander-controller persistentvolumeclaim-protection-controller persistentvolume-protection-controller
    ephemeral-volume-controller service-lb-controller node-route-controller cloud-node-lifecycle-controller
    resourceclaim-controller replicationcontroller-controller resourcequota-controller ttl-controller
    storageversion-garbage-collector-controller service-cidr-controller bootstrap-signer-controller token-cleaner-controller
    legacy-serviceaccount-token-cleaner-controller volumeattributesclass-protection-controller"
  start controllers kube-controller-manager --kubeconfig="$pki/admin.conf" --authentication-kubeconfig="$pki/admin.conf" \
    --authorization-kubeconfig="$pki/admin.conf" --service-account-private-key-file="$pki/service-accounts.key" \
    --root-ca-file="$pki/ca.crt" --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
    --use-service-account-credentials=false --kube-api-qps=500 --kube-api-burst=1000 --leader-elect=false \
    --bind-address=127.0.0.1 --service-cluster-ip-range="$service_cidr" --controllers="*$(printf ',-%s' $without)"
  start scheduler kube-scheduler --kubeconfig="$pki/scheduler.conf" --authentication-kubeconfig="$pki/scheduler.conf" \
    --authorization-kubeconfig="$pki/scheduler.conf" --leader-elect=false --bind-address=127.0.0.1
}

kubelet_and_proxy() {
  : >"$run/resolv.conf"
  cat >"$run/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/kubelet.crt
tlsPrivateKeyFile: $pki/kubelet.key
cgroupDriver: cgroupfs
failSwapOn: false
clusterDNS: [$dns_ip]
clusterDomain: cluster.local
resolvConf: $run/resolv.conf
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
podLogsDir: /var/log/pods
enforceNodeAllocatable: [pods]
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
imageMinimumGCAge: 240h
volumeStatsAggPeriod: 0s
nodeStatusReportFrequency: 5m
serializeImagePulls: false
registryPullQPS: 0
syncFrequency: 10s
fileCheckFrequency: 0s
httpCheckFrequency: 0s
maxPods: 200
shutdownGracePeriod: 0s
YAML
  start kubelet kubelet --config="$run/kubelet.yaml" --kubeconfig="$pki/kubelet.conf" --hostname-override="$node_name" \
    --node-ip="$node_ip"
  # The settings of connection tracking belong to the machine.
  cat >"$run/kube-proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: $pki/proxy.conf}
clusterCIDR: $pod_cidr
hostnameOverride: $node_name
nodePortAddresses: [primary]
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nftables: {minSyncPeriod: 0s}
YAML
  start kube-proxy kube-proxy --config="$run/kube-proxy.yaml"
}

dns() {
  cat >"$run/Corefile" <<CONF
.:53 {
  bind $node_ip
  errors
  ready $node_ip:8181
  kubernetes cluster.local in-addr.arpa ip6.arpa {
    kubeconfig $pki/admin.conf test
    pods insecure
    ttl 5
  }
  cache 5
}
CONF
  start coredns coredns -conf "$run/Corefile"
  kubectl apply --validate=false -f - >"$logs/base.log" 2>&1 <<YAML
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec: {clusterIP: $dns_ip, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: ["$node_ip"], conditions: {ready: true}}]
YAML
}

node_is_ready() {
  kubectl get node "$node_name" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' | grep -q True &&
    kubectl -n default get serviceaccount default
}

isolate
network
"$here/certificates.sh" "$pki"
control_plane
# Importing images takes as long as the API server's start.
runtime &
importing=$!
await 60 "the API server" kubectl get --raw /readyz
controllers
dns
wait "$importing"
kubelet_and_proxy
await 60 "a ready node" node_is_ready
kubectl apply --server-side --validate=false -f "$gateway_api" >>"$logs/base.log" 2>&1
touch "$run/ready"
# The first process of a process namespace takes in every orphan.
set +e
while :; do
  wait
  sleep 1
done
