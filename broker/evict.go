package broker

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// usersChanged ends the connections of users who are gone or are not what they were when they connected. The session of
// an owner whose password alone changed is kept; of others it ends, too, be the client here or away. old is what was
// in force before.
func (b *Broker) usersChanged(old *userTable) {
	ended := b.endFallen()
	forgotten := b.forgetOwners(old)
	b.o.Logger.Info("the users changed", "connections_ended", ended, "sessions_of_absent_clients_dropped", forgotten)
}

// CertificatesChanged asks Options.Void of all who are connected by a certificate, and ends the connections of those whose is void now. What waits for
// the identity is kept: it is for the unit that takes its place.
func (b *Broker) CertificatesChanged() {
	if ended := b.endFallen(); ended > 0 {
		b.o.Logger.Warn("certificates were revoked", "connections_ended", ended)
	}
}

// endFallen ends all connections that do not stand, and returns their number.
func (b *Broker) endFallen() int {
	var parting sync.WaitGroup
	ended := 0
	for _, c := range b.conns.established() {
		if cause := b.fallen(c); cause != "" {
			ended++
			parting.Go(func() {
				c.revoke(cause)
				select {
				case <-c.done:
				case <-time.After(partingTime): // its will may wait for a disk that fails; ended sees to its session
				}
			})
		}
	}
	parting.Wait()
	return ended
}

// fallen says why a client may not stay: its certificate is void, or its user is not what it was when it connected. "" if it may.
func (b *Broker) fallen(c *conn) string {
	if c.cert != nil && b.void(c.cert) != nil {
		return "its certificate was revoked"
	}
	if c.user == nil {
		return ""
	}
	if now, ok := b.user(c.user.Name); !ok || !c.user.same(now) {
		return "its user was removed or changed"
	}
	return ""
}

func (c *conn) revoke(cause string) {
	c.sendAway(c.client, packets.ErrAdministrativeAction, cause)
}

// mayReturn reports whether the owner of a connection's session may come back for it.
func (b *Broker) mayReturn(c *conn) bool {
	if c.user == nil {
		return true
	}
	grants, ok := b.o.Users.table.Load().owners[owner(byUser, c.identity)]
	return ok && slices.Equal(grants, c.identity.Grants)
}

// forgetOwners drops what is kept for absent clients whose owner was there in the old table and is gone now, or is granted
// something else.
func (b *Broker) forgetOwners(old *userTable) int {
	now, n := b.o.Users.table.Load(), 0
	b.hook.sessions.Range(func(id, value any) bool {
		prefix := ownerOf(id.(string))
		before, was := old.owners[prefix]
		if grants, is := now.owners[prefix]; !was || is && slices.Equal(before, grants) {
			return true
		}
		b.hook.attach.Lock()
		defer b.hook.attach.Unlock()
		if s := value.(*session); s.owned() == nil {
			b.hook.drop(s)
			n++
		}
		return true
	})
	return n
}

// drop forgets a session whose client is away, its subscriptions included. The lock attach is held.
func (h *hook) drop(s *session) {
	h.forget(s)
	if cl, ok := h.b.server.Clients.Get(s.id); ok {
		h.b.server.UnsubscribeClient(cl)
		h.b.server.Clients.Delete(s.id)
	}
}

// mayResume checks the subscriptions of a session that is kept: what its owner may read can have changed since, also while the
// broker was off. The client that had it is gone.
func (h *hook) mayResume(s *session, cl *mqtt.Client, c *conn) error {
	kept, ok := h.b.server.Clients.Get(s.id)
	if !ok || kept == cl {
		return nil
	}
	for filter := range kept.State.Subscriptions.GetAll() {
		if err := h.b.o.Tree.MayRead(c.identity, filter); err != nil {
			return fmt.Errorf("client %q begins a new session: %w", cl.ID, err)
		}
	}
	return nil
}

// ownerOf is the part of a session's id that says whose it is.
func ownerOf(session string) string {
	end := 0
	for range 3 {
		i := strings.IndexByte(session[end:], '/')
		if i < 0 {
			return session
		}
		end += i + 1
	}
	return session[:end]
}
