package enrol_test

import (
	"crypto/x509"
	"math"
	"net"
	"sync/atomic"
	"testing"

	"github.com/farebeat/farebeat/fleet/limit/limittest"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// TestSilentConnectionsOfOneAddressLeaveRoom: of a stranger who opens many connections and says nothing some are closed at once, and whoever comes from
// elsewhere is answered.
func TestSilentConnectionsOfOneAddressLeaveRoom(t *testing.T) {
	r := newRig(t)
	config, err := r.registry.TLS([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var strangers atomic.Int64 // connections that are the stranger's
	strangers.Store(math.MaxInt64)
	ended := make(chan error, 1)
	go func() {
		ended <- r.registry.Serve(t.Context(), limittest.Elsewhere(inner, func(n int) string {
			if int64(n) < strangers.Load() {
				return "192.0.2.1"
			}
			return "192.0.2.2"
		}), config)
	}()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	refused := func() uint64 { return r.registry.Stats().Refused()["address_connections"] }
	opened := 0
	for ; refused() < 400 && opened < 10_000; opened++ { // a handshake that does not come is waited for for five seconds
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if refused() < 400 {
		t.Fatalf("%d of %d connections closed", refused(), opened)
	}
	strangers.Store(int64(opened))
	r.address = inner.Addr().String()
	code := r.code(topics.RoleGateway, "1216", false)
	answer, reason := r.ask(schemas.EnrolJoinPath, schemas.EnrolRequest{CSR: newDevice(t).csr(t, x509.CertificateRequest{}), Code: code}, nil)
	if answer.Status != schemas.EnrolIssued {
		t.Errorf("from elsewhere: %+v, %s", answer, reason)
	}
}
