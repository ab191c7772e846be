// Package certs reads the certificates of a TLS end from files, and reads them again when they change: a certificate that was renewed is shown to
// whoever connects next, and connections that stand go on.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farebeat/farebeat/fleet/keys"
)

// Files are what a TLS end reads. All are PEM.
type Files struct {
	Cert string // the certificate, and those between it and its authority
	Key  string // its private key; may be the same file
	// CAs are the authorities that sign the certificates of the other side; empty: no certificate is asked for (Server), or
	// those of the system are trusted (Client).
	CAs string
	// Required refuses, at a server, a client without a certificate of CAs. Without it such a client may still have a password.
	Required bool
}

// Live are certificates in force. It is safe for concurrent use.
type Live struct {
	files Files
	now   atomic.Pointer[content]

	mu    sync.Mutex // of a look at the files
	taken []stamp    // when they were read last, right or wrong
	seen  []stamp    // at the last look
	err   error      // why the files as they are now are not in force
}

// content is one content of the files. It is immutable.
type content struct {
	pair   *tls.Certificate
	pool   *x509.CertPool // nil without CAs
	server *tls.Config
}

// stamp tells one content of a file from another without reading it.
type stamp struct {
	modified time.Time
	size     int64
}

// maxFile bounds a PEM file, in bytes.
const maxFile = 1 << 20

// Open reads the files. The key must be keys.PrivateTLS.
func Open(f Files) (*Live, error) {
	l := &Live{files: f}
	l.taken, _ = l.look() // a file that is not there is told by read
	l.seen = l.taken
	c, err := f.read()
	if err != nil {
		return nil, err
	}
	l.now.Store(c)
	return l, nil
}

func (f Files) read() (*content, error) {
	pair, err := ReadPair(f.Cert, f.Key)
	if err != nil {
		return nil, err
	}
	c := &content{pair: pair}
	if f.CAs != "" {
		if c.pool, err = ReadAuthorities(f.CAs); err != nil {
			return nil, err
		}
	}
	c.server = &tls.Config{Certificates: []tls.Certificate{*pair}, MinVersion: tls.VersionTLS12}
	if c.pool != nil {
		c.server.ClientCAs, c.server.ClientAuth = c.pool, tls.VerifyClientCertIfGiven
		c.server.SessionTicketsDisabled = true // who comes back shows the certificate again
		if f.Required {
			c.server.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	return c, nil
}

// ReadPair reads a certificate and its key. The errors name the file.
func ReadPair(cert, key string) (*tls.Certificate, error) {
	certPEM, err := keys.ReadFile(cert, maxFile, sound)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	keyPEM, err := keys.ReadFile(key, maxFile, soundKey)
	if err != nil {
		return nil, fmt.Errorf("key of a certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", cert, key, err)
	}
	return &pair, nil
}

// ReadAuthorities reads the certificates of who may sign others. The errors name the file.
func ReadAuthorities(file string) (*x509.CertPool, error) {
	pem, err := keys.ReadFile(file, maxFile, sound)
	if err != nil {
		return nil, fmt.Errorf("authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("authorities: %s: has no certificate in PEM form", file)
	}
	return pool, nil
}

// sound refuses what cannot be a PEM file.
func sound(path string, info fs.FileInfo) error {
	switch {
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s: %w: want a regular file", path, fs.ErrInvalid)
	case info.Size() > maxFile:
		return fmt.Errorf("%s: has %d bytes, at most %d are read", path, info.Size(), maxFile)
	}
	return nil
}

func soundKey(path string, info fs.FileInfo) error {
	if err := sound(path, info); err != nil {
		return err
	}
	return keys.PrivateTLS(path, info)
}

// Server is a configuration for a server. It shows what is in force to each connection, with protocols as tls.Config.NextProtos.
func (l *Live) Server(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c := l.now.Load().server
			if len(protocols) > 0 {
				c = c.Clone()
				c.NextProtos = protocols
			}
			return c, nil
		},
	}
}

// Leaf is the certificate in force, which is not the caller's to change.
func (l *Live) Leaf() *x509.Certificate { return l.now.Load().pair.Leaf }

// Err says why the files as they are now are not in force; nil where they are.
func (l *Live) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Poll looks at the files once, and takes them if they changed and were the same at the look before: files that are being written are left
// alone. The error is that of files that are wrong or missing, or of a key that is not the certificate's, once each; what was in force stays.
func (l *Live) Poll() (changed bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, err := l.look()
	if err != nil {
		l.seen = nil
		return false, l.wrong(err)
	}
	before := l.seen
	l.seen = at
	if !slices.EqualFunc(at, before, stamp.equal) || slices.EqualFunc(at, l.taken, stamp.equal) {
		if slices.EqualFunc(at, l.taken, stamp.equal) && errors.Is(l.err, fs.ErrNotExist) {
			l.err = nil // it was away, and is as it was
		}
		return false, nil
	}
	c, err := l.files.read()
	if again, lookErr := l.look(); lookErr != nil || !slices.EqualFunc(at, again, stamp.equal) {
		return false, nil // they changed while they were read: the next look sees it
	}
	l.taken = at
	if err != nil {
		return false, l.wrong(err)
	}
	l.err = nil
	l.now.Store(c)
	return true, nil
}

// wrong keeps what is wrong, and returns it if it was not said before. The lock is held.
func (l *Live) wrong(err error) error {
	before := l.err
	l.err = err
	if before != nil && before.Error() == err.Error() {
		return nil
	}
	return fmt.Errorf("%w; the certificate stays as it was", err)
}

func (l *Live) look() ([]stamp, error) {
	var list []stamp
	for _, path := range []string{l.files.Cert, l.files.Key, l.files.CAs} {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		list = append(list, stamp{info.ModTime(), info.Size()})
	}
	return list, nil
}

func (s stamp) equal(o stamp) bool { return s.size == o.size && s.modified.Equal(o.modified) }

// Watch polls every interval until ctx ends. It logs what happens, with name for what the certificate is of.
func (l *Live) Watch(ctx context.Context, every time.Duration, name string, logger *slog.Logger) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		changed, err := l.Poll()
		switch {
		case err != nil:
			logger.Error("a certificate was not loaded", "of", name, "error", err)
		case changed:
			logger.Info("a new certificate is in force", "of", name, "file", l.files.Cert, "until", l.Leaf().NotAfter)
		}
	}
}

// Client is a configuration for a client, which reads its certificate anew at each connection: it may have been renewed meanwhile. Without Cert it
// has none.
func Client(f Files) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	var err error
	if f.CAs != "" {
		if c.RootCAs, err = ReadAuthorities(f.CAs); err != nil {
			return nil, err
		}
	}
	if f.Cert == "" {
		return c, nil
	}
	if _, err = ReadPair(f.Cert, f.Key); err != nil {
		return nil, err
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return ReadPair(f.Cert, f.Key) }
	return c, nil
}

// expiryShare and its bounds say when a certificate is about to expire: in the last sixth of its life, at most 30 days and at least one before its end. One of
// 90 days, as Let's Encrypt issues them, ought to be renewed after 60.
const (
	expiryShare = 6
	expiryMost  = 30 * 24 * time.Hour
	expiryLeast = 24 * time.Hour
)

// ExpiryNear returns when a certificate begins to be about to expire: the last sixth of its life, at most 30 days and at least a day.
func ExpiryNear(cert *x509.Certificate) time.Time {
	left := cert.NotAfter.Sub(cert.NotBefore) / expiryShare
	return cert.NotAfter.Add(-min(max(left, expiryLeast), expiryMost))
}

// Failure says what keeps a certificate from its work, now or soon: files that are wrong, or an end that is near. nil if nothing does.
func (l *Live) Failure(now time.Time) error {
	if err := l.Err(); err != nil {
		return err
	}
	leaf := l.Leaf()
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("the certificate in %s expired %s: nobody who checks it connects", l.files.Cert, leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.After(ExpiryNear(leaf)):
		return fmt.Errorf("the certificate in %s expires %s", l.files.Cert, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}
