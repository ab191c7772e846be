package enrol

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/farebeat/farebeat/fleet/limit"
	"github.com/farebeat/farebeat/schemas"
)

// How many devices may be connected at once, and how many of them from one address: each is there for a moment, and a depot's come through one.
const (
	maxConnections = 512
	maxOfAddress   = 64
)

// serverValidity is for how long the certificate of the server holds, which is made at its start and again in time.
const serverValidity = 90 * 24 * time.Hour

// serverCert is the certificate that devices are shown, made anew before it is over.
type serverCert struct {
	ca    *CA
	hosts []string
	now   func() time.Time

	mu   sync.Mutex
	cert *tls.Certificate
}

func (s *serverCert) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.cert != nil && now.Before(schemas.RenewFrom(s.cert.Leaf.NotBefore, s.cert.Leaf.NotAfter)) {
		return s.cert, nil
	}
	text, leaf, err := s.ca.ServerFile(s.hosts, now, serverValidity)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(text, text)
	if err != nil {
		return nil, err
	}
	cert.Leaf = leaf
	s.cert = &cert
	return s.cert, nil
}

// TLS is how the registry is served under host names and IP addresses: with a certificate of the authority, and to devices that have one, too.
// The error is that of the first certificate.
func (r *Registry) TLS(hosts []string) (*tls.Config, error) {
	cert := &serverCert{ca: r.o.CA, hosts: hosts, now: r.o.Now}
	if _, err := cert.get(nil); err != nil {
		return nil, err
	}
	return &tls.Config{
		GetCertificate: cert.get, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: r.o.CA.Pool(), MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"}, Time: r.o.Now,
	}, nil
}

// Serve answers devices on a listener, which it closes, until ctx ends. config is that of TLS.
func (r *Registry) Serve(ctx context.Context, listener net.Listener, config *tls.Config) error {
	server := &http.Server{
		Handler: r.Handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 15 * time.Second, IdleTimeout: 15 * time.Second,
		MaxHeaderBytes: 8 << 10, ErrorLog: log.New(handshakes{r}, "", 0),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	bounds := limit.Connections{All: maxConnections, PerAddress: maxOfAddress, Refused: r.tooManyOf}
	err := server.Serve(tls.NewListener(bounds.Bound(listener), config))
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve enrolment: %w", err)
	}
	return nil
}

// tooManyOf counts a connection that was closed at once.
func (r *Registry) tooManyOf(address string) {
	const reason = "address_connections"
	r.stats.refuse(reason)
	if r.log.Due(address+"\x00"+reason, r.o.Now()) {
		r.o.Logger.Warn("a connection for enrolment was closed: its address has too many", "remote", address, "most", maxOfAddress)
	}
}

// handshakes counts what net/http says of connections that came to nothing: a device's affair. A panic is ours, and is told each time.
type handshakes struct{ r *Registry }

// Write implements io.Writer.
func (h handshakes) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("http: panic serving")) {
		h.r.stats.refuse("panic")
		h.r.o.Logger.Error("a request of a device could not be answered; report this", "text", string(p))
		return len(p), nil
	}
	h.r.stats.refuse("handshake")
	if h.r.log.Due("handshake", h.r.o.Now()) {
		h.r.o.Logger.Warn("a connection for enrolment came to nothing; one a minute is told", "text", string(p))
	}
	return len(p), nil
}
