package enrol

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/farebeat/farebeat/fleet/durable"
	"github.com/farebeat/farebeat/fleet/keys"
	"github.com/farebeat/farebeat/schemas"
	"github.com/farebeat/farebeat/topics"
)

// How long certificates hold.
const (
	AuthorityYears  = 10
	DefaultValidity = 365 * 24 * time.Hour // of a device's, and of a server's
)

// ErrNoKey says that an authority has no private key here, so that it can check but not sign.
var ErrNoKey = errors.New("the authority's key is not here")

// CA is a certificate authority: ECDSA P-256, signed by itself. It is safe for concurrent use.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey // nil: it cannot sign
}

// maxCAFile bounds the files of an authority in bytes.
const maxCAFile = 64 << 10

// CreateCA makes an authority: its key at keyPath (mode 0600), and its certificate at certPath. Files that are there are never overwritten
// (fs.ErrExist), but for a key without its certificate, which a crash leaves: it is used.
func CreateCA(certPath, keyPath, operator string, now time.Time) (*CA, error) {
	if _, err := os.Lstat(certPath); err == nil {
		return nil, fmt.Errorf("make a certificate authority: %s: %w: it is never overwritten, since every device trusts it", certPath, fs.ErrExist)
	}
	key, err := loadCAKey(keyPath)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = createCAKey(keyPath)
	}
	if err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// The number tells two authorities of one operator apart.
		Subject:   pkix.Name{CommonName: fmt.Sprintf("Farebeat CA %x", serial.Bytes()[1:5]), Organization: []string{operator}},
		NotBefore: now.Add(-schemas.EnrolBackdate), NotAfter: now.AddDate(AuthorityYears, 0, 0),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	if err := durable.Create(certPath, certificatePEM(der), 0o644); err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	return LoadCA(certPath, keyPath)
}

func createCAKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	text, err := KeyPEM(key)
	if err != nil {
		return nil, err
	}
	return key, durable.Create(path, text, 0o600)
}

// LoadCA reads an authority. keyPath may be empty, for one that only checks. A key that others may read is refused with keys.ErrUnsafe; where
// there is no file, errors.Is(err, fs.ErrNotExist) holds.
func LoadCA(certPath, keyPath string) (*CA, error) {
	text, err := os.ReadFile(certPath)
	if err != nil {
		return nil, fmt.Errorf("read the certificate authority: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("read the certificate authority %s: it is no certificate in PEM form", certPath)
	}
	ca := &CA{}
	if ca.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fmt.Errorf("read the certificate authority %s: %w", certPath, err)
	}
	if !ca.cert.IsCA || !ca.cert.BasicConstraintsValid {
		return nil, fmt.Errorf("read the certificate authority %s: the certificate is not one of an authority", certPath)
	}
	if keyPath == "" {
		return ca, nil
	}
	if ca.key, err = loadCAKey(keyPath); err != nil {
		return nil, fmt.Errorf("read the key of the certificate authority: %w", err)
	}
	if !ca.key.PublicKey.Equal(ca.cert.PublicKey) {
		return nil, fmt.Errorf("read the key of the certificate authority: %s is not the key of %s", keyPath, certPath)
	}
	return ca, nil
}

func loadCAKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := keys.ReadSecret(path, maxCAFile)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s: it is no private key in PEM form", path)
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := any.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s: it is no ECDSA key", path) // the cause could show a part of it
	}
	return key, nil
}

// Certificate is the authority's own. It belongs to the CA.
func (c *CA) Certificate() *x509.Certificate { return c.cert }

// PEM is the authority's certificate as a file holds it.
func (c *CA) PEM() []byte { return certificatePEM(c.cert.Raw) }

// Pool holds the authority alone.
func (c *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.cert)
	return pool
}

// Fingerprint is the SHA-256 of the authority's certificate (DER): what devices are told to trust.
func (c *CA) Fingerprint() [sha256.Size]byte { return sha256.Sum256(c.cert.Raw) }

// CanSign reports whether the key is here.
func (c *CA) CanSign() bool { return c.key != nil }

// Signed reports whether a certificate, whose signature was checked before, is of this authority.
func (c *CA) Signed(cert *x509.Certificate) bool {
	return string(cert.RawIssuer) == string(c.cert.RawSubject) && string(cert.AuthorityKeyId) == string(c.cert.SubjectKeyId)
}

// IssueClient signs a certificate for an identity, good for validity from now on, but not longer than the authority.
func (c *CA) IssueClient(pub crypto.PublicKey, tree topics.Tree, id topics.Identity, now time.Time, validity time.Duration) (*x509.Certificate, error) {
	uri, err := tree.CertificateURI(id)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		// The URI is the identity; this is for people. RFC 5280 allows 64 characters.
		Subject: pkix.Name{CommonName: firstRunes(string(id.Role)+" "+id.Name, 64)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	template.URIs = append(template.URIs, uri)
	cert, err := c.issue(template, pub, now, validity)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s %s: %w", id.Role, id.Name, err)
	}
	return cert, nil
}

// IssueServer signs a certificate for a server, under host names and IP addresses.
func (c *CA) IssueServer(pub crypto.PublicKey, hosts []string, now time.Time, validity time.Duration) (*x509.Certificate, error) {
	if len(hosts) == 0 {
		return nil, errors.New("sign a certificate for a server: it has no name: give the host names and IP addresses that devices reach it by")
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: firstRunes(hosts[0], 64)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if err := CheckHost(host); err != nil {
			return nil, fmt.Errorf("sign a certificate for a server: %w", err)
		}
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	cert, err := c.issue(template, pub, now, validity)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for server %s: %w", hosts[0], err)
	}
	return cert, nil
}

// CheckHost wants a host name or an IP address as a certificate carries it.
func CheckHost(host string) error {
	if _, err := netip.ParseAddr(host); err == nil && !strings.Contains(host, "%") {
		return nil
	}
	labels := strings.Split(strings.TrimPrefix(host, "*."), ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || strings.Trim(l, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			return fmt.Errorf("host %.80q: want a host name such as fleet.example, or an IP address", host)
		}
	}
	if len(host) > 253 {
		return fmt.Errorf("host %.80q...: longer than 253 characters", host)
	}
	return nil
}

func (c *CA) issue(template *x509.Certificate, pub crypto.PublicKey, now time.Time, validity time.Duration) (*x509.Certificate, error) {
	if c.key == nil {
		return nil, ErrNoKey
	}
	if !now.Before(c.cert.NotAfter) {
		return nil, fmt.Errorf("the authority's own certificate expired at %s", c.cert.NotAfter.Format(time.RFC3339))
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	// Whole seconds, as a certificate has them: what is kept is what it says.
	now = now.UTC().Truncate(time.Second)
	template.SerialNumber, template.NotBefore, template.NotAfter = serial, now.Add(-schemas.EnrolBackdate), now.Add(validity)
	if template.NotAfter.After(c.cert.NotAfter) {
		template.NotAfter = c.cert.NotAfter
	}
	template.KeyUsage, template.BasicConstraintsValid = x509.KeyUsageDigitalSignature, true
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, pub, c.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// newSerial is 128 random bits behind a first byte that is never 0, so that all are written with the same length.
func newSerial() (*big.Int, error) {
	b := make([]byte, 17)
	if _, err := rand.Read(b[1:]); err != nil {
		return nil, err
	}
	b[0] = 1
	return new(big.Int).SetBytes(b), nil
}

// Serial is how a certificate's serial number is written: hex.
func Serial(cert *x509.Certificate) string { return hex.EncodeToString(cert.SerialNumber.Bytes()) }

func firstRunes(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n])
	}
	return s
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// KeyPEM is a private key as a file holds it.
func KeyPEM(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ServerFile makes a key and a certificate for a server, and gives both with the authority's certificate as one PEM file, so that they take the
// place of others at once. It names both the certificate and the key of a listener.
func (c *CA) ServerFile(hosts []string, now time.Time, validity time.Duration) ([]byte, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	cert, err := c.IssueServer(key.Public(), hosts, now, validity)
	if err != nil {
		return nil, nil, err
	}
	text, err := KeyPEM(key)
	if err != nil {
		return nil, nil, err
	}
	// The authority goes with it: a device that joins knows only its fingerprint.
	return append(append(certificatePEM(cert.Raw), c.PEM()...), text...), cert, nil
}
