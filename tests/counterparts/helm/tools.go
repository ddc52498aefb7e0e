//go:build tools

// Package tools names the program that is built from its own module: Helm, by `go build helm.sh/helm/v3/cmd/helm`.
package tools

import _ "helm.sh/helm/v3/cmd/helm"
