package enrol

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/farebeat/farebeat/schemas"
)

// Refused is what the fleet says where it gives no certificate.
type Refused struct {
	Status int // of HTTP
	schemas.EnrolRefusal
}

// Error implements error.
func (r *Refused) Error() string { return "the fleet refuses: " + r.Text }

// Passing reports whether asking again later may help.
func (r *Refused) Passing() bool {
	return r.Status == http.StatusTooManyRequests || r.Status >= 500 || r.Status == http.StatusConflict
}

// ErrAuthority says that a server is not of the authority whose fingerprint the device was given. Nothing was told to it.
var ErrAuthority = errors.New("the server is not of the authority with this fingerprint; nothing was sent to it")

// askPatience bounds one request.
const askPatience = 30 * time.Second

// ask posts a request and reads the answer.
func ask(ctx context.Context, address, path string, config *tls.Config, m schemas.EnrolRequest) (answer schemas.EnrolAnswer, err error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	body, err := schemas.Encode(&m)
	if err != nil {
		return answer, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+address+path, bytes.NewReader(body))
	if err != nil {
		return answer, err
	}
	req.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return answer, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, schemas.MaxEnrolMessage+1))
	if err != nil {
		return answer, fmt.Errorf("read the answer of %s: %w", address, err)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		refused := &Refused{Status: resp.StatusCode}
		if err := schemas.DecodeEnrol(text, schemas.NameEnrolRefusal, &refused.EnrolRefusal); err != nil {
			return answer, fmt.Errorf("%s answers %s, and is no fleet's address for enrolment", address, resp.Status)
		}
		return answer, refused
	}
	err = schemas.DecodeEnrol(text, schemas.NameEnrolAnswer, &answer)
	return answer, err
}

// pinned is the TLS configuration of a device that knows its authority by the fingerprint only. The authority's certificate, which the server has
// to send along, is left in found.
func pinned(address string, authority [sha256.Size]byte, found **x509.Certificate, now func() time.Time) *tls.Config {
	host, _, _ := net.SplitHostPort(address) // was checked; the connection does not say it where it is an IP address
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Time: now,
		InsecureSkipVerify: true, // VerifyConnection does it, with the one authority that is trusted
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return ErrAuthority
			}
			for _, c := range s.PeerCertificates[1:] {
				if sha256.Sum256(c.Raw) != authority {
					continue
				}
				pool := x509.NewCertPool()
				pool.AddCert(c)
				_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{
					Roots: pool, DNSName: host, CurrentTime: now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
				})
				if err != nil {
					return clockHint(err, now())
				}
				*found = c
				return nil
			}
			return ErrAuthority
		},
	}
}

// clockHint says where a device's clock stands if that is what may be wrong.
func clockHint(err error, now time.Time) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return fmt.Errorf("%w; the clock of this device says %s: is that right?", err, now.UTC().Format(time.RFC3339))
	}
	return err
}

// certificateOf takes the certificate out of an answer: it must be for our key, and of the authority.
func certificateOf(a schemas.EnrolAnswer, key *ecdsa.PrivateKey, authority *x509.CertPool, now time.Time) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(a.Certificate))
	if block == nil {
		return nil, errors.New("the answer has no certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the certificate in the answer: %w", err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("the certificate in the answer is for another key")
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: authority, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return nil, fmt.Errorf("the certificate in the answer: %w", clockHint(err, now))
	}
	return cert, nil
}
