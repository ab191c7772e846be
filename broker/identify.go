package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/farebeat/farebeat/topics"
)

// identify says who a client is: by its certificate if it showed one, else by its password.
func (h *hook) identify(c *conn, pk packets.Packet) (topics.Identity, error) {
	if c.known != nil {
		c.how = byDial
		return *c.known, nil
	}
	name := string(pk.Connect.Username)
	if cert := c.certificate(); cert != nil {
		return h.byCertificate(c, cert, name)
	}
	if name == "" {
		if c.listener.AnonymousReaders {
			c.how = byNobody
			return topics.Identity{Role: topics.RoleViewer, Name: "anonymous"}, nil
		}
		return topics.Identity{}, errors.New("a user name or a certificate is required")
	}
	if h.b.o.Users == nil {
		return topics.Identity{}, errors.New("there is no users file")
	}
	user, err := h.b.o.Users.table.Load().check(name, pk.Connect.Password)
	if err != nil {
		return topics.Identity{}, err
	}
	c.how, c.user = byUser, &user
	return user.identity(), nil
}

// byCertificate is whom a verified certificate names: an identity of the tree, or a user by its common name. A user name in CONNECT must be the
// same; its password is not looked at.
func (h *hook) byCertificate(c *conn, cert *x509.Certificate, name string) (topics.Identity, error) {
	if err := h.b.void(cert); err != nil {
		return topics.Identity{}, err
	}
	id, err := h.b.o.Tree.CertificateIdentity(cert)
	switch {
	case err == nil:
		c.how = byCertificate
		if user, ok := h.b.user(id.Name); ok && user.Role == id.Role && user.Role == topics.RoleThirdParty {
			c.user, id.Grants = &user, user.Grants // a certificate outlives what is granted, so grants are not in it
		}
	case errors.Is(err, topics.ErrNoIdentity):
		user, ok := h.b.user(cert.Subject.CommonName)
		if !ok {
			return topics.Identity{}, fmt.Errorf("%w, and no user has the name %q of its subject", err, cert.Subject.CommonName)
		}
		c.how, c.user, id = byUser, &user, user.identity()
	default:
		return topics.Identity{}, err
	}
	c.cert = cert
	if name != "" && name != id.Name && (c.user == nil || name != c.user.Name) {
		return topics.Identity{}, fmt.Errorf("the certificate is of %s %q, and the user name is another's: leave it out", id.Role, id.Name)
	}
	return id, nil
}

// certificate is what the client showed and the listener verified, nil for none. The handshake is over: a packet came.
func (c *conn) certificate() *x509.Certificate {
	t, ok := c.raw.(*tls.Conn)
	if !ok {
		return nil
	}
	state := t.ConnectionState()
	if len(state.VerifiedChains) == 0 {
		return nil
	}
	return state.PeerCertificates[0]
}

// user is a user in force.
func (b *Broker) user(name string) (User, bool) {
	if b.o.Users == nil {
		return User{}, false
	}
	u, ok := b.o.Users.table.Load().byName[name]
	return u, ok
}

// void says why a certificate is good no more.
func (b *Broker) void(cert *x509.Certificate) error {
	if b.o.Void == nil {
		return nil
	}
	return b.o.Void(cert)
}
