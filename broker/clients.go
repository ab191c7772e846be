package broker

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/farebeat/farebeat/topics"
)

// ClientInfo is one client that is connected now.
type ClientInfo struct {
	ID        string      // as the client says it; each owner has ids of its own
	Role      topics.Role // who it was authenticated as
	Name      string      // machine or vehicle id for those roles, else the user's name; "anonymous"
	User      string      // its name in the users file; empty for anonymous readers and in process
	Listener  string      // where it came in; "in-process" for Dial
	Remote    string      // host:port; empty in process
	InProcess bool        // a part of this program
	ReadOnly  bool        // it came in where nobody publishes
	Protocol  byte        // version of MQTT: 3 for 3.1, 4 for 3.1.1, 5
	Since     time.Time   // when it connected

	Subscriptions  int
	In             uint64 // messages that it published and might, since it connected
	Out            uint64 // messages written to it, repetitions counted
	Waiting        int    // messages that are not written yet; many where it reads slowly
	WaitingBytes   int    // of their payloads
	Unacknowledged int    // QoS-1 messages that it has not acknowledged
	Dropped        uint64 // messages that it was not given: it reads too slowly, or takes none of that size
}

// Clients lists who is connected now, by id, then role and name; at most as many as Options.MaxClients and 1,024 in process or on their way out.
// The caller owns the list, and shows a part of it.
func (b *Broker) Clients() []ClientInfo {
	open := b.conns.established()
	list := make([]ClientInfo, 0, len(open))
	for _, c := range open {
		list = append(list, c.info())
	}
	slices.SortFunc(list, func(a, b ClientInfo) int {
		return cmp.Or(strings.Compare(a.ID, b.ID), strings.Compare(string(a.Role), string(b.Role)), strings.Compare(a.Name, b.Name), a.Since.Compare(b.Since))
	})
	return list
}

// info describes a connection that is established.
func (c *conn) info() ClientInfo {
	cl := c.client
	i := ClientInfo{
		ID: strings.TrimPrefix(cl.ID, ownerOf(cl.ID)), Role: c.identity.Role, Name: c.identity.Name,
		Listener: inProcess, InProcess: c.known != nil, ReadOnly: c.readOnly(), Protocol: cl.Properties.ProtocolVersion, Since: time.Unix(0, c.since.Load()),
		Subscriptions: cl.State.Subscriptions.Len(), In: c.in.Load(), Out: c.out.Load(), Dropped: c.dropped.Load(),
	}
	if c.user != nil {
		i.User = c.user.Name
	}
	if c.listener != nil {
		i.Listener, i.Remote = c.listener.Name, cl.Net.Remote
	}
	i.Waiting, i.WaitingBytes, i.Unacknowledged = c.session.waiting()
	return i
}

// waiting is what a session holds for its client.
func (s *session) waiting() (messages, bytes, unacked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue), s.bytes, len(s.unacked)
}

// established lists the connections of clients that were admitted and are still here.
func (s *conns) established() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*conn, 0, len(s.open))
	for c := range s.open {
		if c.since.Load() == 0 {
			continue
		}
		select {
		case <-c.gone:
		default:
			list = append(list, c)
		}
	}
	return list
}
