#!/usr/bin/env bash
# certificates.sh DIRECTORY: an authority, a certificate for each part of the cluster, and the kubeconfigs that hold them.
# They are made once and kept; nobody but the cluster's own network ever sees who holds them.
. "$(dirname "$0")/lib.sh"

directory=$1
mkdir -p "$directory"
cd "$directory"
if [ -f complete ]; then exit; fi

key() {
  openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
}

# certificate NAME SUBJECT [NAMES]
certificate() {
  key "$1"
  {
    echo 'keyUsage=critical,digitalSignature'
    echo 'extendedKeyUsage=serverAuth,clientAuth'
    if [ -n "${3:-}" ]; then echo "subjectAltName=$3"; fi
  } >"$1.extensions"
  openssl req -new -key "$1.key" -subj "$2" 2>/dev/null |
    openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile "$1.extensions" -out "$1.crt" 2>/dev/null
  rm "$1.extensions"
}

# kubeconfig NAME: for whoever has the certificate of that name
kubeconfig() {
  cat >"$1.conf" <<YAML
apiVersion: v1
kind: Config
clusters:
- name: test
  cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: $(base64 -w0 ca.crt)}
users:
- name: $1
  user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}
contexts:
- name: test
  context: {cluster: test, user: $1}
current-context: test
YAML
}

key ca
openssl req -x509 -new -key ca.key -subj /CN=test-cluster -days 3650 -out ca.crt \
  -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature 2>/dev/null
certificate apiserver /CN=kube-apiserver \
  "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:$node_ip,IP:$api_ip"
certificate admin /O=system:masters/CN=admin
certificate controllers /CN=system:kube-controller-manager
certificate scheduler /CN=system:kube-scheduler
certificate proxy /CN=system:kube-proxy
certificate kubelet "/O=system:nodes/CN=system:node:$node_name" "DNS:$node_name,IP:$node_ip,IP:127.0.0.1"
certificate aggregator /CN=front-proxy
key service-accounts
openssl ec -in service-accounts.key -pubout -out service-accounts.pub 2>/dev/null
for name in admin controllers scheduler proxy kubelet; do kubeconfig "$name"; done
touch complete
