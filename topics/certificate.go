package topics

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// certificateScheme and certificateVersion begin the name of an identity in a certificate.
const (
	certificateScheme  = "farebeat"
	certificateVersion = "v1"
)

// ErrNoIdentity says that a certificate names no identity of Farebeat's: another authority made it, or for something else.
var ErrNoIdentity = errors.New("the certificate has no subject alternative name of the form farebeat:v1/{operator}/{role}/{name}")

// CertificateURI is the subject alternative name (a URI, RFC 5280, 4.2.1.6) of an identity in this tree:
// farebeat:v1/{operator}/{role}/{name}, each level percent-encoded as in a topic. Grants are not in it.
func (t Tree) CertificateURI(id Identity) (*url.URL, error) {
	if !slices.Contains(Roles(), id.Role) {
		return nil, fmt.Errorf("name for a certificate: role %q: want one of %v", id.Role, Roles())
	}
	operator, err := encodeID("operator", t.operator)
	if err != nil {
		return nil, fmt.Errorf("name for a certificate: %w", err)
	}
	name, err := encodeID("name", id.Name)
	if err != nil {
		return nil, fmt.Errorf("name for a certificate: %w", err)
	}
	return &url.URL{Scheme: certificateScheme, Opaque: strings.Join([]string{certificateVersion, operator, string(id.Role), name}, "/")}, nil
}

// CertificateIdentity is who a certificate names in this tree. Whether it was signed by whom it should, and holds, was checked before. The
// error is ErrNoIdentity if it names nobody of Farebeat's; one of another operator, or two, are errors, too.
func (t Tree) CertificateIdentity(cert *x509.Certificate) (Identity, error) {
	var found *url.URL
	for _, u := range cert.URIs {
		if u.Scheme != certificateScheme {
			continue
		}
		if found != nil {
			return Identity{}, fmt.Errorf("the certificate names two identities, %s and %s", found, u)
		}
		found = u
	}
	if found == nil {
		return Identity{}, ErrNoIdentity
	}
	levels := strings.Split(strings.TrimPrefix(found.String(), certificateScheme+":"), "/")
	if len(levels) != 4 || levels[0] != certificateVersion {
		return Identity{}, fmt.Errorf("name %q in the certificate: want %s:%s/{operator}/{role}/{name}", found, certificateScheme, certificateVersion)
	}
	operator, err := decodeID("operator", levels[1])
	if err != nil {
		return Identity{}, fmt.Errorf("name %q in the certificate: %w", found, err)
	}
	if operator != t.operator {
		return Identity{}, fmt.Errorf("name %q in the certificate: is of operator %q, and this is %q", found, operator, t.operator)
	}
	id := Identity{Role: Role(levels[2])}
	if !slices.Contains(Roles(), id.Role) {
		return Identity{}, fmt.Errorf("name %q in the certificate: role %q: want one of %v", found, id.Role, Roles())
	}
	if id.Name, err = decodeID("name", levels[3]); err != nil {
		return Identity{}, fmt.Errorf("name %q in the certificate: %w", found, err)
	}
	return id, nil
}
