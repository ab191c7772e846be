package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// CertificateInfo is a certificate that a TLS listener shows.
type CertificateInfo struct {
	Listener string
	Address  string    // where it really listens
	Subject  string    // of the leaf, as RFC 2253 writes it
	Names    []string  // subject alternative names: DNS names, then IP addresses, e-mail addresses and URIs
	NotAfter time.Time // it is not valid any more after that
}

// Certificates lists those of the TLS listeners, in the order of Options.Listeners. Of those that are chosen anew for each
// connection, by a callback of tls.Config, it has what Listener.Leaves says.
func (b *Broker) Certificates() []CertificateInfo {
	var list []CertificateInfo
	for _, l := range b.listeners {
		if l.leaves == nil {
			continue
		}
		for _, leaf := range l.leaves() {
			list = append(list, CertificateInfo{
				Listener: l.Name, Address: l.Address(), Subject: leaf.Subject.String(), Names: names(leaf), NotAfter: leaf.NotAfter,
			})
		}
	}
	return list
}

// leavesOf reads the certificates of a TLS configuration.
func leavesOf(c *tls.Config) ([]*x509.Certificate, error) {
	var leaves []*x509.Certificate
	for _, cert := range c.Certificates {
		leaf := cert.Leaf
		if leaf == nil {
			if len(cert.Certificate) == 0 {
				return nil, errors.New("a certificate without content")
			}
			var err error
			if leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
				return nil, fmt.Errorf("certificate: %w", err)
			}
		}
		leaves = append(leaves, leaf)
	}
	return leaves, nil
}

func names(leaf *x509.Certificate) []string {
	list := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		list = append(list, ip.String())
	}
	list = append(list, leaf.EmailAddresses...)
	for _, u := range leaf.URIs {
		list = append(list, u.String())
	}
	return list
}
