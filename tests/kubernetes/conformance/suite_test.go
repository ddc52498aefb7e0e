// The official conformance suite of Gateway API, as a program: its tests are compiled here and run in the cluster's network.
package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) {
	conformance.RunConformance(t)
}
